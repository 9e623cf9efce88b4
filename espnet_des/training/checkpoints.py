"""Checkpoints that survive a kill while they are written.

ESPnet writes ``checkpoint.pth`` in place and keeps no other: a kill or a full
disk in that moment loses the training. Here every file is written beside its
place and then renamed, and the checkpoint before the last one is kept.
"""

import contextlib
import inspect
import itertools
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import yaml

from espnet_des.errors import ConfigError, OtherTrainingError, is_of_machine
from espnet_des.espnet_api import CHECKPOINT, epoch_file, own_save, read_tokens
from espnet_des.utils.files import write_atomically
from espnet_des.utils.ranks import rank

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
            if path.name == CHECKPOINT and path.exists():
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

    with own_save(save_atomically):
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
    there = [name for name in (CHECKPOINT, PREVIOUS) if (folder / name).exists()]
    if there and not resume:
        raise RuntimeError(
            f"{folder} holds a training ({', '.join(there)}), over which --resume false would "
            "write. Give --resume true to go on with it; to begin anew, give another "
            "output_dir, or move this one away"
        )
    if there == [PREVIOUS]:
        raise RuntimeError(
            f"{folder / CHECKPOINT} is missing, but {PREVIOUS} is there. To go on from it, "
            f"rename it to {CHECKPOINT}; to begin anew, give another output_dir, or move this "
            "one away"
        )


def check_tokens(
    folder: Path, token_list: str | Sequence[str], is_first: bool, added: Sequence[str] = ()
) -> None:
    """Refuse to go on with tokens of another order: the weights would spell other letters.

    Args:
        folder: of the training, with the config.yaml of its last start.
        token_list: of this start; its file, or the tokens.
        is_first: True of the process that writes the config, the only one that looks: the
            others might find it half written.
        added: tokens that ESPnet adds to them, and writes into the config.

    Raises:
        ConfigError: saying which token differs.
    """
    config = folder / "config.yaml"
    if not is_first or not config.exists() or not times_of_checkpoints(folder):
        return
    if isinstance(token_list, str):
        token_list = read_tokens(token_list)
    try:
        before = yaml.safe_load(config.read_text(encoding="utf-8"))["token_list"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        return  # of a start that was killed: nothing can be told
    before, token_list = ([t for t in ts if t not in added] for ts in (before, token_list))
    if token_list == before:
        return
    pairs = itertools.zip_longest(before, token_list)
    place, (old, new) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise ConfigError(
        f"token_list: token {place} is {new!r}, but {old!r} in the training that {folder} holds: "
        "its weights would spell other tokens. Give the token list that it began with, or "
        "another output_dir"
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


def times_of_checkpoints(folder: Path) -> dict[str, int]:
    return {
        name: (folder / name).stat().st_mtime_ns
        for name in (CHECKPOINT, PREVIOUS) if (folder / name).exists()
    }  # fmt: skip


def read_checkpoint(checkpoint: Path) -> tuple[dict, Path]:
    """Read a checkpoint, or the one before it where it cannot be read.

    Returns:
        Its content on the CPU, and the file that it is of.

    Raises:
        RuntimeError: where neither can be read.
    """
    try:
        return _read_whole(checkpoint), checkpoint
    except UnreadableError as error:
        problem = error
    before = checkpoint.with_name(PREVIOUS)
    try:
        content = _read_whole(before)
    except UnreadableError as error:
        also = error if before.exists() else "there is none before it"
        raise RuntimeError(
            f"{checkpoint} cannot be read ({problem}), nor can {before.name} ({also}). "
            "Nothing was overwritten. To begin anew, move them away"
        ) from error
    logging.warning(f"{checkpoint} cannot be read ({problem}): resuming from {before}")
    return content, before


def put_in_place(chosen: Path, checkpoint: Path) -> None:
    """Let the checkpoint that was loaded stand where the damaged one stands.

    That one is then ``checkpoint.damaged.pth``: the next checkpoint is put before the one
    that is there, and a damaged one must never get there.
    """
    # A rank that looks only now finds the same content in the one or in the other.
    if chosen != checkpoint and rank() == 0:
        write_atomically(checkpoint.with_name(DAMAGED), lambda p: second_name(checkpoint, p))
        write_atomically(checkpoint, lambda p: second_name(chosen, p))


class UnreadableError(RuntimeError):
    """What is wrong with a file's content."""


def _read_whole(checkpoint: Path) -> dict:
    """The content of a checkpoint of ESPnet's Trainer.

    Raises:
        UnreadableError: where it is damaged, or none.
        RuntimeError: where the disk, or the memory, does not let one know.
    """
    try:
        with zipfile.ZipFile(checkpoint) as file:  # torch checks no sums
            member = file.testzip()
        if member:
            raise UnreadableError(f"its part {member} is damaged")
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch, zipfile or pickle
        why = str(error) or type(error).__name__
        if is_of_machine(error):
            raise RuntimeError(
                f"{checkpoint} could not be read now ({why}), but may be whole. Nothing was "
                f"overwritten. Start again where it can be read, or put {PREVIOUS} in its place"
            ) from error
        raise UnreadableError(why) from error
    keys = ("model", "reporter", "optimizers", "schedulers", "scaler")
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise UnreadableError(f"it is no checkpoint of a training: it lacks {missing}")
    return found


@contextlib.contextmanager
def named_mismatch(checkpoint: Path):
    """Errors of loading a checkpoint of something else say whose fault it is.

    Others, of memory for example, are left as they are.

    Raises:
        OtherTrainingError: where it is of another model, optimizer or scheduler.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        of_torch = isinstance(error, RuntimeError) and "loading state_dict" in str(error)
        if isinstance(error, RuntimeError) and not (
            of_torch or isinstance(error, OtherTrainingError)
        ):
            raise
        raise OtherTrainingError(
            f"{checkpoint} is of another model or optimizer than this config: {error}. "
            "Nothing was overwritten. Train with the config that made it, or give another "
            "output_dir"
        ) from error


def load_states(found: dict, model, reporter, optimizers, schedulers, scaler) -> None:
    """Let a training go on from what its Trainer saved; as ESPnet's ``Trainer.resume``.

    Raises:
        OtherTrainingError, RuntimeError, ValueError: where it is of another training.
    """
    check_restored(found, optimizers, schedulers)
    model.load_state_dict(found["model"])
    reporter.load_state_dict(found["reporter"])
    for optimizer, state in zip(optimizers, found["optimizers"]):
        optimizer.load_state_dict(state)
    for scheduler, state in zip(schedulers, found["schedulers"]):
        if scheduler is not None:
            scheduler.load_state_dict(state)
    if scaler is not None and found["scaler"] is not None:
        scaler.load_state_dict(found["scaler"])


def finish_epoch(
    folder: Path, weights: dict[str, torch.Tensor], epoch: int, best: dict[str, int]
) -> None:
    """What a kill just after ``checkpoint.pth`` was written has left undone.

    ESPnet then writes the epoch's own file and sets the links, and does neither again.

    Args:
        folder: of the training.
        weights: of the checkpoint that the training goes on from.
        epoch: of the checkpoint.
        best: name of a criterion to its best epoch so far.
    """
    if not holds(folder / epoch_file(epoch), weights):
        torch.save(weights, folder / epoch_file(epoch))
    links = {"latest": epoch} | {f"{name}.best": number for name, number in best.items()}
    for name, number in links.items():
        write_atomically(
            folder / f"{name}.pth", lambda link: link.symlink_to(epoch_file(number))
        )


def holds(file: Path, weights: dict[str, torch.Tensor]) -> bool:
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
        (folder / epoch_file(epoch)).unlink(missing_ok=True)


# What a scheduler may change as it goes on; those of the second line do where they cycle it.
MOVING = {"lr"}
CYCLED = {"betas", "momentum"}
COUNTERS = {"last_epoch"}


def check_restored_optimizer(optimizer: torch.optim.Optimizer, state: dict, scheduler) -> None:
    """Refuse the state of another optimizer; say which settings of the config are not used.

    Args:
        optimizer: of the config, as it starts.
        state: of the checkpoint, see ``Optimizer.state_dict``.
        scheduler: of both; or None.

    Raises:
        OtherTrainingError: saying what differs.
    """
    kind = type(optimizer).__name__
    moving = set() if scheduler is None else MOVING
    if getattr(scheduler, "cycle_momentum", False):
        moving = moving | CYCLED
    for mine, theirs in zip(optimizer.param_groups, state["param_groups"]):
        other = sorted(mine.keys() ^ theirs.keys())
        # Adam and AdamW differ in this alone.
        if other or mine.get("decoupled_weight_decay") != theirs.get("decoupled_weight_decay"):
            raise OtherTrainingError(
                f"its optimizer has other settings ({', '.join(other)}) than optim: {kind}"
                if other else f"its optimizer decays weights otherwise than optim: {kind}"
            )  # fmt: skip
        asked = {k: v for k, v in mine.items() if k not in moving | {"params"}}
        _tell_differences(kind, asked, theirs)


def check_restored_scheduler(scheduler, state: dict | None) -> None:
    """As :func:`check_restored_optimizer`; either may be None.

    Raises:
        OtherTrainingError: saying what differs.
    """
    mine, theirs = (scheduler and scheduler.state_dict()) or {}, state or {}
    # Names that begin with _ are torch's own, and change with its versions.
    other = sorted(k for k in mine.keys() ^ theirs.keys() if k[0] != "_" and k != "verbose")
    if other:
        raise OtherTrainingError(
            f"its scheduler has other settings ({', '.join(other)}) than scheduler: "
            f"{type(scheduler).__name__ if scheduler else None}"
        )
    options = inspect.signature(type(scheduler).__init__).parameters
    asked = {k: v for k, v in mine.items() if k in options and k not in COUNTERS}
    _tell_differences(type(scheduler).__name__, asked, theirs)


def check_restored(found: dict, optimizers: Sequence, schedulers: Sequence) -> None:
    """Both, for all of a checkpoint of ESPnet's Trainer."""
    # Schedulers first: they leave keys in the optimizer, which is not to blame for them.
    for scheduler, state in zip(schedulers, found["schedulers"]):
        check_restored_scheduler(scheduler, state)
    for optimizer, state, scheduler in zip(optimizers, found["optimizers"], schedulers):
        check_restored_optimizer(optimizer, state, scheduler)


def _tell_differences(kind: str, asked: dict, kept: dict) -> None:
    for key, value in asked.items():
        if kept[key] != value:
            logging.warning(
                f"{kind}: {key}: {value} of the config is not used: the training goes on with "
                f"the checkpoint's {kept[key]}. To train with another, begin anew (--init_param "
                "takes over the weights)"
            )
