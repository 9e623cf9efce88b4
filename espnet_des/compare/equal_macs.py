"""What systems cost, and their differences where they cost the same."""

from collections.abc import Collection, Sequence

import numpy

from espnet_des.compare.run import TEST_SETS
from espnet_des.compare.statistics import Counts, count
from espnet_des.compare.systems import System
from espnet_des.compare.tables import NOT_NOTED, Table, interval, markdown


def at_equal_macs(
    table: Table, to: str, groups: Collection[str] | None = None,
    sizes: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """Differences of sizes to another system's, at equal MACs with the same seed.

    Args:
        to: between two of its sizes its errors are a straight line over MACs, which is above
            what the sizes have (by up to 5% where there are three). Its smallest stands for what
            is smaller still, with more MACs, and its largest for what is larger.
        groups: whose; by default all others'.
        sizes: by default all but the full one.
    """
    (known,) = table.groups[to]
    sizes, rows = table.sizes[:-1] if sizes is None else sizes, []
    for group, (first, *_) in table.groups.items():
        if group == to or (groups is not None and group not in groups):
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
