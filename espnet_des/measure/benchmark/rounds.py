"""Paired rounds: what is compared runs in turn, so that drift hits all alike."""

import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from espnet_des.utils.progress import progress


def measure(
    runs: dict[str, Callable[[], object]], rounds: int, clock=time.process_time
) -> dict[str, list[float]]:
    """Time every run once per round, after one round that does not count.

    Args:
        runs: name to function.
        rounds: how often.
        clock: seconds; by default the CPU time of this process, which other
            processes disturb least.

    Returns:
        Name to the seconds of each round.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in progress(range(rounds + 1), desc="rounds", unit="round"):
        # In another order each time: what ran before leaves caches and memory behind.
        for name in random.Random(number).sample(list(runs), len(runs)):
            begin = clock()
            runs[name]()
            if number:
                times[name].append(clock() - begin)
    return times


def ratio(times: list[float], base: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(times, base))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For a while, in which torch computes with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
