"""Which threads a training should have on a machine that may do something else as well.

One step of a supernet as small as the demo's, with one thread, and with several that spin
or sleep while they wait for each other; each alone and beside busy programs.
"""

import contextlib
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from espnet_des.errors import ConfigError
from espnet_des.measure.benchmark.neighbours import Neighbours
from espnet_des.measure.benchmark.rounds import measure, ratio
from espnet_des.measure.benchmark.steps import Bench, Setting, Step
from espnet_des.measure.benchmark.written import write_report
from espnet_des.utils.machine import cores, describe
from espnet_des.utils.processes import spawned
from espnet_des.utils.threads import SETTINGS

DEMO = Setting(
    num_blocks=6, dim=64, sizes=(8, 16, 24), seconds=2.0, utterances=32, preset="published"
)
DROP_RATE = 0.1


class Case(NamedTuple):
    """Threads and how they wait.

    Attributes:
        key: short name.
        name: what readers see.
        threads: how many.
        policy: OMP_WAIT_POLICY; None for what the library does by itself.
    """

    key: str
    name: str
    threads: int
    policy: str | None = None


class Row(NamedTuple):
    """What was measured of a case, alone or beside busy programs.

    Attributes:
        key: of the case.
        name: of the case.
        is_busy: whether the other programs ran.
        seconds: of a step, the median over the rounds.
        lowest: of the rounds.
        highest: of the rounds.
        to_one_thread: ratio to one thread, alike busy or not; the median of the rounds' ratios.
        to_alone: ratio to the same threads alone.
    """

    key: str
    name: str
    is_busy: bool
    seconds: float
    lowest: float
    highest: float
    to_one_thread: float
    to_alone: float


def cases(threads: int) -> list[Case]:
    return [
        Case("1", "1 thread", 1),
        Case("spinning", f"{threads} threads that spin (the library's default)", threads),
        Case("asleep", f"{threads} threads that sleep (OMP_WAIT_POLICY=PASSIVE)", threads,
             "PASSIVE"),
    ]  # fmt: skip


def benchmark_threads(
    output_dir: Path, threads: int = 2, busy: int = 2, rounds: int = 7,
    setting: Setting = DEMO,
) -> list[Row]:  # fmt: skip
    """Measure, print, and write ``benchmark_threads.md`` and ``.json``.

    Args:
        output_dir: where the two files go.
        threads: of a training, where it has several.
        busy: how many other programs there are.
        rounds: every case runs once in each, alone and beside them.
        setting: what is trained on what.

    Raises:
        ConfigError: where a number is out of range.
    """
    for key, value, least in (
        ("threads", threads, 2),
        ("busy", busy, 1),
        ("rounds", rounds, 1),
    ):
        if value < least:
            raise ConfigError(f"{key}: {value} must be at least {least}")
    output_dir.mkdir(parents=True, exist_ok=True)
    before = os.getloadavg()[0]
    times = measure_cases(cases(threads), busy, rounds, setting)
    rows = list(rows_of(cases(threads), times))
    loads = before, os.getloadavg()[0]
    text = report(rows, setting, busy, rounds, loads)
    content = {
        "machine": describe(), "cores": cores(), "load": loads, "busy": busy, "rounds": rounds,
        "setting": setting._asdict(), "rows": [row._asdict() for row in rows], "times": times,
    }  # fmt: skip
    write_report(output_dir, "benchmark_threads", text, content)
    print(text)
    return rows


def measure_cases(
    of: list[Case], busy: int, rounds: int, setting: Setting
) -> dict[str, list[float]]:
    """Seconds of a step in each round, by the case's key and ``alone`` or ``busy``.

    Each case is a process of its own: libraries read their settings once.
    """
    with contextlib.ExitStack() as stack:
        neighbours = stack.enter_context(Neighbours(busy))
        runs: dict[str, Callable[[], object]] = {}
        for case in of:
            with environment(case):
                pool = stack.enter_context(spawned(1, quiet))
                pool.submit(prepare, setting).result()

            def alone(pool=pool):
                pool.submit(run_step).result()

            def beside(pool=pool):
                with neighbours.busy():
                    pool.submit(run_step).result()

            runs |= {f"{case.key} alone": alone, f"{case.key} busy": beside}
        return measure(runs, rounds, time.perf_counter)


@contextlib.contextmanager
def environment(case: Case) -> Iterator[None]:
    """While it lasts, processes start with a case's settings and none of the user's."""
    before = {name: os.environ.pop(name, None) for name in ("OMP_NUM_THREADS", *SETTINGS)}
    os.environ["OMP_NUM_THREADS"] = str(case.threads)
    if case.policy is not None:
        os.environ["OMP_WAIT_POLICY"] = case.policy
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def quiet() -> None:
    logging.disable(logging.WARNING)  # every process would repeat ESPnet's remarks


_step: Step | None = None  # what this process runs


def prepare(setting: Setting) -> None:
    """Build the models, and run one step (in the case's process)."""
    global _step
    _step = Bench(setting).stage2(DROP_RATE)
    _step()


def run_step() -> None:
    """The step that :func:`prepare` has built (in the case's process)."""
    if _step is None:
        raise RuntimeError("prepare must be called first")
    _step()


def rows_of(of: list[Case], times: dict[str, list[float]]) -> Iterator[Row]:
    for case in of:
        for load in ("alone", "busy"):
            own = times[f"{case.key} {load}"]
            yield Row(
                case.key, case.name, load == "busy", statistics.median(own), min(own), max(own),
                ratio(own, times[f"{of[0].key} {load}"]), ratio(own, times[f"{case.key} alone"]),
            )  # fmt: skip


def report(
    rows: list[Row], setting: Setting, busy: int, rounds: int, loads: tuple[float, float]
) -> str:
    """Markdown."""
    lines = [
        "# Threads of a training on a CPU",
        "",
        f"{describe()}, {cores()} cores; a step (forward and backward in stage 2) of "
        f"{setting.num_blocks} blocks, d={setting.dim}, sizes "
        f"{'/'.join(map(str, setting.sizes))}, {setting.utterances} utterances of "
        f"{setting.seconds:g} s. Time by the clock; ratios are medians of {rounds} rounds, each "
        "of a ratio within the round. Load average of the machine when it began "
        f"{loads[0]:.1f}, when it ended {loads[1]:.1f}: it should be below 1 at the beginning, "
        "else somebody else's programs slow all of it down.",
        "",
        "| threads | other programs | ms | lowest - highest | to 1 thread | to itself alone |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {f'{busy} busy' if row.is_busy else 'none'} "
            f"| {1000 * row.seconds:.0f} | {1000 * row.lowest:.0f} - {1000 * row.highest:.0f} "
            f"| {row.to_one_thread:.2f} | {row.to_alone:.2f} |"
        )
    return "\n".join(lines) + "\n"
