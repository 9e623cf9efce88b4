"""What a size costs and what it gives: WER against parameters and speed."""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox

from espnet_des.errors import ConfigError, is_number
from espnet_des.plot.style import COLOURS, look

MARKERS = "osD^vPX"
RTF = "rtf_1_thread"


def read_sizes(path: Path) -> list[dict]:
    """The recipes' ``sizes.json``: one object per size, smallest first.

    Raises:
        ConfigError: where it cannot be read, or lacks what the picture needs.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"sizes_json: {path} cannot be read ({error}); stage 16 of a recipe writes it"
        ) from error
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"sizes_json: {path} must be a list with an object per size")
    for number, row in enumerate(rows):
        where = f"sizes_json: {path}: entry {number}"
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: {row!r} must be an object with the keys of a size")
        for key, right in (("size", "a number of layers"), ("num_params", "a count")):
            if not _is_finite(row.get(key)) or row[key] <= 0:
                raise ConfigError(f"{where}: {key}: {row.get(key)!r} must be {right}")
        if row.get(RTF) is not None and not (_is_finite(row[RTF]) and row[RTF] > 0):
            raise ConfigError(f"{where}: {RTF}: {row[RTF]!r} must be a number above 0")
        wer = row.get("wer")
        if not isinstance(wer, dict) or not wer or not all(map(_is_finite, wer.values())):
            raise ConfigError(
                f"{where}: wer: {wer!r} must have a percentage for each test set, such as "
                '{"test_clean": 3.2}'
            )
        if wer.keys() != rows[0]["wer"].keys():
            raise ConfigError(
                f"{where}: wer: {list(wer)} must be of the same test sets as entry 0: "
                f"{list(rows[0]['wer'])}"
            )
    return sorted(rows, key=lambda row: row["size"])


def _is_finite(value) -> bool:
    return is_number(value) and math.isfinite(value)


def has_speed(rows: list[dict]) -> bool:
    """True where every size has its real-time factor."""
    return all(row.get(RTF) is not None for row in rows)


def draw_wer(rows: list[dict], title: str = "") -> Figure:
    """Draw a line per test set over the sizes; both axes begin at 0.

    Args:
        rows: of :func:`read_sizes`. Without the real-time factor of every size
            its panel is left out.
        title: of the picture.
    """
    panels: list[tuple[str, Callable]] = [
        ("encoder parameters (M)", lambda row: row["num_params"] / 1e6)
    ]
    if has_speed(rows):
        panels.append(("real-time factor, one thread", lambda row: row[RTF]))
    with look():
        figure = Figure(figsize=(0.7 + 4.3 * len(panels), 3.9))
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (label, x_of) in zip(drawn, panels):
            xs = [x_of(row) for row in rows]
            for number, name in enumerate(rows[0]["wer"]):
                axes.plot(
                    xs,
                    [row["wer"][name] for row in rows],
                    label=name,
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                )
            axes.set_xlim(0, 1.08 * max(xs))
            axes.set_xlabel(label)
            axes.locator_params(axis="x", nbins=5)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.grid(axis="y", color="0.92")
            axes.set_axisbelow(True)
        drawn[0].set_ylim(0, 1.1 * max(max(row["wer"].values()) for row in rows) or 1.0)
        drawn[0].set_ylabel("WER (%)")
        engine = figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)  # look() asks for it
        engine.set(wspace=0.06)
        figure.suptitle(title or "WER of each size", x=0.01, ha="left")
        handles, labels = drawn[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
        for axes, (_, x_of) in zip(drawn, panels):
            _name_sizes(figure, axes, [(x_of(row), f"size {row['size']}") for row in rows])
    return figure


def _name_sizes(figure: Figure, axes: Axes, names: list[tuple[float, str]]) -> None:
    """Name the sizes above their points, on a line of its own where one is in the way.

    All test sets of a size lie on one vertical line, so it is named once.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    lines: dict[int, list[Bbox]] = defaultdict(list)
    for x, name in names:
        axes.axvline(x, color="0.75", linewidth=0.8, linestyle=":", zorder=0)
        text = axes.annotate(
            name, (x, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom",
            xytext=(0, 3), textcoords="offset points", fontsize=8,
        )  # fmt: skip
        box = text.get_window_extent(renderer).expanded(1.1, 1.0)
        line = next(
            i for i in count() if not any(box.x0 < b.x1 and b.x0 < box.x1 for b in lines[i])
        )
        lines[line].append(box)
        text.xyann = (0, 3 + 11 * line)
