"""Files that are there whole or not at all."""

import os
from pathlib import Path
from typing import Callable


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file (or link) beside ``path``, then put it in its place."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # of a run that was killed
    try:
        write(partial)
        if not partial.is_symlink():
            # Else a machine that stops may keep the new name without the content.
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
