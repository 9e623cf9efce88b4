"""Progress bars that are also readable in a log file."""

import sys

from tqdm import tqdm


def progress(*args, **kwargs) -> tqdm:
    """A tqdm bar; away from a terminal it writes a line now and then only."""
    is_terminal = sys.stderr.isatty()
    return tqdm(*args, mininterval=0.2 if is_terminal else 30.0, **kwargs)
