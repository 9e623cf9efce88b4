"""Checkpoints that survive a kill while they are written.

ESPnet writes ``checkpoint.pth`` in place and keeps no other: a kill or a full
disk in that moment loses the training. Here every file is written beside its
place and then renamed, and the checkpoint before the last one is kept.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Callable, Dict, Iterable, Optional
from unittest import mock

import torch

from espnet_des.files import write_atomically
from espnet_des.ranks import rank

NAME = "checkpoint.pth"
# Errors of the machine, which say nothing about a file's content.
NOT_NOW = {errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
PREVIOUS, DAMAGED = "checkpoint.previous.pth", "checkpoint.damaged.pth"
# What torch's writer says of a full disk; it does not pass the system's error on.
WRITER = re.compile("PytorchStreamWriter|inline_container")


@contextlib.contextmanager
def whole_files():
    """While it lasts, ``torch.save`` to a path writes the whole file or nothing.

    Raises:
        RuntimeError: where it cannot be written; what stood there before is untouched.
    """
    save = torch.save

    def save_atomically(obj, f, *args, **kwargs):
        if not isinstance(f, (str, os.PathLike)):
            return save(obj, f, *args, **kwargs)
        path = Path(f)

        def write(partial: Path) -> None:
            save(obj, partial, *args, **kwargs)
            if path.name == NAME and path.exists():
                write_atomically(path.with_name(PREVIOUS), lambda p: second_name(path, p))

        try:
            write_atomically(path, write)
        except (OSError, RuntimeError) as error:
            if not isinstance(error, OSError) and not WRITER.search(str(error)):
                raise  # not of the file, but of what was to be saved: a GPU that failed
            raise RuntimeError(
                f"{path} cannot be written: {error}. The checkpoints before it are whole: "
                "make room on the disk and start again, which goes on from the last one"
            ) from error

    with mock.patch.object(torch, "save", save_atomically):
        yield


def second_name(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copy2(path, other)


def check_start(folder: Path, resume: bool) -> None:
    """Refuse to begin anew where a training's checkpoints stand: it would write over them.

    Raises:
        RuntimeError: saying how to go on, or to begin anew.
    """
    there = [name for name in (NAME, PREVIOUS) if (folder / name).exists()]
    if there and not resume:
        raise RuntimeError(
            f"{folder} holds a training ({', '.join(there)}), over which --resume false would "
            "write. Give --resume true to go on with it; to begin anew, give another "
            "output_dir, or move this one away"
        )
    if there == [PREVIOUS]:
        raise RuntimeError(
            f"{folder / NAME} is missing, but {PREVIOUS} is there. To go on from it, rename it "
            f"to {NAME}; to begin anew, give another output_dir, or move this one away"
        )


@contextlib.contextmanager
def config_of_checkpoint(folder: Path):
    """While it lasts, a training that ends before it saves leaves config.yaml as it was.

    ESPnet writes its config before it looks at the checkpoint. Where that is refused,
    what was trained must not stand beside a config of something else.
    """
    config = folder / "config.yaml"
    before = config.read_bytes() if config.exists() else b""
    made = times_of_checkpoints(folder)
    try:
        yield
    except BaseException:
        if before and made and made == times_of_checkpoints(folder) and rank() == 0:
            write_atomically(config, lambda path: path.write_bytes(before))
        raise


def times_of_checkpoints(folder: Path) -> Dict[str, int]:
    return {
        name: (folder / name).stat().st_mtime_ns
        for name in (NAME, PREVIOUS) if (folder / name).exists()
    }  # fmt: skip


def resume_with(load: Callable[[Path], None], checkpoint: Path) -> None:
    """Load a checkpoint, or the one before it where it cannot be read.

    The damaged one is then ``checkpoint.damaged.pth``, and the one before stands in its
    place: the next checkpoint is put before it, and a damaged one must never get there.

    Raises:
        RuntimeError: where neither can be read, or it is of another model.
    """
    problem, chosen = why_unreadable(checkpoint), checkpoint
    if problem:
        chosen = checkpoint.with_name(PREVIOUS)
        before = why_unreadable(chosen) if chosen.exists() else "there is none before it"
        if before:
            raise RuntimeError(
                f"{checkpoint} cannot be read ({problem}), nor can {chosen.name} ({before}). "
                "Nothing was overwritten. To begin anew, move them away"
            )
        logging.warning(f"{checkpoint} cannot be read ({problem}): resuming from {chosen}")
    try:
        load(chosen)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (RuntimeError, ValueError, KeyError) as error:
        raise RuntimeError(
            f"{chosen} is of another model or optimizer than this config: {error}. "
            "Nothing was overwritten. Train with the config that made it, or give another "
            "output_dir"
        ) from error
    # A rank that looks only now finds the same content in the one or in the other.
    if problem and rank() == 0:
        write_atomically(checkpoint.with_name(DAMAGED), lambda p: second_name(checkpoint, p))
        write_atomically(checkpoint, lambda p: second_name(chosen, p))


def why_unreadable(checkpoint: Path) -> Optional[str]:
    """What is wrong with its content, or None.

    Raises:
        RuntimeError: where the disk, or the memory, does not let one know.
    """
    try:
        return check_readable(checkpoint)
    except Exception as error:  # of torch, zipfile or pickle
        why = str(error) or type(error).__name__
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in NOT_NOW:
            raise RuntimeError(
                f"{checkpoint} could not be read now ({why}), but may be whole. Nothing was "
                f"overwritten. Start again where it can be read, or put {PREVIOUS} in its place"
            ) from error
        return why


def check_readable(checkpoint: Path) -> None:
    """Raise where the file is not whole, or is no checkpoint of ESPnet's Trainer."""
    found = torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)
    keys = ("model", "reporter", "optimizers", "schedulers", "scaler")
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise RuntimeError(f"it is no checkpoint of a training: it lacks {missing}")
    with zipfile.ZipFile(checkpoint) as file:  # torch checks no sums
        member = file.testzip()
    if member:
        raise RuntimeError(f"its part {member} is damaged")


def finish_epoch(checkpoint: Path, epoch: int, best: Dict[str, int]) -> None:
    """What a kill just after ``checkpoint.pth`` was written has left undone.

    ESPnet then writes the epoch's own file and sets the links, and does neither again.

    Args:
        checkpoint: that the training goes on from.
        epoch: of the checkpoint.
        best: name of a criterion to its best epoch so far.
    """
    folder = checkpoint.parent
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    if not holds(folder / f"{epoch}epoch.pth", weights):
        torch.save(weights, folder / f"{epoch}epoch.pth")
    links = {"latest": epoch} | {f"{name}.best": number for name, number in best.items()}
    for name, number in links.items():
        write_atomically(
            folder / f"{name}.pth", lambda link: link.symlink_to(f"{number}epoch.pth")
        )


def holds(file: Path, weights: Dict[str, torch.Tensor]) -> bool:
    """False also where an earlier training has left another epoch of that number."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # not there, or damaged: it is written again
        return False
    return found.keys() == weights.keys() and all(
        torch.equal(found[key], weights[key]) for key in weights
    )


def remove_epochs(folder: Path, last: int, keep: Iterable[int]) -> None:
    """Remove the files of epochs before the last that are not to be kept.

    ESPnet does so at the end of each epoch; a kill in that of the last leaves them.
    """
    for epoch in set(range(1, last)) - set(keep):
        (folder / f"{epoch}epoch.pth").unlink(missing_ok=True)
