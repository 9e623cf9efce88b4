"""Checkpoints that survive a kill while they are written.

ESPnet writes ``checkpoint.pth`` in place and keeps no other: a kill or a full
disk in that moment loses the training. Here every file is written beside its
place and then renamed, and the checkpoint before the last one is kept.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Callable
from unittest import mock

import torch

from espnet_des.files import write_atomically

NAME, PREVIOUS = "checkpoint.pth", "checkpoint.previous.pth"


@contextlib.contextmanager
def whole_files():
    """While it lasts, ``torch.save`` to a path writes the whole file or nothing."""
    save = torch.save

    def save_atomically(obj, f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return save(obj, f, *args, **kwargs)
        path = Path(f)

        def write(partial: Path) -> None:
            save(obj, partial, *args, **kwargs)
            if path.name == NAME and path.exists():
                write_atomically(path.with_name(PREVIOUS), lambda p: _second_name(path, p))

        write_atomically(path, write)

    with mock.patch.object(torch, "save", save_atomically):
        yield


def _second_name(path: Path, other: Path) -> None:
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copy2(path, other)


def resume_with(load: Callable[[Path], None], checkpoint: Path) -> Path:
    """Load a checkpoint, or the one before it where it cannot be read.

    Returns:
        The file that was loaded.
    """
    previous = checkpoint.with_name(PREVIOUS)
    try:
        # Only whether it can be read; what it holds is for ``load`` to check.
        torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:
        if not previous.exists():
            raise RuntimeError(
                f"{checkpoint} cannot be read ({error}), and there is none before it. "
                "Nothing was overwritten. To begin anew, move it away"
            ) from error
        logging.warning(f"{checkpoint} cannot be read ({error}): resuming from {previous}")
        checkpoint = previous
    load(checkpoint)
    return checkpoint
