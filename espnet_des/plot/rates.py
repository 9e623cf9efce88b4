"""Pictures of a comparison: WER against size or cost with its spread, kept layers by seed."""

from collections.abc import Collection

import numpy
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from espnet_des.method.layers import Layer
from espnet_des.plot.kept import size_colours
from espnet_des.plot.style import COLOURS, kind_name, look

MARKERS = "osD^vPXd"
# Of a decade, where the axis of WER has its numbers.
TICKS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)


def draw_rates(table) -> Figure:
    """WER of every group of systems over the sizes, one point per seed beside the mean.

    Equal distances are equal ratios: a system that fails at one size does not hide the others.

    Args:
        table: :class:`espnet_des.compare.tables.Table`.
    """
    groups = [g for g in table.groups if any(table.counts(g, s) for s in table.sizes)]
    with look():
        figure = Figure(figsize=(8.6, 4.6))
        axes = figure.subplots()
        width = 0.8 / max(1, len(groups))
        for place_of_group, group in enumerate(groups):
            shift = (place_of_group - (len(groups) - 1) / 2) * width
            number = list(table.groups).index(group)  # what is open takes its colour along
            (colour, marker), label = look_of(number), table.groups[group][0].title
            for place, size in enumerate(table.sizes):
                counts = table.counts(group, size)
                if counts is None:
                    continue
                rates, x = counts.rates, place + shift
                axes.errorbar(
                    x, rates.mean(), yerr=counts.spread, color=colour, capsize=2.5,
                    marker=marker, linestyle="none", label=label,
                )  # fmt: skip
                axes.plot([x] * len(rates), rates, ".", color=colour, markersize=3, alpha=0.6)
                label = None  # named once
        axes.set_xticks(range(len(table.sizes)), [f"{size} layers" for size in table.sizes])
        log_of_rates(axes)
        figure.suptitle("WER by size: mean, standard deviation and seeds", x=0.01, ha="left")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def draw_rates_by_cost(table, first: str, without: Collection[str] = ()) -> Figure:
    """WER of every group over its multiply-accumulates: mean of the seeds, and their spread.

    Args:
        table: :class:`espnet_des.compare.tables.Table`.
        first: the group that the others are compared with; its line is the thick one.
        without: groups that are not drawn, such as what is not trained.
    """
    with look():
        figure = Figure(figsize=(8.6, 6.0))
        axes = figure.subplots()
        for number, (group, (system, *_)) in enumerate(table.groups.items()):
            points = []
            for size in table.sizes if group not in without else ():
                counts, macs = table.counts(group, size), table.macs(group, size)
                if counts is not None and macs is not None:
                    points.append((macs / 1e6, counts.rates.mean(), counts.spread))
            if points:
                x, mean, spread = zip(*sorted(points))
                (colour, marker), is_first = look_of(number), group == first
                axes.errorbar(
                    x, mean, yerr=spread, capsize=2.5, label=system.title,
                    color=colour, marker=marker, linewidth=2.4 if is_first else 0.9,
                    linestyle="-" if is_first else "--" if number % 2 else ":",
                    markersize=6 if is_first else 4.5, zorder=3 if is_first else 2,
                )  # fmt: skip
        axes.set_xlabel("million multiply-accumulates per second of audio")
        log_of_rates(axes)
        figure.suptitle("WER by cost: mean and standard deviation", x=0.01, ha="left")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def look_of(number: int) -> tuple[str, str]:
    """Colour and marker of a group, which no other one has both of."""
    colour = COLOURS[number % len(COLOURS)]
    return colour, MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def log_of_rates(axes) -> None:
    """An axis of WER on which equal distances are equal ratios."""
    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_major_locator(LogLocator(subs=TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("WER (%), log scale")
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)


def draw_kept_by_seed(layers: list[Layer], results: dict[int, dict], system) -> Figure:
    """A line per seed: every layer in the colour of the smallest size that keeps it.

    Args:
        layers: of the full encoder.
        results: seed to result.
        system: which supernet it is.
    """
    seeds, sizes = sorted(results), list(system.sizes)
    cells = numpy.full((len(seeds), len(layers)), len(sizes) - 1)
    for row, seed in enumerate(seeds):
        for index, size in reversed(list(enumerate(sizes))):
            cells[row, results[seed]["sizes"][str(size)]["kept"]] = index
    colours = size_colours(sizes)
    with look():
        figure = Figure(figsize=(max(6.5, 1.6 + 0.3 * len(layers)), 2.4 + 0.3 * len(seeds)))
        axes = figure.subplots()
        axes.pcolormesh(
            cells, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(sizes) - 0.5,
            edgecolors="white", linewidth=1.5,
        )  # fmt: skip
        axes.set_yticks(numpy.arange(len(seeds)) + 0.5, [f"seed {seed}" for seed in seeds])
        names = [kind_name(layer.kind) for layer in layers]
        axes.set_xticks(numpy.arange(len(layers)) + 0.5, names, rotation=90, fontsize=7)
        for q, layer in enumerate(layers[1:], 1):
            if layer.block != layers[q - 1].block:
                axes.axvline(q, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        labels = [f"kept by size {sizes[0]}"] + [f"from size {size} on" for size in sizes[1:]]
        figure.legend(handles=[Patch(color=c) for c in colours], labels=labels,
                      loc="outside lower center", ncols=len(sizes))  # fmt: skip
        figure.suptitle(f"Layers that {system.title} keeps, by seed", x=0.01, ha="left")
    return figure
