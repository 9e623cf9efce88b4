"""Is a checkpoint's optimizer that of the config?

torch takes over another optimizer's or scheduler's settings without a word, and keeps the
checkpoint's where the config has changed.
"""

import inspect
import logging
from typing import Optional, Sequence

import torch

# A scheduler may change them as it goes on.
MOVING = {"params", "lr", "betas", "momentum"}
COUNTERS = {"last_epoch"}


def check_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Refuse the state of another optimizer; say which settings of the config are not used.

    Args:
        optimizer: of the config, as it starts.
        state: of the checkpoint, see ``Optimizer.state_dict``.

    Raises:
        RuntimeError: saying what differs.
    """
    kind = type(optimizer).__name__
    for mine, theirs in zip(optimizer.param_groups, state["param_groups"]):
        other = sorted(mine.keys() ^ theirs.keys())
        # Adam and AdamW differ in this alone.
        if other or mine.get("decoupled_weight_decay") != theirs.get("decoupled_weight_decay"):
            raise RuntimeError(
                f"its optimizer has other settings ({', '.join(other)}) than optim: {kind}"
                if other else f"its optimizer decays weights otherwise than optim: {kind}"
            )  # fmt: skip
        _tell_differences(kind, {k: v for k, v in mine.items() if k not in MOVING}, theirs)


def check_scheduler(scheduler, state: Optional[dict]) -> None:
    """As :func:`check_optimizer`; either may be None.

    Raises:
        RuntimeError: saying what differs.
    """
    mine, theirs = (scheduler and scheduler.state_dict()) or {}, state or {}
    # Names that begin with _ are torch's own, and change with its versions.
    other = sorted(k for k in mine.keys() ^ theirs.keys() if k[0] != "_" and k != "verbose")
    if other:
        raise RuntimeError(
            f"its scheduler has other settings ({', '.join(other)}) than scheduler: "
            f"{type(scheduler).__name__ if scheduler else None}"
        )
    options = inspect.signature(type(scheduler).__init__).parameters
    asked = {k: v for k, v in mine.items() if k in options and k not in COUNTERS}
    _tell_differences(type(scheduler).__name__, asked, theirs)


def check_settings(found: dict, optimizers: Sequence, schedulers: Sequence) -> None:
    """Both, for all of a checkpoint of ESPnet's Trainer."""
    for optimizer, state in zip(optimizers, found["optimizers"]):
        check_optimizer(optimizer, state)
    for scheduler, state in zip(schedulers, found["schedulers"]):
        check_scheduler(scheduler, state)


def _tell_differences(kind: str, asked: dict, kept: dict) -> None:
    for key, value in asked.items():
        if kept[key] != value:
            logging.warning(
                f"{kind}: {key}: {value} of the config is not used: the training goes on with "
                f"the checkpoint's {kept[key]}. To train with another, begin anew (--init_param "
                "takes over the weights)"
            )
