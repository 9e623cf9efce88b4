"""Other programs that keep processors busy, when a benchmark wants them to."""

import contextlib
import multiprocessing
from collections.abc import Iterator

from espnet_des.utils.processes import end_with_parent


class Neighbours:
    """Programs in pure Python; asleep but within :meth:`busy`, and gone with this process."""

    def __init__(self, count: int):
        context = multiprocessing.get_context("spawn")
        self._may_run = context.Event()
        self._processes = [
            context.Process(target=_spin, args=(self._may_run,), daemon=True)
            for _ in range(count)
        ]

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        self._may_run.set()
        try:
            yield
        finally:
            self._may_run.clear()

    def __enter__(self) -> "Neighbours":
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *exception) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _spin(may_run) -> None:
    end_with_parent()
    while may_run.wait():
        for _ in range(100_000):  # some milliseconds
            pass
