"""Processes that end with the one that started them, however that one dies.

A command holds the writing end of a pipe, its lifeline, whose reading end goes to what it
starts, and from there on to what that starts. Nothing is ever written: at its end of file
whoever holds the other end is dead, or wants everybody to end.
"""

import contextlib
import multiprocessing
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any

# Descriptor, device and inode: with files closed and opened in between, the number alone
# could be that of another one.
VARIABLE = "ESPNET_DES_LIFELINE"


class _Lifeline:
    """The pipe of this process, made when it is first asked for."""

    def __init__(self):
        self._lock = threading.RLock()  # a signal may come while it is held
        self._ends: tuple[int, int] | None = None

    def ours(self) -> int:
        """The reading end."""
        with self._lock:
            if self._ends is None:
                self._ends = os.pipe()  # nobody inherits them but who is given one
            return self._ends[0]

    def cut(self) -> None:
        """Close the writing end; the other one may be on its way to a process."""
        with self._lock:
            ends, self._ends = self._ends, None
        if ends is not None:
            os.close(ends[1])


_lifeline = _Lifeline()


def lifeline() -> dict:
    """Arguments of :class:`subprocess.Popen`, for a process that is to end with this one.

    It does where it calls :func:`end_with_parent`, as all of our commands do, also below
    scripts that are no commands of ours.
    """
    end = _lifeline.ours()
    return {"env": os.environ | {VARIABLE: _name(end)}, "pass_fds": (end,)}


def end_with_parent() -> None:
    """Let this process get SIGTERM when the one that started it dies, or wants its end."""
    parent = multiprocessing.parent_process()
    watched = parent.sentinel if parent is not None else _inherited()
    if watched is not None:
        threading.Thread(target=_watch, args=(watched,), daemon=True).start()


def spawned(count: int, begin: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of fresh processes that end with this one.

    Spawned, not forked: a fork would start with this process's memory, and with copies of
    the locks of whatever threads run here.

    Args:
        count: how many.
        begin: called in each before anything else.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_begin, initargs=(begin,))


def _begin(begin: Callable[[], None] | None) -> None:
    end_with_parent()
    if begin is not None:
        begin()


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """While it lasts, SIGTERM and SIGINT end what was started from here, then raise.

    SystemExit, or KeyboardInterrupt: so that what was begun is tidied up. Signals that are
    ignored or handled already stay so; outside of the main thread it does nothing.
    """
    ours: dict[signal.Signals, Any]  # and what handles them
    ours = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    if threading.current_thread() is not threading.main_thread():
        ours = {}
    ours = {number: now for number, now in ours.items() if signal.getsignal(number) is now}
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, before in ours.items():
            signal.signal(number, before)


def _stop(number: int, frame) -> None:
    if number == signal.SIGTERM:  # once is enough: the second would break the tidying up
        signal.signal(number, signal.SIG_IGN)
    _lifeline.cut()
    for process in multiprocessing.active_children():
        process.terminate()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _inherited() -> int | None:
    """The reading end that the environment tells of; None where it is not that any more."""
    name = os.environ.get(VARIABLE, "")
    end = int(name.split(":")[0]) if name.split(":")[0].isdecimal() else None
    try:
        return end if end is not None and _name(end) == name else None
    except OSError:
        return None


def _name(end: int) -> str:
    about = os.fstat(end)
    kind = "" if stat.S_ISFIFO(about.st_mode) else ":not a pipe"
    return f"{end}:{about.st_dev}:{about.st_ino}{kind}"


def _watch(watched: int) -> None:
    wait([watched])
    os.kill(os.getpid(), signal.SIGTERM)
