"""Criteria by which epochs are ranked, a training is stopped, or its learning rate is lowered."""

import argparse
import logging
from typing import Any, NamedTuple

from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
from espnet2.tasks.abs_task import scheduler_classes
from espnet_des.errors import ConfigError, need
from espnet_des.nn.model import DESModel

KNOWN = {"phase": ("train", "valid"), "mode": ("min", "max")}
RANKING, SCHEDULING = "best_model_criterion", "val_scheduler_criterion"


class Criterion(NamedTuple):
    """Of a config.

    Attributes:
        key: of the config.
        value: phase and name of a statistic, and its mode where it has one.
    """

    key: str
    value: Any


def criteria_in_use(args: argparse.Namespace) -> list[Criterion]:
    """Those by which this training ranks, stops or steps its scheduler."""
    found = [Criterion(RANKING, value) for value in args.best_model_criterion]
    if args.patience is not None:
        found.append(Criterion("early_stopping_criterion", args.early_stopping_criterion))
    scheduler = scheduler_classes.get(args.scheduler)
    if scheduler is not None and issubclass(scheduler, AbsValEpochStepScheduler):
        found.append(Criterion(SCHEDULING, args.val_scheduler_criterion))
    return found


def check_criteria(args: argparse.Namespace) -> None:
    """Refuse those that have not the form of one.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    value = args.best_model_criterion
    ok = isinstance(value, (list, tuple)) and all(isinstance(v, (list, tuple)) for v in value)
    need(ok, RANKING, value, "[[phase, key, mode], ...], such as [[valid, cer_ctc, min]]")
    for key, value in criteria_in_use(args):
        form, example = ["phase", "key", "mode"], ["valid", "loss", "min"]
        if key == SCHEDULING:
            form, example = form[:2], example[:2]
        ok = isinstance(value, (list, tuple)) and len(value) == len(form)
        ok = ok and all(isinstance(part, str) for part in value)
        need(ok, key, value, f"[{', '.join(form)}], such as [{', '.join(example)}]")
        for part, said in zip(form, value):
            known = KNOWN.get(part, (said,))
            need(said in known, f"{key}: {list(value)}: {part}", said, " or ".join(known))


def check_reported(
    args: argparse.Namespace, model: DESModel, reported: dict[str, set[str]]
) -> None:
    """Refuse criteria by what this training never reports.

    ESPnet's own configs name the accuracy of a decoder beside other criteria, and rank by the
    others where there is none.

    Args:
        args: after :func:`check_criteria`.
        model: of the training.
        reported: names by phase, see ``reporter.reported_names``.

    Raises:
        ConfigError: naming the criterion, and what is reported.
    """
    told = f"This training reports { ({p: sorted(names) for p, names in reported.items()}) }"
    for key, (phase, name, *mode) in criteria_in_use(args):
        known = set(reported[phase])
        if key == RANKING:
            known |= model.names_of_stats(phase == "train", with_decoder=True)
        if name not in known:
            raise ConfigError(
                f"{key}: {[phase, name, *mode]}: {phase}.{name} is never reported. {told}"
            )
        if key == SCHEDULING and name == "loss" and len(model.encoder.sizes) > 2:
            logging.warning(
                f"{key}: {[phase, name]}: with stage 2 the loss gets the middle sizes' parts, and "
                f"rises: {args.scheduler} may lower the learning rate for that alone. One of the "
                "full size's, such as [valid, loss_ctc], does not"
            )
    ranking = [list(criterion) for criterion in args.best_model_criterion]
    if ranking and not any(name in reported[phase] for phase, name, _ in ranking):
        raise ConfigError(
            f"{RANKING}: {ranking}: none of them is ever reported (there is no accuracy "
            f"without a decoder). {told}"
        )
