"""What a training's config left to the defaults: these change, and its hash does not see it."""

import inspect
import json
from dataclasses import fields
from typing import Any

from espnet_des.compare.systems import SHRINK
from espnet_des.method.methods import METHODS
from espnet_des.method.options import EQUAL, SelectionOptions
from espnet_des.nn.encoder import COMPONENT, SupernetEncoder
from espnet_des.shrink.config import KNOWN, LEARNING, method_of
from espnet_des.shrink.options import ShrinkOptions

# Keys of encoder_conf whose defaults say how the sizes are trained.
OF_SUPERNETS = ("granularity", "own_weights")
# Of model_conf, by which the steps of scores are chosen.
OF_STEPS = ("method", "rank_per_cost")
# Of results that do not tell.
BEFORE = {"score_steps": EQUAL}


def defaults(config: dict) -> dict[str, Any]:
    """Settings of the method, of its encoder and of a shrink, that this config does not give.

    Args:
        config: of a training; of a model without sizes there are none.
    """
    if SHRINK not in config and config["model"] != "des":
        return {}
    found = {f.name: f.default for f in fields(SelectionOptions)}
    of_encoder = inspect.signature(SupernetEncoder).parameters
    found |= {key: of_encoder[key].default for key in OF_SUPERNETS}
    found["exit_weight"] = SelectionOptions.DEFAULT_EXITS
    found["distillation_weight"] = SelectionOptions.DEFAULT_DISTILLATION
    found["selection_share"] = SelectionOptions.DEFAULT_SHARE
    found |= {f"iterations of {name}": m.num_iterations for name, m in METHODS.items()}
    given = {*config["model_conf"], *config["encoder_conf"]}
    if SHRINK in config:
        options = ShrinkOptions.of_words(config[SHRINK]["shrink_args"].split())
        found |= {**method_of(options.share), **LEARNING, **KNOWN}
        found |= {f"--{f.name}": f.default for f in fields(ShrinkOptions)}
        found["--lr_factor"] = options.part_of_lr
        words = " ".join(map(str, config[SHRINK].values())).replace("=", " ").split()
        given = set(words)
    are_components = COMPONENT in (config["encoder_conf"].get("granularity"), *given)
    asked = {key: config["model_conf"].get(key, found[key]) for key in OF_STEPS}
    found["score_steps"] = SelectionOptions(**asked).steps_of_scores(are_components)
    left = {key: value for key, value in found.items() if key not in given}
    return json.loads(json.dumps(left))  # as a file has them


def changed(result: dict, config: dict) -> str:
    """Which defaults a finished training had that are others today; empty where none.

    Args:
        result: of the training; those of older versions do not tell all of them.
        config: of it.
    """
    then, now = BEFORE | result.get("defaults", {}), defaults(config)
    return ", ".join(
        f"{key} {then[key]!r}, now {value!r}"
        for key, value in now.items()
        if key in then and then[key] != value
    )
