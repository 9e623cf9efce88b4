"""Any budget from one training: any size, components and costs, beside three sizes of layers."""

import statistics
from collections.abc import Sequence

import numpy

from espnet_des.compare.run import TEST_SETS
from espnet_des.compare.statistics import Counts, count
from espnet_des.compare.systems import IZO, STK, Config, System, supernet
from espnet_des.compare.tables import NOT_NOTED, Table, interval, markdown
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


def at_equal_macs(table: Table, to: str) -> str:
    """Differences of all sizes to another system's, at equal MACs with the same seed.

    Args:
        to: between two of its sizes its errors are a straight line over MACs, which is above
            what the sizes have (by up to 5% where there are three). Its smallest stands for what
            is smaller still, with more MACs.
    """
    (known,) = table.groups[to]
    sizes, rows = table.sizes[:-1], []
    for group, (first, *_) in table.groups.items():
        if group == to:
            continue
        cells = []
        for size in sizes:
            mine, system = table.counts(group, size), table.system_of(group, size)
            others = counts_at(table, known, system, size) if system else None
            if mine is None or not table.results.get(known.name):
                cells.append(table.none(group, size))
            else:
                cells.append(NOT_NOTED if others is None else interval(mine, others))
        rows.append([first.title, *cells])
    head = [f"{size} layers" for size in sizes]
    return markdown([f"WER relative to: {known.title}, at equal MACs", *head], rows)


def counts_at(table: Table, of: System, system: System, size: int) -> Counts | None:
    """Counts of a system at the MACs that another one's size has with the same seed.

    None where no seed has both.
    """
    known, found = (table.results.get(s.name, {}) for s in (of, system))
    errors, seeds, words = [], [], None
    for seed in sorted(known.keys() & found.keys() if size in system.sizes else ()):
        result = known[seed]
        target = found[seed]["sizes"][str(size)].get("macs")
        macs = [result["sizes"][str(z)].get("macs") for z in of.sizes]
        if target is None or None in macs:  # of an older version
            continue
        place = float(numpy.interp(target, macs, range(len(macs))))
        ends = (of.sizes[int(at)] for at in (numpy.floor(place), numpy.ceil(place)))
        one, other = (count({seed: result}, z, TEST_SETS) for z in ends)
        errors.append(one.errors[0] + (place % 1) * (other.errors[0] - one.errors[0]))
        seeds.append(seed)
        words = one.words
    return None if words is None else Counts(numpy.stack(errors), words, seeds)


def macs(table: Table) -> str:
    """Millions of MACs per second of audio, mean over the seeds."""

    def cell(group: str, size: int) -> str:
        if not table.found(group, size):
            return table.none(group, size)
        found = table.macs(group, size)
        return NOT_NOTED if found is None else f"{found / 1e6:.1f}"

    rows = [
        [system.title, *(cell(group, size) for size in table.sizes)]
        for group, (system, *_) in table.groups.items()
    ]
    return markdown(["MMAC per second of audio", *map(str, table.sizes)], rows)
