"""Learning rate and steps of the scores.

With AdamW a parameter moves by about its learning rate per update. Iterative-
Zero-Out starts its scores at 10, where a sigmoid gate is all but constant: in a
short run at the model's learning rate they never get anywhere, and the
zero-outs would cut noise. So the scores have a learning rate of their own.

Its steps are as long for each score, whatever hangs on it. Where scores are of components, a
whole convolution and a quarter of a feed-forward among them, that hides which of them counts.
"""

import copy
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch

from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler, AbsEpochStepScheduler
from espnet_des.errors import ConfigError
from espnet_des.method.options import BY_GRADIENT
from espnet_des.method.selection import Schedule
from espnet_des.nn.model import DESModel

# Optimizers that move a parameter by about its learning rate, however large its gradient.
STEPS_OF_LR = (
    torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam,
    torch.optim.RAdam, torch.optim.RMSprop,
)  # fmt: skip


def stand_in_for(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer for schedulers to act on in its place, of parameters that are not there."""
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    stand_in = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(()))], "lr": s["lr"]} for s in settings]
    )
    stand_in.defaults = copy.deepcopy(
        optimizer.defaults
    )  # where cyclic ones look for momentum
    for mine, theirs in zip(stand_in.param_groups, settings):
        mine.update(copy.deepcopy(theirs))
    return stand_in


def sum_of_learning_rates(
    optimizer: torch.optim.Optimizer,
    scheduler: object | None,
    group: int,
    num_updates: int,
    updates_per_epoch: int | None,
    share_at: Callable[[int], float] = lambda t: 1.0,
) -> float:
    """Sum of a parameter group's learning rates over the first updates.

    The scheduler is run ahead on a copy, over parameters that are not there.

    Args:
        share_at: of the rate that is used, by number of the update, from 0.
    """
    stand_in = stand_in_for(optimizer)
    ahead: Any = copy.copy(scheduler)
    if ahead is not None:
        ahead.optimizer = stand_in
    total = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "scheduler before optimizer": on purpose
        for update in range(1, num_updates + 1):
            total += float(stand_in.param_groups[group]["lr"]) * share_at(update - 1)
            if isinstance(ahead, AbsBatchStepScheduler) or (
                isinstance(ahead, AbsEpochStepScheduler)
                and not isinstance(ahead, torch.optim.lr_scheduler.ReduceLROnPlateau)
                and updates_per_epoch
                and update % updates_per_epoch == 0
            ):
                ahead.step()
    return total


# Those of which a second moment is all that makes the steps of parameters alike.
ADAMS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam)


def moves_by_gradient(model: DESModel, optimizer: torch.optim.Optimizer) -> bool:
    """Whether scores with larger gradients are to move more; see ``score_steps``.

    Raises:
        ConfigError: where this optimizer cannot be told so.
    """
    options = model.options
    if options.steps_of_scores(model.encoder.has_components) != BY_GRADIENT:
        return False
    if isinstance(optimizer, ADAMS):
        return True
    if options.score_steps is None:
        return False
    raise ConfigError(
        f"model_conf: score_steps: {options.score_steps} belongs to optim: adam, adamw "
        f"and radam, not to {type(optimizer).__name__.lower()}; leave it out"
    )


def share_moments(optimizer: torch.optim.Optimizer, scores: torch.nn.Parameter) -> None:
    """Divide the next steps of all scores by nearly the same: larger gradients move more.

    The mean square of the steps stays what it was.
    """
    state = optimizer.state.get(scores, {})
    for name in ("exp_avg_sq", "max_exp_avg_sq"):
        if name in state:
            state[name].copy_(state[name].mean().expand_as(scores))


class ScaledGroup:
    """Multiplies a parameter group's learning rate for the time of a step.

    Schedulers never see it: some keep their rates in places of their own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, group: int):
        self.optimizer, self.group = optimizer, group

    @property
    def _settings(self) -> dict:
        # Looked up every time: loading a state dict makes new groups.
        return self.optimizer.param_groups[self.group]

    def before_step(self, factor: float) -> None:
        self._plain = self._settings["lr"]
        self._settings["lr"] = self._plain * factor

    def after_step(self) -> None:
        self._settings["lr"] = self._plain


def score_group(model: DESModel, optimizer: torch.optim.Optimizer) -> int:
    """Number of the optimizer's parameter group that holds the scores alone."""
    scores = model.encoder.scores
    return next(
        number
        for number, group in enumerate(optimizer.param_groups)
        if any(parameter is scores for parameter in group["params"])
    )


def check_optimizer_of_scores(model: DESModel, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer of which it is not known how far it moves the scores.

    Raises:
        ConfigError: naming the key that must be given.
    """
    moves_by_gradient(model, optimizer)
    options = model.options
    must_travel = model.selector.travel(Schedule((1,), (1,)), model.encoder.num_layers)
    if (
        must_travel
        and options.score_lr_factor is None
        and not isinstance(optimizer, STEPS_OF_LR)
    ):
        raise ConfigError(
            "model_conf: score_lr_factor: None must be a number with optim: "
            f"{type(optimizer).__name__.lower()}, whose steps have the length of the "
            f"gradients: how far the scores of {options.method} move can be said "
            "before the training for adam, adamw and their like only. Give "
            "score_lr_factor, or use optim: adamw"
        )


def choose_score_lr_factor(
    model: DESModel,
    optimizer: torch.optim.Optimizer,
    scheduler: object | None,
    schedule: Schedule,
    updates_per_epoch: int | None,
) -> float:
    """The factor asked for, or what the method needs; see :meth:`Selector.travel`.

    Raises:
        ConfigError: where neither is known, see :func:`check_optimizer_of_scores`.
    """
    asked = model.options.score_lr_factor
    needed = model.selector.travel(schedule, model.encoder.num_layers)
    if needed is None:
        return 1.0 if asked is None else asked
    if not isinstance(optimizer, STEPS_OF_LR):
        if not model.state.is_frozen:
            check_optimizer_of_scores(model, optimizer)
        return 1.0 if asked is None else asked
    group = score_group(model, optimizer)
    travel = sum_of_learning_rates(
        optimizer, scheduler, group, needed.updates, updates_per_epoch,
        lambda t: model.options.score_lr_at(schedule, t),
    )  # fmt: skip
    enough = max(1.0, needed.distance / max(travel, 1e-30))
    if asked is None:
        return enough
    if asked < enough and not model.state.is_frozen:
        logging.warning(
            f"model_conf: score_lr_factor: {asked:g} is too small: the scores must "
            f"move by {needed.distance:.2f} in {needed.updates} updates, but their learning "
            f"rates sum to {travel * asked:.3g} only, so {needed.else_what}. "
            f"{enough:.3g} would do (it is the default)."
        )
    return asked
