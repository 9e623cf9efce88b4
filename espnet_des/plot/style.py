"""What all pictures share: look, names of the layers, files.

Figures are made without pyplot: nothing global is changed, and neither a
display nor a backend is needed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib.style
import numpy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from espnet_des.utils.files import write_atomically

DPI = 150
# From the defaults, so that a user's matplotlibrc does not change the pictures.
LOOK = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
# Kinds of layers, with the colours of Okabe and Ito, which all readers can tell apart.
KINDS = {
    "ff_macaron": ("feed-forward (macaron)", "#E69F00"),
    "mhsa": ("self-attention", "#0072B2"),
    "conv": ("convolution", "#009E73"),
    "cgmlp": ("convolutional gating", "#009E73"),
    "ff": ("feed-forward", "#CC79A7"),
}
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#7F7F7F",
)  # Okabe and Ito, and grey


@contextlib.contextmanager
def look() -> Iterator[None]:
    """Draw and save within this, whatever the user's matplotlibrc says."""
    with matplotlib.style.context(["default", LOOK]):
        yield


def kind_name(kind: str) -> str:
    """What readers call a kind of layer."""
    return KINDS[kind][0]


def smallest_sizes(ranking: list[int], sizes: list[int]) -> list[int]:
    """For each layer, which of the sizes (an index) is the smallest to keep it.

    Args:
        ranking: all layers, 0-based, most important first.
        sizes: numbers of layers, ascending, the last one all.
    """
    found = [0] * len(ranking)
    for place, layer in enumerate(ranking):
        found[layer] = next(i for i, size in enumerate(sizes) if place < size)
    return found


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all; equal figures give equal files."""

    def write(partial: Path) -> None:
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})

    with look():
        write_atomically(path, write)


def to_pixels(figure: Figure) -> numpy.ndarray:
    """The figure as ``(height, width, 3)`` of uint8."""
    canvas = FigureCanvasAgg(figure)
    with look():
        canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())[..., :3].copy()


def text_colour(rgba: tuple[float, ...]) -> str:
    """Black or white, whichever is read better on this background."""
    red, green, blue = rgba[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
