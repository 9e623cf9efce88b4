"""Cost of an update in plain steps: measured, and by count of layers.

A plain step is forward and backward of the full encoder with its CTC loss. It runs
again beside every row, in paired rounds; a ratio is the median over the rounds.

What the count says comes from shares measured in the same run: of a plain step the
front end takes F and the layers with their loss L = 1 - F, of which the forward is f.
A pass that runs a share a of the layers forward, and a share b of them backward, costs
L * (f * a + (1 - f) * b); an update costs F and its passes, if nothing else takes time.
"""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from espnet_des.measure.benchmark.rounds import measure, ratio
from espnet_des.measure.benchmark.rss import peak_growth
from espnet_des.measure.benchmark.saved import count_saved
from espnet_des.measure.benchmark.steps import Bench, Step
from espnet_des.utils.machine import describe


class Shares(NamedTuple):
    """Of a plain step: the front end (F), and of the rest what is forward (f)."""

    front_end: float
    forward: float

    def by_count(self, *passes: tuple[float, float]) -> float:
        """Cost of an update, in plain steps.

        Args:
            passes: for each, the share of the layers that is run forward, and
                the share that is run backward.
        """
        f = self.forward
        layers = sum(f * forward + (1 - f) * backward for forward, backward in passes)
        return self.front_end + (1 - self.front_end) * layers


class Case(NamedTuple):
    """What a row measures: the mean, or the sum, of some steps.

    Attributes:
        key: short name, unique within a table.
        name: what readers see.
        steps: what is run.
        by_count: cost in plain steps by the count of layers.
        is_sum: of the steps; else it is their mean.
        is_random: True where stochastic depth decides what a run computes.
    """

    key: str
    name: str
    steps: Sequence[Step]
    by_count: Callable[[Shares], float]
    is_sum: bool = False
    is_random: bool = False


class Row(NamedTuple):
    """What was measured.

    Attributes:
        seconds: of the row, median over the rounds.
        ratio: to the plain step, median over the rounds.
        lowest: ratio of all rounds.
        highest: ratio of all rounds.
        by_count: the ratio that the count of layers gives.
        memory_bytes: peak of what waits for the backward; see :func:`peak_memory`.
        memory: relative to the plain step.
        rss_bytes: by which the process grew at most; None on a GPU.
    """

    key: str
    name: str
    seconds: float
    ratio: float
    lowest: float
    highest: float
    by_count: float
    memory_bytes: float
    memory: float
    rss_bytes: int | None


class Meter:
    """Measures rows of one setting.

    Args:
        bench: its models.
        rounds: every row runs once in each.
    """

    def __init__(self, bench: Bench, rounds: int):
        self.bench, self.rounds = bench, rounds
        self.plain = bench.plain_step(bench.num_layers)
        self.plain_bytes = peak_memory(bench, self.plain)
        self.shares, self.plain_seconds = self._shares()

    def _measure(self, runs: dict[str, Step]) -> dict[str, list]:
        return measure(
            {"plain": self.plain} | runs, self.rounds, clock_of(self.bench.setting.device)
        )

    def _shares(self) -> tuple[Shares, float]:
        bench = self.bench
        times = self._measure({
            "front": bench.front_end(backward=True),
            "front forward": bench.front_end(backward=False),
            "forward": bench.forward_of_plain(),
        })  # fmt: skip
        front = ratio(times["front"], times["plain"])
        forward = ratio(times["forward"], times["plain"])
        front_forward = ratio(times["front forward"], times["plain"])
        shares = Shares(front, (forward - front_forward) / (1 - front))
        return shares, statistics.median(times["plain"])

    def row(self, case: Case) -> Row:
        times = self._measure({str(i): step for i, step in enumerate(case.steps)})
        plain = times.pop("plain")
        parts = 1 if case.is_sum else len(case.steps)
        seconds = [sum(values) / parts for values in zip(*times.values())]
        ratios = [mine / base for mine, base in zip(seconds, plain)]
        runs = self.rounds if case.is_random else 1
        # Of the steps that follow each other in time the largest counts.
        memory = max(
            statistics.mean(peak_memory(self.bench, step) for _ in range(runs))
            for step in case.steps
        )
        row = Row(
            case.key, case.name, statistics.median(seconds), statistics.median(ratios),
            min(ratios), max(ratios), case.by_count(self.shares), memory,
            memory / self.plain_bytes, self._rss(case),
        )  # fmt: skip
        logging.info(
            f"{row.name}: {row.ratio:.3f} plain steps ({row.by_count:.3f} by count), "
            f"memory {row.memory:.3f}"
        )
        return row

    def _rss(self, case: Case) -> int | None:
        if is_cuda(self.bench.setting.device):
            return None
        growth = [peak_growth(step) for step in case.steps]
        known = [g for g in growth if g is not None]
        return max(known) if len(known) == len(growth) else None


def peak_memory(bench: Bench, step: Step) -> int:
    """Bytes that one step needs at its peak.

    On a CPU those of the tensors saved for backward; on a GPU all that the step
    allocates, gradients of the parameters included.
    """
    device = bench.setting.device
    if is_cuda(device):
        step()  # what is allocated once and stays is there before
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with count_saved(p for model in bench.models() for p in model.parameters()) as saved:
        step()
    return saved.peak


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def clock_of(device: str) -> Callable[[], float]:
    """CPU time of the process; for a GPU the time when all that was asked of it is done."""
    if not is_cuda(device):
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def describe_with(device: str) -> str:
    """The machine, and the GPU where there is one in use."""
    gpu = f", {torch.cuda.get_device_name(device)}" if is_cuda(device) else ""
    return describe() + gpu
