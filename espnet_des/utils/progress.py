"""Progress bars that are also readable in a log file."""

import sys
from typing import TextIO

from tqdm import tqdm


def progress(*args, **kwargs) -> tqdm:
    """A tqdm bar; away from a terminal it writes a line now and then only."""
    return tqdm(*args, mininterval=least_seconds(sys.stderr), **kwargs)


def least_seconds(file: TextIO) -> float:
    """Between two states of a bar."""
    return 0.2 if file.isatty() else 30.0
