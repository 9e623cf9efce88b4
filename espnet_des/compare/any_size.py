"""Every size from one training, beside the supernet that was trained for three sizes."""

import statistics

from espnet_des.compare.systems import Config, System, supernet
from espnet_des.compare.tables import Table, markdown

STK = "simple_top_k"
# Of a curve over the sizes.
POINTS = 9


def any_size(base: Config) -> list[System]:
    """Simple-Top-k for three sizes, and for any."""
    sizes = base["encoder_conf"]["sizes"]
    step = max(1, (sizes[-1] - sizes[0]) // (POINTS - 1))
    every = list(range(sizes[0], sizes[-1] + 1, step))
    conf = {"sizes": "any", "smallest_size": sizes[0]}
    return [
        System(STK, "Simple-Top-k, three sizes", lambda b, s, k: supernet(b), sizes),
        System("any_size", "Simple-Top-k, any size", lambda b, s, k: supernet(b, conf), every),
        System("any_size_shared", "Simple-Top-k, any size, one output layer",
               lambda b, s, k: supernet(b, conf, shared_output=True), every),
    ]  # fmt: skip


def off_the_line(table: Table) -> str:
    """How much worse a size is than a straight line between its neighbours, mean of the seeds."""
    rows, inner = [], table.sizes[1:-1]
    for group, (system,) in table.groups.items():
        if not set(inner) <= set(system.sizes):
            continue
        cells = []
        for size in inner:
            at = table.sizes.index(size)
            low, mine, high = (table.counts(group, z) for z in table.sizes[at - 1 : at + 2])
            if low is None or mine is None or high is None:
                cells.append(table.none(group, size))
                continue
            line = (low.rates + high.rates) / 2
            cells.append(f"{100 * (statistics.mean(mine.rates / line) - 1):+.1f}%")
        rows.append([system.title, *cells])
    head = [f"{size} layers" for size in inner]
    return markdown(["WER relative to the line between its neighbours", *head], rows)
