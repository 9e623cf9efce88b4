"""Is a size as good as a model of its own? Supernets beside models alone and other baselines."""

from collections.abc import Callable
from pathlib import Path

from espnet_des.compare.systems import (
    SHARED,
    Config,
    System,
    aux_loss,
    even_ranking,
    has_own_weights,
    layer_drop,
    own_exits,
    published,
    random_ranking,
    single,
    supernet,
    whole_blocks,
)
from espnet_des.compare.tables import Table, of_methods
from espnet_des.method.layers import Layer
from espnet_des.method.methods import METHODS, OF_THE_PAPER
from espnet_des.nn.encoders import SUPERNETS


def comparison(base: Config) -> list[System]:
    """The systems, in the order in which they are trained."""
    sizes = base["encoder_conf"]["sizes"]
    full, subnets = sizes[-1], sizes[:-1]
    titles = {name: METHODS[name].title for name in OF_THE_PAPER}

    def of_both(
        ending: str, words: str, make: Callable[[Config, str], Config]
    ) -> list[System]:
        return [
            System(method + ending, title + words, lambda b, s, k, m=method: make(b, m), sizes)
            for method, title in titles.items()
        ]

    systems = of_both("", "", lambda b, method: supernet(b, method=method))
    if has_own_weights(base):
        systems += of_both("_shared", ", all weights shared",
                           lambda b, method: supernet(b, SHARED, method=method))  # fmt: skip
    systems += of_both("_published", ", as published", published)
    systems += [
        System(f"separate_{size}", "trained separately, whole blocks",
               lambda b, s, k, n=size: whole_blocks(b, n), [size], group="separate")
        for size in sizes
    ]  # fmt: skip
    systems += [
        System("random", "random layers, same training",
               lambda b, s, k: supernet(b, method="fixed", ranking=random_ranking(full, s)),
               sizes),
        System("even", "evenly spaced layers, same training",
               lambda b, s, k: supernet(b, method="fixed", ranking=even_ranking(sizes)), sizes),
        System("aux_loss", "early exits (aux loss)",
               lambda b, s, k: aux_loss(b), sizes),
        System("own_exits", "early exits, an output layer each",
               lambda b, s, k: own_exits(b), sizes),
        System("layer_drop", "LayerDrop at .2, evenly spaced blocks kept",
               lambda b, s, k: layer_drop(b), sizes),
    ]  # fmt: skip
    systems += [
        System(f"{method}_alone_{size}", f"layers of {title}, trained separately",
               lambda b, s, k, n=size: single(b, kept_layers=k[n]), [size], needs=method,
               group=f"{method}_alone")
        for method, title in titles.items() for size in subnets
    ]  # fmt: skip
    return systems


def comparison_tables(table: Table) -> dict[str, str]:
    return {
        "Word error rates": table.error_rates(),
        "Differences to separately trained models": table.differences("separate"),
        "Differences to early exits (their full size is one alone, with exits)": (
            table.differences("aux_loss", [*OF_THE_PAPER, "random"])
        ),
        "Differences to the settings as published": of_methods(table, "{}_published", "{}"),
        "Differences to all weights shared": of_methods(table, "{}_shared", "{}"),
        "Differences to random layers": table.differences("random"),
        "Differences to the same layers, trained separately": (
            of_methods(table, "{}_alone", "{}")
        ),
        "Clean and noisy": table.rates_by_set(),
        "Parameters": table.parameters(),
        "Kept layers": "\n".join(map(table.kept_layers, OF_THE_PAPER)),
        "Cost": table.costs(),
    }  # fmt: skip


def draw_comparison(table: Table, base: Config, folder: Path) -> None:
    from espnet_des.plot.rates import draw_kept_by_seed, draw_rates
    from espnet_des.plot.style import save

    save(draw_rates(table), folder / "wer.png")
    for method in OF_THE_PAPER:
        if found := table.results.get(method):
            (system,) = table.groups[method]
            figure = draw_kept_by_seed(base_layers(base), found, system)
            save(figure, folder / f"kept_layers_{method}.png")


def base_layers(base: Config) -> list[Layer]:
    """What each layer of the full encoder is."""
    conf, kind = base["encoder_conf"], SUPERNETS[base["encoder"]].block_type
    kinds = kind.kinds(conf.get("layer_order", "espnet"))
    return [Layer(number, kind) for number in range(conf["num_blocks"]) for kind in kinds]
