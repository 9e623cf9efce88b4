"""Which processes live, and who started them (Linux)."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(is_so: Callable[[], object], what: str = "it"):
    """Wait for a condition, and return it; a deadlock ends the test, no slow machine does."""
    deadline = time.monotonic() + 300
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"{what} never came to be"
        time.sleep(0.02)
    return found


def lives(process: int) -> bool:
    """True until it has ended, whether or not somebody has asked for its exit code."""
    return _state(process) not in (None, "Z", "X")


def children(process: int) -> list[int]:
    """Living processes that it has started, and those that they have."""
    own = [int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(p) == process]
    return [c for child in own if lives(child) for c in (child, *children(child))]


def wait_for_the_end(processes: list[int]) -> None:
    """Wait until all have ended; those that do not are killed, so that no test leaves any."""
    try:
        wait_until(lambda: not any(map(lives, processes)), "the end of the processes")
    finally:
        for process in filter(lives, processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _state(process: int) -> str | None:
    fields = _fields(Path(f"/proc/{process}"))
    return fields[0] if fields else None


def _parent(folder: Path) -> int | None:
    fields = _fields(folder)
    return int(fields[1]) if fields else None


def _fields(folder: Path) -> list[str]:
    try:
        # A name in parentheses may hold anything; what comes after does not.
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
