"""Which layers each size keeps: blocks by kind of layer."""

import math
from collections import Counter
from collections.abc import Sequence

import matplotlib
import numpy
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from espnet_des.method.layers import Layer
from espnet_des.plot.style import kind_name, look, smallest_sizes, text_colour

# Blocks side by side; deeper encoders go on below, or a cell could not be read.
BLOCKS_PER_ROW = 24


def size_colours(sizes: list[int]) -> list[tuple]:
    """Dark for the smallest size, pale for the full one."""
    shades = numpy.linspace(0.92, 0.12, len(sizes))
    return [tuple(colour) for colour in matplotlib.colormaps["YlGnBu"](shades)]


def draw_kept_layers(
    layers: list[Layer],
    ranking: list[int],
    sizes: list[int],
    title: str = "",
    counts: Sequence[int] | None = None,
) -> Figure:
    """Draw a cell per layer, in the colour of the smallest size that keeps it.

    A layer of several components stands there as often, and its cell is divided.

    Args:
        layers: of the full encoder, in the order in which they run.
        ranking: all of them, 0-based, most important first.
        sizes: numbers of layers, ascending, the last one all.
        title: of the picture.
        counts: how many of the ranking each size keeps, where not as many as its number.

    Returns:
        A figure with one mesh of cells ``(kinds, blocks)`` per 24 blocks; a
        cell's value is the index of the size, masked where there is no layer.
    """
    counts = list(sizes if counts is None else counts)
    components = Counter(layers)
    fine = math.lcm(*components.values())
    kinds = list(dict.fromkeys(layer.kind for layer in layers))
    blocks = layers[-1].block + 1
    rows = -(-blocks // BLOCKS_PER_ROW)
    columns = -(-blocks // rows)
    found, colours = smallest_sizes(ranking, counts), size_colours(sizes)
    place = {layer: number for number, layer in enumerate(ranking, 1)}
    cells = numpy.ma.masked_all((len(kinds), rows * columns * fine), int)
    seen: Counter[Layer] = Counter()
    for q, layer in enumerate(layers):
        part = fine // components[layer]
        start = layer.block * fine + seen[layer] * part
        cells[kinds.index(layer.kind), start : start + part] = found[q]
        seen[layer] += 1

    width = min(10.0, max(6.5, 2.6 + 0.55 * columns))
    with look():
        figure = Figure(figsize=(width, 1.25 + rows * (0.5 + 0.36 * len(kinds))))
        panels = figure.subplots(rows, 1, squeeze=False)[:, 0]
        for number, axes in enumerate(panels):
            first = number * columns
            shown = cells[:, first * fine : (first + columns) * fine]
            axes.pcolormesh(
                numpy.arange(first * fine, (first + columns) * fine + 1) / fine - 0.5,
                numpy.arange(len(kinds) + 1) - 0.5,
                shown, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(sizes) - 0.5,
                edgecolors="white" if fine == 1 else "none", linewidth=2,
            )  # fmt: skip
            if fine > 1:
                _divide(axes, components, kinds)
            axes.set_yticks(range(len(kinds)), [kind_name(k) for k in kinds])
            axes.set_xticks(range(first, min(first + columns, blocks)))
            axes.invert_yaxis()  # the first layer of a block on top
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        for q, layer in enumerate(layers if fine == 1 else []):
            panels[layer.block // columns].text(
                layer.block, kinds.index(layer.kind), str(place[q]), ha="center", va="center",
                fontsize=8, color=text_colour(colours[found[q]]),
            )  # fmt: skip
        _count_kinds(panels[0], layers, found, kinds, sizes)
        rank = "number: rank of the layer, 1 is the most important"
        panels[-1].set_xlabel(
            "block (its layers run from top to bottom)\n"
            + (rank if fine == 1 else "a layer's parts: its components")
        )
        figure.suptitle(title or "Layers that each size keeps", x=0.01, ha="left")
        figure.legend(
            handles=[Patch(color=c) for c in colours],
            labels=_labels(sizes, counts),
            loc="outside lower center", ncols=min(3 if width < 9 else 4, len(sizes)),
        )  # fmt: skip
    return figure


def _divide(axes, components: Counter[Layer], kinds: list[str]) -> None:
    """White edges around the layers, and thin ones between their components."""
    for layer, count in components.items():
        row = kinds.index(layer.kind)
        edges = layer.block - 0.5 + numpy.arange(count + 1) / count
        widths = [2.0, *[0.6] * (count - 1), 2.0]
        axes.vlines(edges, row - 0.5, row + 0.5, color="white", linewidth=widths)
    axes.hlines(numpy.arange(len(kinds) + 1) - 0.5, *axes.get_xlim(), color="white")


def _count_kinds(axes, layers, found, kinds, sizes) -> None:
    """How many layers of each kind the sizes keep, beside the rows."""
    beside = {"transform": axes.get_yaxis_transform(), "fontsize": 8}
    heading = "kept by size\n" + " \u00b7 ".join(map(str, sizes))
    axes.text(1.02, -0.55, heading, va="bottom", fontweight="bold", **beside)
    for row, kind in enumerate(kinds):
        of_kind = [found[q] for q, layer in enumerate(layers) if layer.kind == kind]
        counts = [str(sum(f <= i for f in of_kind)) for i in range(len(sizes))]
        axes.text(1.02, row, " \u00b7 ".join(counts), va="center", **beside)


def _labels(sizes: list[int], counts: list[int]) -> list[str]:
    more = [b - a for a, b in zip(counts, counts[1:])]
    labels = [f"kept by size {sizes[0]} and larger: {counts[0]}"]
    # With sizes between these, some are theirs already.
    return labels + [f"by size {size}: {n} more" for size, n in zip(sizes[1:], more)]
