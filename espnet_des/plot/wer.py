"""What a size costs and what it gives: WER against MACs, speed and the size of the file."""

import json
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from espnet_des.errors import ConfigError, is_number
from espnet_des.plot.size_names import MANY, name_sizes
from espnet_des.plot.style import COLOURS, look
from espnet_des.utils.pareto import on_front

MARKERS = "osD^vPX"
FRONT: dict[str, Any] = {"color": "0.55", "linewidth": 1.2, "linestyle": (0, (4, 2))}


class Cost(NamedTuple):
    """What a panel has on its horizontal axis.

    Attributes:
        key: of the objects in ``sizes.json``.
        label: of the axis, with the unit.
        unit: what the value is divided by.
    """

    key: str
    label: str
    unit: float


PARAMETERS = Cost("num_params", "encoder parameters (M)", 1e6)
COSTS = (
    Cost("macs_per_second", "MMAC per s of audio", 1e6),
    Cost("rtf_1_thread", "ms per s of audio, one thread", 1e-3),
    Cost("model_file_bytes", "model file (MB)", 1e6),
)


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
        for key, _, _ in COSTS:
            if row.get(key) is not None and not (_is_finite(row[key]) and row[key] > 0):
                raise ConfigError(f"{where}: {key}: {row[key]!r} must be a number above 0")
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


def left_out(rows: list[dict]) -> list[str]:
    """Keys of the costs that not every size has, and which are therefore not drawn."""
    return [cost.key for cost in COSTS if any(row.get(cost.key) is None for row in rows)]


def panels(rows: list[dict]) -> list[Cost]:
    """What can be drawn; the parameters stand in for MACs that are not there."""
    missing = left_out(rows)
    found = [cost for cost in COSTS if cost.key not in missing]
    return [PARAMETERS, *found] if COSTS[0].key in missing else found


def draw_wer(rows: list[dict], title: str = "") -> Figure:
    """Draw a line per test set over the sizes, for each cost; all axes begin at 0.

    The markers of a panel are filled on the Pareto front of its cost and the mean of the
    test sets, and open where another size is as good in both and better in one. A broken line
    leads along that front.

    Args:
        rows: of :func:`read_sizes`; see :func:`panels` for costs that are not there.
        title: of the picture.
    """
    costs = panels(rows)
    with look():
        figure = Figure(figsize=(0.7 + min(4.3, 9.6 / len(costs)) * len(costs), 3.9))
        drawn = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        handles: dict[str, Line2D] = {}
        for axes, cost in zip(drawn, costs):
            handles |= _draw_panel(axes, cost, rows)
        drawn[0].set_ylim(0, 1.1 * max(max(row["wer"].values()) for row in rows) or 1.0)
        drawn[0].set_ylabel("WER (%)")
        engine = figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)  # look() asks for it
        engine.set(wspace=0.06)
        figure.suptitle(title or "WER of each size", x=0.01, ha="left")
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center",
            ncols=min(4, len(handles)),
        )  # fmt: skip
        for axes, cost in zip(drawn, costs):
            names = [(row[cost.key] / cost.unit, row["size"]) for row in rows]
            name_sizes(figure, axes, names)
    return figure


def _draw_panel(axes: Axes, cost: Cost, rows: list[dict]) -> dict[str, Line2D]:
    """Draw one cost; returns what the legend tells."""
    # By cost: where measured times of neighbours are out of order, a line would run back.
    rows = sorted(rows, key=lambda row: row[cost.key])
    xs = [row[cost.key] / cost.unit for row in rows]
    means = [statistics.fmean(row["wer"].values()) for row in rows]
    is_on = on_front(xs, means)
    off, on = ([i for i, here in enumerate(is_on) if here is there] for there in (False, True))
    handles: dict[str, Line2D] = {}
    for number, name in enumerate(rows[0]["wer"]):
        colour = COLOURS[number % len(COLOURS)]
        points: dict[str, Any] = {
            "color": colour,
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 6 if len(rows) < MANY else 4.5,
        }
        wers = [row["wer"][name] for row in rows]
        axes.plot(xs, wers, label=name, linewidth=1.0, color=colour)
        for places, fill in ((off, "white"), (on, colour)):
            axes.plot(
                [xs[i] for i in places], [wers[i] for i in places], linestyle="",
                markerfacecolor=fill, label=f"_{name}", **points,
            )  # fmt: skip
        handles[name] = Line2D([], [], linewidth=1.0, **points)
    (handles["front of the mean WER"],) = axes.plot(
        [xs[i] for i in on], [means[i] for i in on], label="_front", zorder=1, **FRONT
    )
    if off:
        handles["open: another size is cheaper and as good in the mean"] = Line2D(
            [], [], linestyle="", marker="o", color="0.4", markerfacecolor="white"
        )
    axes.set_xlim(0, 1.08 * max(xs))
    axes.set_xlabel(cost.label)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    return handles
