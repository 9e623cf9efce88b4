"""The tables of a comparison, in Markdown."""

import math
import statistics
from collections.abc import Callable, Sequence

from espnet_des.compare.run import TEST_SETS
from espnet_des.compare.statistics import Counts, count, difference
from espnet_des.compare.systems import System
from espnet_des.method.layers import ranges
from espnet_des.method.methods import OF_THE_PAPER

# System name to seed to result, of what is finished.
Results = dict[str, dict[int, dict]]
OPEN, NOT_NOTED = "open", "not noted"
MOST = 1000.0  # percent; an interval that reaches further says nothing


class Table:
    """Results of a comparison, by group of systems and size.

    Args:
        systems: of the comparison.
        results: of those that are finished.
    """

    def __init__(self, systems: Sequence[System], results: Results):
        self.systems, self.results = systems, results
        self.sizes = sorted({size for system in systems for size in system.sizes})
        self.groups: dict[str, list[System]] = {}
        for system in systems:
            self.groups.setdefault(system.group or system.name, []).append(system)

    def system_of(self, group: str, size: int):
        return next((s for s in self.groups[group] if size in s.sizes), None)

    def found(self, group: str, size: int) -> dict[int, dict]:
        """Seed to result of a cell; empty where nothing is finished, or nothing belongs."""
        system = self.system_of(group, size)
        return self.results.get(system.name, {}) if system else {}

    def counts(self, group: str, size: int, sets: Sequence[str] = TEST_SETS):
        """Counts of a cell, or None."""
        found = self.found(group, size)
        return count(found, size, sets) if found else None

    def macs(self, group: str, size: int) -> float | None:
        """MACs per second of audio of a cell, mean over the seeds; None where not noted."""
        results = self.found(group, size).values()
        known = [r["sizes"][str(size)].get("macs") for r in results]
        # Those of older versions do not tell.
        return statistics.mean(known) if known and None not in known else None

    def cell(
        self, group: str, size: int, text: Callable[[Counts], str],
        sets: Sequence[str] = TEST_SETS,
    ) -> str:  # fmt: skip
        counts = self.counts(group, size, sets)
        return self.none(group, size) if counts is None else text(counts)

    def none(self, group: str, size: int) -> str:
        """What stands in a cell without a result."""
        return "-" if self.system_of(group, size) is None else OPEN

    # ---- tables --------------------------------------------------------------

    def error_rates(self) -> str:
        """WER over all test sets: mean and standard deviation over the seeds."""
        head = [f"{size} layers" for size in self.sizes]
        rows = [
            [self._title(group), *(self.cell(group, size, rate_and_spread)
                                   for size in self.sizes), self._seeds(group)]
            for group in self.groups
        ]  # fmt: skip
        return markdown(["WER (%)", *head, "seeds"], rows)

    def rates_by_set(self) -> str:
        head = [f"{size}, {name.removeprefix('test_')}" for size in self.sizes
                for name in TEST_SETS]  # fmt: skip
        rows = [
            [self._title(group), *(self.cell(group, size, mean_rate, [name])
                                   for size in self.sizes for name in TEST_SETS)]
            for group in self.groups
        ]  # fmt: skip
        return markdown(["WER (%)", *head], rows)

    def parameters(self) -> str:
        """Encoder parameters, mean over the seeds, in thousands."""
        rows = []
        for group in self.groups:
            cells = []
            for size in self.sizes:
                found = self.found(group, size).values()
                params = [r["sizes"][str(size)]["params"] for r in found]
                cells.append(f"{statistics.mean(params) / 1000:.0f}" if params
                             else self.none(group, size))  # fmt: skip
            rows.append([self._title(group), *cells])
        return markdown(["thousand encoder parameters", *map(str, self.sizes)], rows)

    def differences(self, to: str, of: Sequence[str] | None = None) -> str:
        """Relative differences of groups (by default all) to one, with 95% intervals."""
        rows = []
        for group in of or (g for g in self.groups if g != to):
            cells = []
            for size in self.sizes:
                others = self.counts(to, size)
                lacks = to if self.system_of(group, size) else group
                cells.append(
                    self.none(lacks, size) if others is None
                    else self.cell(group, size, lambda mine: interval(mine, others))
                )  # fmt: skip
            rows.append([self._title(group), *cells])
        head = [f"{size} layers" for size in self.sizes]
        return markdown([f"WER relative to: {self._title(to)}", *head], rows)

    def ablations(self, default: str) -> str:
        """WER, and the relative difference to a default, of what is compared with it."""
        rows = []
        for system in (s for s in self.systems if s.against == default):
            cells = []
            for size in self.sizes:
                others = self.counts(default, size)
                cells.append(self.cell(
                    system.name, size,
                    lambda mine: rate_and_spread(mine) if others is None
                    or system.name == default
                    else f"{rate_and_spread(mine)}: {interval(mine, others)}",
                ))  # fmt: skip
            rows.append([system.title, *cells, self._seeds(system.name)])
        head = [f"{size} layers" for size in self.sizes]
        return markdown(["WER (%), difference to the default", *head, "seeds"], rows)

    def kept_layers(self, group: str) -> str:
        (system,) = self.groups[group]
        rows = [
            [str(seed), *(ranges(result["sizes"][str(size)]["kept"])
                          for size in system.sizes[:-1])]
            for seed, result in sorted(self.results.get(system.name, {}).items())
        ]  # fmt: skip
        return markdown([f"{system.title}: seed", *map(str, system.sizes[:-1])], rows)

    def costs(self) -> str:
        """CPU and wall time of a seed, in minutes; a group's trainings together.

        Of a training that was killed and went on it is not known. What it begins with, or learns
        from, or has the layers of, is named: that one's cost comes on top.
        """
        rows, titles = [], {system.name: system.title for system in self.systems}
        for group, systems in self.groups.items():
            cells = []
            for what, key in (("train", "cpu"), ("train", "wall"), ("decode", "cpu")):
                means = []
                for system in systems:
                    known = [
                        r["cost"][what][key]
                        for r in self.results.get(system.name, {}).values()
                        if r["cost"][what]
                    ]
                    means.append(statistics.mean(known) if known else None)
                finished = all(self.results.get(system.name) for system in systems)
                unknown = "not known" if finished else OPEN
                of_each = [mean for mean in means if mean is not None]
                is_known = len(of_each) == len(means)
                cells.append(f"{sum(of_each) / 60:.1f}" if is_known else unknown)
            names = "+".join(str(s.sizes[0]) for s in systems) if len(systems) > 1 else "all"
            needed = {n for s in systems for n in (s.needs, s.begins_with) if n is not None}
            besides = sorted(f"{titles[n]} ({n})" for n in needed)
            rows.append([self._title(group), names, *cells, "; ".join(besides)])
        head = [
            "minutes per seed",
            "sizes",
            "training, CPU",
            "training, wall",
            "decoding, CPU",
            "besides",
        ]
        return markdown(head, rows)

    def _title(self, group: str) -> str:
        return self.groups[group][0].title

    def _seeds(self, group: str) -> str:
        counts = {len(self.results.get(s.name, {})) for s in self.groups[group]}
        return "-".join(map(str, sorted(counts)))


def of_methods(table: Table, to: str, of: str) -> str:
    """Differences of one system to another of each method, whose name stands at ``{}``."""
    names = [name for name in OF_THE_PAPER if to.format(name) in table.groups]
    return "\n".join(table.differences(to.format(n), [of.format(n)]) for n in names)


def mean_rate(counts: Counts) -> str:
    return f"{counts.rates.mean():.2f}"


def rate_and_spread(counts: Counts) -> str:
    spread = f" ± {counts.spread:.2f}" if len(counts.rates) > 1 else ""
    return f"{mean_rate(counts)}{spread}"


def interval(mine: Counts, others: Counts) -> str:
    """The difference and its interval, where there is one."""
    found = difference(mine, others)
    if found is None:
        return OPEN
    ends = f"[{found.low:+.1f}, {found.high:+.1f}]"
    if math.isnan(found.low) or found.high > MOST:
        ends = "(1 seed)" if found.seeds == 1 else "(no interval)"
    return f"{found.mean:+.1f}% {ends}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
