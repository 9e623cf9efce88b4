"""How the threads of one computation wait for each other.

torch's wheels for Linux bring GNU's libgomp, whose threads spin while they wait. That is
fastest where each has a processor to itself. Where another program runs as well, they burn
the time that the one they wait for would need: a step takes many times as long. Asleep,
several threads may gain nothing on a small model, but never lose much
(``python3 -m espnet_des.bin.benchmark_threads``).
"""

import contextlib
import os
from collections.abc import Iterator

# Any of them says what the user wants: of OpenMP, of GNU's and of LLVM's and Intel's library.
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
# Says, also to processes that are started later, that it was not the user who chose.
BY_US = "ESPNET_DES_WAITS_ASLEEP"


def wait_asleep() -> None:
    """Choose threads that sleep, unless the user has chosen; for processes started later, too.

    libgomp reads it once, when it is loaded: call this before torch is imported.
    """
    if not any(name in os.environ for name in SETTINGS):
        os.environ.update(ASLEEP, **{BY_US: "1"})


@contextlib.contextmanager
def as_applications_wait() -> Iterator[None]:
    """While it lasts, processes start with the library's own way, unless the user has chosen.

    For measurements of what a model costs in other people's programs.
    """
    ours = {name: value for name, value in ASLEEP.items() if os.environ.get(name) == value}
    ours = ours | {BY_US: os.environ[BY_US]} if BY_US in os.environ else {}
    for name in ours:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(ours)
