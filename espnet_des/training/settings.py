"""Settings of a training that ESPnet would notice late, not at all, or without naming them.

Three looks, each as early as what it needs is known: the settings alone, before anything is
built; with the model, before ``config.yaml`` is written; with the number of updates.
"""

import argparse
import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet2.tasks.abs_task import optim_classes, scheduler_classes
from espnet_des.errors import ConfigError, is_number, need, text_hint
from espnet_des.espnet_api import CHECKPOINT
from espnet_des.method.selection import Schedule
from espnet_des.nn.cost_table import read_cost_table
from espnet_des.nn.model import DESModel
from espnet_des.training.criteria import check_criteria, check_reported
from espnet_des.training.reporter import reported_names
from espnet_des.training.score_lr import check_optimizer_of_scores, stand_in_for

# Not lbfgs: its step needs the loss as a function, which ESPnet's Trainer does not give it.
OPTIMIZERS = sorted(set(optim_classes) - {"lbfgs"})
SCHEDULERS = sorted(scheduler_classes)
# They divide by warmup_steps; others take 0 for no warm-up.
DIVIDE_BY_WARMUP = ("noamlr", "warmuplr", "warmupreducelronplateau", "warmupsteplr")
# Batches are cut by their bins with these, else by their number of utterances.
BATCHES_OF_BINS = ("length", "numel", "catpow", "catpow_balance_dataset")
ITERATORS_WITH_BINS = ("sequence", "category")
COUNT = "an integer above 0"


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def is_count_or_none(value: Any) -> bool:
    return value is None or is_count(value)


class Rule(NamedTuple):
    """What a setting must be.

    Attributes:
        key: of the config.
        is_right: of its value.
        right: the same in words, after "must be".
    """

    key: str
    is_right: Callable[[Any], bool]
    right: str


RULES = [
    Rule("max_epoch", is_count, COUNT),
    Rule("accum_grad", is_count, COUNT),
    Rule("num_iters_per_epoch", is_count_or_none, f"{COUNT}, or null for all batches"),
    Rule("log_interval", is_count_or_none, f"{COUNT}, or null for ESPnet's choice"),
    Rule(
        "keep_nbest_models",
        lambda v: is_count(v) or (isinstance(v, (list, tuple)) and all(map(is_count, v))),
        f"{COUNT} (so many of the best epochs are averaged), or a list of them",
    ),
    Rule(
        "grad_clip",
        lambda v: is_number(v) and v > 0,
        "a number above 0 (0 lets nothing be learned, less climbs up the loss; 1.0e+6 clips "
        "nothing in effect)",
    ),
    Rule(
        "train_dtype",
        lambda v: v in ("float32", "float64"),
        "float32 (or float64); for half precision use use_amp: true, which keeps the "
        "weights in float32",
    ),
    Rule(
        "freeze_param",
        lambda v: isinstance(v, (list, tuple)) and all(isinstance(name, str) for name in v),
        "a list of names of parameters or modules, such as [frontend, encoder.embed]",
    ),
    Rule(
        "wandb_model_log_interval",
        lambda v: not v or v < 0,
        "0: with each model ESPnet asks which epoch is the best, and before stage 2 none is",
    ),
    # In lists: what YAML can hold is not always hashable.
    Rule("optim", lambda v: v in OPTIMIZERS, f"one of {OPTIMIZERS}"),
    Rule(
        "scheduler",
        lambda v: v is None or v in SCHEDULERS,
        f"null or one of {SCHEDULERS}",
    ),
]


def check_settings(args: argparse.Namespace) -> None:
    """Refuse, before anything is built or written, what no training can be made of.

    Args:
        args: of ESPnet's ASR task, for a supernet.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    for rule in RULES:
        need(rule.is_right(value := getattr(args, rule.key)), rule.key, value, rule.right)
    for key in keys_of_batches(args):
        need(is_count(value := getattr(args, key)), key, value, COUNT)
    check_criteria(args)
    check_mappings(args, ("optim_conf", "scheduler_conf"))
    check_optimizer_conf(args.optim, args.optim_conf)
    check_scheduler_conf(args.scheduler, args.scheduler_conf)
    if args.model_conf.get("ctc_weight") != 1.0:  # else there is no decoder
        smoothing = args.model_conf.get("lsm_weight", 0.0)
        need(
            is_number(smoothing) and 0.0 <= smoothing < 1.0,
            "model_conf: lsm_weight", smoothing, f"at least 0 and below 1{text_hint(smoothing)}",
        )  # fmt: skip


def check_mappings(args: argparse.Namespace, keys: Sequence[str]) -> None:
    """Refuse a list or text, or nothing, where keys and values belong.

    Raises:
        ConfigError: naming the first that is none.
    """
    for key in keys:
        value = getattr(args, key, {})
        if not isinstance(value, dict):
            raise ConfigError(
                f"{key}: {value!r} must hold keys and values, one a line and indented; leave "
                "it out where there are none"
            )


def keys_of_batches(args: argparse.Namespace) -> set[str]:
    """Those of ``batch_size`` and ``batch_bins`` that batches are really made by."""
    used = set()
    for phase in ("", "valid_"):
        batch_type = getattr(args, f"{phase}batch_type") or args.batch_type
        iterator = getattr(args, f"{phase}iterator_type") or args.iterator_type
        has_bins = batch_type in BATCHES_OF_BINS and iterator in ITERATORS_WITH_BINS
        key = "batch_bins" if has_bins else "batch_size"
        used.add(key if getattr(args, phase + key) is None else phase + key)
    return used


def check_optimizer_conf(name: str, conf: Mapping[str, Any]) -> None:
    """Refuse settings that no optimizer of this name can be made with."""
    for key in ("lr", "weight_decay"):
        value = conf.get(key, 0.0)
        ok = is_number(value) and 0.0 <= value < math.inf
        need(ok, f"optim_conf: {key}", value, f"a number of at least 0{text_hint(value)}")
    check_numbers("optim_conf", conf)
    with named_failure("optim", name, conf):
        optim_classes[name]([torch.nn.Parameter(torch.zeros(()))], **conf)


def check_scheduler_conf(name: str | None, conf: Mapping[str, Any]) -> None:
    """Refuse text that is meant for a number, and a warm-up that divides by 0."""
    if name is None:
        return
    check_numbers("scheduler_conf", conf)
    if "warmup_steps" in conf:
        value, divides = conf["warmup_steps"], name in DIVIDE_BY_WARMUP
        ok = is_number(value) and 0 <= value < math.inf and not (divides and value == 0)
        bound = "above 0" if divides else "of at least 0"
        need(
            ok, "scheduler_conf: warmup_steps", value, f"a number {bound} (scheduler: {name})"
        )


def check_numbers(key: str, conf: Mapping[str, Any]) -> None:
    """Refuse numbers that YAML took for text, such as 1e-3."""
    for name, value in conf.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            ok = not is_number_as_text(part)
            need(ok, f"{key}: {name}", value, f"a number{text_hint(part)}")


def is_number_as_text(value: Any) -> bool:
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def named_failure(key: str, name: str, conf: Mapping[str, Any]) -> Iterator[None]:
    """Errors of making an optimizer or scheduler name the settings that it was made with."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again when ESPnet makes it
            yield
    except Exception as error:  # of any class of torch's, ESPnet's or typeguard's
        why = str(error) or type(error).__name__
        raise ConfigError(f"{key}_conf: {conf} does not suit {key}: {name} ({why})") from error


def check_with_model(
    args: argparse.Namespace, model: DESModel, optimizer: torch.optim.Optimizer
) -> None:
    """Refuse what does not suit the model, or its parameters.

    Args:
        args: of ESPnet's ASR task, after :func:`check_settings`.
        model: to be trained.
        optimizer: of all its parameters.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in args.freeze_param:
        if not any(name == part or name.startswith(f"{part}.") for name in names):
            modules = sorted({name.split(".")[0] for name in names})
            raise ConfigError(
                f"freeze_param: {part!r} is the name of no parameter and no module that has "
                f"some: begin it with one of {modules}, such as 'encoder.embed'"
            )
    check_reported(args, model, reported_names(model, optimizer))
    has_begun = args.resume and (Path(args.output_dir) / CHECKPOINT).exists()
    if not args.init_param and not has_begun:  # else these are of the training that began
        check_optimizer_of_scores(model, optimizer)
        if model.options.budget == "ms" and not args.collect_stats:
            read_cost_table(str(model.options.cost_table)).check_model(model)
    if args.scheduler is not None:
        with named_failure("scheduler", args.scheduler, args.scheduler_conf):
            scheduler_classes[args.scheduler](stand_in_for(optimizer), **args.scheduler_conf)


def check_accumulation(batches: int, accum_grad: int) -> None:
    """Refuse epochs that have fewer batches than an update takes.

    Args:
        batches: of an epoch.
        accum_grad: batches per update.

    Raises:
        ConfigError: saying what the most is.
    """
    if batches < accum_grad:
        raise ConfigError(
            f"accum_grad: {accum_grad} is more than the {batches} batches of an epoch, so that "
            f"no update would ever be made: it must be at most {batches}. Lower it, or give "
            "an epoch more batches (smaller ones, or num_iters_per_epoch)"
        )


def check_one_cycle(scheduler: object | None, updates: int | None, begun: bool) -> None:
    """Refuse a run that goes on after the end of its one cycle, where torch stops it.

    Args:
        scheduler: of the training, in the state in which it goes on.
        updates: that are left to be done; None where they are not known.
        begun: False at the first start.

    Raises:
        ConfigError: with both numbers.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR) or updates is None:
        return
    steps, needed = scheduler.total_steps, scheduler.last_epoch + updates
    if needed <= steps:
        return
    if begun:
        raise ConfigError(
            f"max_epoch makes this run {needed} updates long, but scheduler: onecyclelr was "
            f"begun with {steps} (total_steps, or epochs times steps_per_epoch), and cannot be "
            "prolonged. Nothing was overwritten. Lower max_epoch, or begin anew in another "
            "output_dir"
        )
    raise ConfigError(
        f"scheduler_conf: total_steps: {steps} (or epochs times steps_per_epoch) must be at "
        f"least {needed}, the updates of this run (max_epoch x batches of an epoch / "
        "accum_grad): scheduler: onecyclelr has no learning rate after its last step"
    )


def tell_first_whole_epoch(
    schedule: Schedule, per_epoch: int, max_epoch: int, updates: int, epochs: int
) -> None:
    """Say which epoch is the first that can be best; warn where the run has none.

    Args:
        schedule: of the selection.
        per_epoch: updates of an epoch.
        max_epoch: epochs of the run.
        updates, epochs: that are done.
    """
    if epochs >= max_epoch:
        return
    left = max(0, schedule.last_update + 1 - updates)
    first = epochs + -(-left // per_epoch) + 1
    if first > max_epoch:
        logging.warning(
            f"No epoch of this run will lie wholly in stage 2: the selection ends with update "
            f"{schedule.last_update}, an epoch has {per_epoch} updates, and max_epoch is "
            f"{max_epoch}. So no epoch can be the best, and no averaged model will be written. "
            f"Raise max_epoch to {first} at least, or lower updates_per_iteration "
            "(selection_share)."
        )
    elif not updates:
        logging.info(f"The first epoch that lies wholly in stage 2 is epoch {first}.")
