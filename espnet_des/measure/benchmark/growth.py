"""How the cost of an update grows: with the number of sizes, with depth, with length.

Of each point two rows: the last iteration of Simple-Top-k's stage 1, and stage 2, both
in plain steps of the same point (see :mod:`espnet_des.measure.benchmark.cost`).
"""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_des.measure.benchmark.cost import Meter, Row, Shares, describe_with
from espnet_des.measure.benchmark.rounds import one_thread
from espnet_des.measure.benchmark.steps import MODULES_PER_BLOCK, Bench, Setting
from espnet_des.measure.benchmark.training import (
    DROP_RATE,
    stage1_smallest,
    stage2,
)
from espnet_des.measure.benchmark.written import write_report


class Point(NamedTuple):
    """One row of a table.

    Attributes:
        at: what was varied: a number of sizes, of blocks, or of seconds.
        plain_seconds: of the plain step.
        limits: by count, stage 1 and stage 2 if the front end took no time.
    """

    at: float
    setting: Setting
    plain_seconds: float
    shares: Shares
    rows: list[Row]
    limits: list[float]


def even_sizes(count: int, num_layers: int) -> tuple[int, ...]:
    """Sizes at equal distances, from a third of the layers to all of them."""
    smallest = num_layers / 3
    step = (num_layers - smallest) / (count - 1)
    return tuple(round(smallest + i * step) for i in range(count))


def benchmark_growth(
    output_dir: Path,
    rounds: int = 5,
    sizes: Sequence[int] = (2, 3, 4, 6),
    blocks: Sequence[int] = (12, 24, 48),
    seconds: Sequence[float] = (2.0, 5.0, 10.0, 20.0),
    **setting,
) -> dict[str, list[Point]]:
    """Measure, print, and write ``benchmark_growth.md`` and ``.json``.

    Args:
        output_dir: where the two files go.
        rounds: every row runs once in each, beside a plain step.
        sizes: numbers of sizes, at the first number of blocks.
        blocks: depths, with three sizes.
        seconds: lengths of the utterances, with three sizes.
        **setting: of :class:`Setting`, for what is not varied.
    """
    output_dir.mkdir(parents=True, exist_ok=True)

    def of_depth(number: int, count: int = 3, **more) -> Setting:
        layers = even_sizes(count, MODULES_PER_BLOCK * number)
        # Exits cost the same with any number of sizes, and are in no count.
        own: dict[str, Any] = {"dim": 144, "preset": "published"} | setting
        own |= {"num_blocks": number, "sizes": layers}
        return Setting(**own | more)

    plan: dict[str, list[tuple[float, Setting]]] = {
        "sizes": [(count, of_depth(blocks[0], count)) for count in sizes],
        "blocks": [(number, of_depth(number)) for number in blocks],
        "seconds": [(length, of_depth(blocks[0], seconds=length)) for length in seconds],
    }
    points = {
        what: [measure_point(at, now, rounds) for at, now in settings]
        for what, settings in plan.items()
    }
    base = of_depth(blocks[0])
    text = (
        f"# How the cost of an update grows\n\n{describe_with(base.device)}, 1 thread; "
        f"d={base.dim}, {base.input_layer}; where not varied {base.num_blocks} blocks, three "
        f"sizes, {base.utterances} utterances of {base.seconds:g} s; seed {base.seed}; "
        f"medians of {rounds} rounds, in plain steps of the same line. Stage 1 is "
        f"Simple-Top-k at its smallest k, stage 2 has p2 = {DROP_RATE}.\n"
    )
    for what, sentence in SENTENCES.items():
        text += f"\n## By {what}\n\n{table(what, points[what])}\n{sentence(points[what])}\n"
    content: dict[str, Any] = {
        what: [point._asdict() | {
            "setting": point.setting._asdict(), "shares": point.shares._asdict(),
            "rows": [row._asdict() for row in point.rows],
        } for point in of_table] for what, of_table in points.items()
    }  # fmt: skip
    content = {"machine": describe_with(base.device), "rounds": rounds, **content}
    write_report(output_dir, "benchmark_growth", text, content)
    print(text)
    return points


def measure_point(at: float, setting: Setting, rounds: int) -> Point:
    gc.collect()  # the models of the last point
    with one_thread():
        meter = Meter(Bench(setting), rounds)
        cases = [stage1_smallest(meter.bench), stage2(meter.bench, DROP_RATE)]
        rows = [meter.row(case) for case in cases]
        no_front_end = Shares(0.0, meter.shares.forward)
        return Point(at, setting, meter.plain_seconds, meter.shares, rows,
                     [case.by_count(no_front_end) for case in cases])  # fmt: skip


def table(what: str, points: list[Point]) -> str:
    """Markdown."""
    lines = [
        f"| {what} | plain step, ms | front end | stage 1 | by count | stage 2 | by count |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        cells = " | ".join(f"{row.ratio:.2f} | {row.by_count:.2f}" for row in point.rows)
        lines.append(
            f"| {point.at:g} | {1000 * point.plain_seconds:.0f} "
            f"| {point.shares.front_end:.0%} | {cells} |"
        )
    return "\n".join(lines) + "\n"


def _costs(points: list[Point]) -> str:
    first, last = points[0].rows, points[-1].rows
    one, two = (f"from {a.ratio:.2f} to {b.ratio:.2f}" for a, b in zip(first, last))
    return f"the cost of stage 1 goes {one}, that of stage 2 {two}"


def _excess(points: list[Point]) -> str:
    most = max(row.ratio - row.by_count for point in points for row in point.rows)
    return f"what was measured is above the count by {max(0.0, most):.2f} at most"


def _by_sizes(points: list[Point]) -> str:
    most = max(point.rows[1].by_count for point in points)
    return (
        f"From {points[0].at:g} to {points[-1].at:g} sizes {_costs(points)}: "
        "stage 1 runs two passes, stage 2 three at most (two without a middle size), however "
        f"many sizes there are, by count {most:.2f} at most; {_excess(points)}."
    )


def _by_front_end(points: list[Point], unit: str) -> str:
    first, last = points[0], points[-1]
    limits = [max(values) for values in zip(*(point.limits for point in points))]
    return (
        f"From {first.at:g} to {last.at:g} {unit} the front end's share goes from "
        f"{first.shares.front_end:.0%} to {last.shares.front_end:.0%}, and {_costs(points)}: "
        "the front end runs once for all passes, so the count bounds "
        f"them by what they would be without one, {limits[0]:.2f} and {limits[1]:.2f}; "
        f"{_excess(points)}."
    )


SENTENCES = {
    "sizes": _by_sizes,
    "blocks": lambda points: _by_front_end(points, "blocks"),
    "seconds": lambda points: _by_front_end(points, "s"),
}
