"""Names of sizes above a panel, none of which lies on another."""

from collections import defaultdict
from itertools import count

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

MANY = 5  # sizes: so many are too many to name each


def name_sizes(figure: Figure, axes: Axes, sizes: list[tuple[float, int]]) -> None:
    """Name few sizes all; of many those for which there is room on one line.

    All test sets of a size lie on one vertical line, so it is named once.

    Args:
        axes: of the figure, with all that is drawn in them.
        sizes: where on the horizontal axis each is, and its number of layers, ascending.
    """
    figure.draw_without_rendering()  # lays it out, and so tells where the names come
    (_name_all if len(sizes) < MANY else _name_some)(figure, axes, sizes)


def _name_all(figure: Figure, axes: Axes, sizes: list[tuple[float, int]]) -> None:
    """Name each, on a line of its own where another is in the way."""
    lines: dict[int, list[Bbox]] = defaultdict(list)
    for x, size in sizes:
        text = _name(axes, x, f"size {size}")
        box = _box(figure, text)
        line = next(i for i in count() if not any(_meet(box, other) for other in lines[i]))
        lines[line].append(box)
        text.xyann = (0, 3 + 11 * line)
        _mark(axes, x)


def _name_some(figure: Figure, axes: Axes, sizes: list[tuple[float, int]]) -> None:
    """Name the outer ones, and of those between what there is room for."""
    taken: list[Bbox] = []
    for place in _outer_first(len(sizes)):
        x, size = sizes[place]
        text = _name(axes, x, f"size {size}" if place == 0 else f"{size}")
        box = _box(figure, text)
        if any(_meet(box, other) for other in taken):
            text.remove()
            continue
        taken.append(box)
        _mark(axes, x)


def _outer_first(number: int) -> list[int]:
    """The first and the last place, then the middle of what is left open, again and again."""
    places = [0, number - 1]
    while len(places) < number:
        known = sorted(places)
        places += [(a + b) // 2 for a, b in zip(known, known[1:]) if b - a > 1]
    return places


def _name(axes: Axes, x: float, name: str) -> Annotation:
    return axes.annotate(
        name, (x, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom",
        xytext=(0, 3), textcoords="offset points", fontsize=8,
    )  # fmt: skip


def _mark(axes: Axes, x: float) -> None:
    axes.axvline(x, color="0.75", linewidth=0.8, linestyle=":", zorder=0)


def _box(figure: Figure, text: Annotation) -> Bbox:
    """Where a text stands, with the distance that keeps it apart from others."""
    return text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).padded(3.0, 0.0)


def _meet(one: Bbox, other: Bbox) -> bool:
    return one.x0 < other.x1 and other.x0 < one.x1
