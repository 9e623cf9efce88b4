"""Any budget from one training: any size, components and costs, beside three sizes of layers."""

import statistics
from collections.abc import Sequence

from espnet_des.compare.equal_macs import at_equal_macs, macs
from espnet_des.compare.systems import IZO, STK, Config, System, supernet
from espnet_des.compare.tables import Table, markdown
from espnet_des.nn.encoders import SUPERNETS

ORTHO = "ortho_softmax"
# Of a curve over the sizes.
POINTS = 9


def budgets(base: Config) -> list[System]:
    """Simple-Top-k for three sizes, and supernets for any."""
    sizes = base["encoder_conf"]["sizes"]
    step = max(1, (sizes[-1] - sizes[0]) // (POINTS - 1))
    every = [*range(sizes[0], sizes[-1], step), sizes[-1]]
    systems = [System(STK, "Simple-Top-k, three sizes", lambda b, s, k: supernet(b), sizes)]

    def ask(name: str, title: str, components: bool = False, **model_conf) -> None:
        conf = {"sizes": "any", "smallest_size": sizes[0]}
        if components:
            conf["granularity"] = "component"
        systems.append(
            System(name, title, lambda b, s, k: supernet(b, conf, **model_conf), every)
        )

    ask("any_size", "Simple-Top-k, any size")
    ask("any_size_shared", "Simple-Top-k, any size, one output layer", shared_output=True)
    ask("any_macs", "Simple-Top-k, any MACs", budget="macs")
    ask("any_macs_per_cost", "Simple-Top-k, any MACs, ranked per cost", budget="macs",
        rank_per_cost=True)  # fmt: skip
    ask("ortho_layers", "OrthoSoftmax, any size", method=ORTHO)
    ask("components", "Simple-Top-k, components, any MACs", True, budget="macs")
    three = of_components(sizes)
    fixed = {"sizes": three, "granularity": "component"}
    variants: list[tuple[str, str, Config, Config]] = [
        ("", "", {}, {}),
        ("_equal_steps", ", steps of scores equal", {}, {"score_steps": "equal"}),
        ("_per_cost", ", ranked per cost", {}, {"rank_per_cost": True}),
    ]
    own = SUPERNETS[base["encoder"]].block_type.own_keys
    if (own | base["encoder_conf"]).get("conv_norm") == "batch_norm":
        variants.append(("_conv_parts", ", quarters of convolutions", {"conv_parts": 4}, {}))
    for ending, words, conf, more in variants:
        systems.append(
            System(f"components_three{ending}",
                   f"Simple-Top-k, components, three sizes by MACs{words}",
                   lambda b, s, k, c=conf, m=more: supernet(b, fixed | c, budget="macs", **m),
                   three)
        )  # fmt: skip
    ask("components_per_cost", "Simple-Top-k, components, any MACs, ranked per cost", True,
        budget="macs", rank_per_cost=True)  # fmt: skip
    ask("zero_out_components", "Iterative-Zero-Out, components, any MACs", True,
        method=IZO, budget="macs")  # fmt: skip
    ask("ortho_components", "OrthoSoftmax, components, any MACs", True, method=ORTHO,
        budget="macs")  # fmt: skip
    return systems


def of_components(sizes: Sequence[int]) -> list[int]:
    """Sizes by MACs that cost about what sizes of layers do.

    Layers cost less or more than their share of all; these are near to those that Simple-Top-k
    chose from spoken words, at 8 and 16 layers.
    """
    return [max(1, sizes[0] - 1), *(size + 1 for size in sizes[1:-1]), sizes[-1]]


def off_the_line(table: Table) -> str:
    """How much worse a size is than a straight line between its neighbours, mean of the seeds."""
    rows = []
    sizes = max((system.sizes for (system,) in table.groups.values()), key=len)
    inner = sizes[1:-1]
    for group, (system,) in table.groups.items():
        if system.sizes != sizes:
            continue
        cells = []
        for at, size in enumerate(inner, start=1):
            low, mine, high = (table.counts(group, z) for z in sizes[at - 1 : at + 2])
            if low is None or mine is None or high is None:
                cells.append(table.none(group, size))
                continue
            line = (low.rates + high.rates) / 2
            cells.append(f"{100 * (statistics.mean(mine.rates / line) - 1):+.1f}%")
        rows.append([system.title, *cells])
    head = [f"{size} layers" for size in inner]
    return markdown(["WER relative to the line between its neighbours", *head], rows)


def budget_tables(table: Table) -> dict[str, str]:
    return {
        "Word error rates": table.error_rates(),
        "Differences to the training for three sizes": table.differences(STK),
        "Differences to any size at equal MACs": at_equal_macs(table, "any_size"),
        "A size between its neighbours": off_the_line(table),
        "MACs": macs(table),
        "Parameters": table.parameters(),
        "Cost": table.costs(),
    }
