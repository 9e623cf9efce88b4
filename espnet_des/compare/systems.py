"""What is compared: supernets, and what else gives models of the same sizes.

Every system is the recipe's training config with another encoder or other settings of
the method; data, optimizer, schedule and number of updates are the same.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy

from espnet_des.method.methods import OF_THE_PAPER
from espnet_des.method.options import SelectionOptions
from espnet_des.method.sizes import KEYS_OF_SIZES
from espnet_des.nn.encoders import SUPERNETS, stock_name
from espnet_des.nn.front_end import is_own

Config = dict
# Keys of a config that are the recipe's, not ESPnet's. In place of a training config of its
# own: options of stage 11.
SHRINK = "of a trained model"
# Options that make other tokens than the recipe's own.
OTHER_TOKENS = "tokens of the recipe"
# Supernets of both methods, with the config's own settings.
STK, IZO = OF_THE_PAPER
# Of the encoder: all sizes share their weights, as published.
SHARED = {"own_weights": False}


class System(NamedTuple):
    """One training.

    Attributes:
        name: of its folder.
        title: what readers see.
        config: makes the training config, of the base config, the seed, and what the
            system that it needs kept (size to layers; None without one).
        sizes: which it gives; a size is a number of layers.
        needs: system whose kept layers it is made of.
        begins_with: system whose trained model it begins with, or learns from.
        group: systems of one group, each of other sizes, make one row of a table.
        against: of an ablation, the system with the defaults.
        plan: that it is trained in, which is the name's first part.
    """

    name: str
    title: str
    config: Callable[..., Config]
    sizes: Sequence[int]
    needs: str | None = None
    begins_with: str | None = None
    group: str | None = None
    against: str | None = None
    plan: str = "compare"


def variant(
    system: System, ending: str, title: str, change: Callable[[Config], Config]
) -> System:
    """A system of the comparison whose base config is changed first.

    Args:
        system: which.
        ending: of its name, and of its group's.
        title: what readers see.
        change: makes another base config.
    """
    return system._replace(
        name=system.name + ending, title=title, group=system.group and system.group + ending,
        config=lambda b, s, k: system.config(change(b), s, k),
    )  # fmt: skip


def has_own_weights(base: Config) -> bool:
    """Whether the smaller sizes of its supernet own weights."""
    default = inspect.signature(SUPERNETS[base["encoder"]]).parameters["own_weights"].default
    return base["encoder_conf"].get("own_weights", default)


def supernet(base: Config, encoder_conf: dict | None = None, **model_conf) -> Config:
    """The base config with other settings of the method."""
    config = copy.deepcopy(base)
    config["model_conf"].update(model_conf)
    config["encoder_conf"].update(encoder_conf or {})
    if model_conf.get("method", "simple_top_k") != "simple_top_k":
        for key in {"hard_gates", "averaged_iterations", "reduction"} - model_conf.keys():
            config["model_conf"].pop(key, None)  # Simple-Top-k's own
    return config


def published(base: Config, method: str) -> Config:
    """A method with the authors' settings, also of the encoder where it has such."""
    norm = {"conv_norm": "layer_norm"} if base["encoder"] == "des_conformer" else {}
    return supernet(
        base, norm | SHARED, method=method, preset="published", stochastic_depth_p2=0.3
    )


def single(base: Config, **encoder_conf) -> Config:
    """The supernet's encoder, or some of its layers, trained by itself."""
    config = copy.deepcopy(base)
    own = SelectionOptions.keys()
    config["encoder"], config["model"] = f"{config['encoder']}_subnet", "espnet"
    config["encoder_conf"] = {
        k: v for k, v in config["encoder_conf"].items() if k not in KEYS_OF_SIZES
    } | encoder_conf
    config["model_conf"] = {k: v for k, v in config["model_conf"].items() if k not in own}
    return config


def whole_blocks(base: Config, size: int) -> Config:
    """An encoder of so many layers by itself: ESPnet's own, where that has all its settings."""
    config = single(base, num_blocks=size // layers_per_block(base))
    conf = config["encoder_conf"]
    own = SUPERNETS[base["encoder"]].block_type.own_keys
    if not is_own(conf) and all(conf.get(key, value) == value for key, value in own.items()):
        config["encoder"] = stock_name(config["encoder"])
        config["encoder_conf"] = {k: v for k, v in conf.items() if k not in own}
    return config


def aux_loss(base: Config) -> Config:
    """Early exits: the full encoder with CTC losses after as many blocks as smaller sizes have.

    ESPnet's loss is (1 - w) * last + w * mean(exits): with this w it is that of
    the sizes, 1 * full + .3 * small + .3 * middle, times a constant that AdamW does not see.
    """
    blocks = [size // layers_per_block(base) for size in base["encoder_conf"]["sizes"][:-1]]
    config = single(base, interctc_layer_idx=blocks)
    exits = 0.3 * len(blocks)
    config["model_conf"]["interctc_weight"] = exits / (1.0 + exits)
    return config


def own_exits(base: Config) -> Config:
    """Early exits with an output layer each: every size is the first layers, from the start.

    [DEVIATION] A size also passes the final norms of the blocks behind it, as in every supernet.
    """
    sizes = base["encoder_conf"]["sizes"]
    return supernet(
        base, SHARED, method="fixed", ranking=list(range(sizes[-1])), updates_per_iteration=1,
        reduction=sizes[-1] - sizes[0], stochastic_depth_p2=0.0, exit_weight=0.0,
        distillation_weight=0.0,
    )  # fmt: skip


def layer_drop(base: Config, rate: float = 0.2) -> Config:
    """LayerDrop: whole blocks are dropped at random, of which any part is to stand alone later.

    Source: Fan, Grave and Joulin, "Reducing Transformer Depth on Demand with Structured
    Dropout", ICLR 2020, with its rate. What is left of a model is given BatchNorm statistics
    of its own before it is decoded.
    """
    return single(base, block_drop_rate=rate)


def layers_per_block(base: Config) -> int:
    return base["encoder_conf"]["sizes"][-1] // base["encoder_conf"]["num_blocks"]


def random_ranking(num_layers: int, seed: int) -> list[int]:
    return numpy.random.default_rng([seed, num_layers]).permutation(num_layers).tolist()


def even_ranking(sizes: Sequence[int]) -> list[int]:
    """Nested sets of layers at equal distances, the smallest size's first.

    >>> sorted(even_ranking([2, 4, 8])[:2])
    [2, 6]
    """
    chosen: list[int] = []
    for size in sizes:
        left = [q for q in range(sizes[-1]) if q not in chosen]
        count = size - len(chosen)
        chosen += [left[int((i + 0.5) * len(left) / count)] for i in range(count)]
    return chosen


def ranking_of(kept: dict[int, list[int]]) -> list[int]:
    """An order of the layers in which each size keeps the first.

    >>> ranking_of({1: [2], 3: [0, 1, 2]})
    [2, 0, 1]
    """
    return list(dict.fromkeys(layer for size in sorted(kept) for layer in kept[size]))
