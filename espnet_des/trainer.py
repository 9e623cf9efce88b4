"""ESPnet's Trainer with a supernet's update counter, schedule and epochs."""

import contextlib
import logging
import warnings
from pathlib import Path
from typing import Optional
from unittest import mock

import numpy as np
import torch

import espnet2.train.trainer as stock
from espnet_des.checkpoints import (
    check_start, finish_epoch, remove_epochs, resume_with, whole_files,
)  # fmt: skip
from espnet_des.files import alone_in
from espnet_des.history import tell_tensorboard
from espnet_des.model import DESModel
from espnet_des.options import ConfigError, check_fits
from espnet_des.ranks import rank
from espnet_des.reporter import StageReporter
from espnet_des.resume_check import check_settings
from espnet_des.score_lr import ScaledGroup, needed_travel, sum_of_learning_rates
from espnet_des.selection import Schedule
from espnet_des.skipped import HOW_TO_GO_ON, check_weights

# Not that of the recipe, which holds its own while this training runs.
TRAINING_LOCK = ".training.lock"


class SupernetTrainer(stock.Trainer):
    """Trainer of ``model: des``.

    The counter advances where updates happen: in a hook of the optimizer's
    step. Accumulated batches, gradients that are not finite and steps that AMP
    skips do not count.
    """

    @classmethod
    def run(cls, model: DESModel, optimizers, schedulers, train_iter_factory,
            trainer_options, **kwargs) -> None:  # fmt: skip
        opts = trainer_options
        model.updates_per_epoch = count_updates(train_iter_factory, opts.accum_grad)
        model.total_updates = model.updates_per_epoch and (
            model.updates_per_epoch * opts.max_epoch
        )
        folder = Path(opts.output_dir)
        check_start(folder, opts.resume)
        if not (folder / "checkpoint.pth").exists():
            start_selection(model, optimizers[0], schedulers[0])
        hooks = register_hooks(model, optimizers[0])
        reporters = []

        def new_reporter():
            reporters.append(StageReporter(opts.best_model_criterion))
            return reporters[0]

        try:
            # ESPnet's run() makes its Reporter itself; nothing hands it one.
            with mock.patch.object(stock, "Reporter", new_reporter), quiet_reporter():
                with alone(folder), whole_files():
                    super().run(
                        model=model, optimizers=optimizers, schedulers=schedulers,
                        train_iter_factory=train_iter_factory, trainer_options=opts, **kwargs,
                    )  # fmt: skip
        finally:
            for hook in hooks:
                hook.remove()
        if rank() == 0:
            kept = reporters[0].kept_epochs(np.max(opts.keep_nbest_models))
            remove_epochs(folder, reporters[0].get_epoch(), kept)
        if not any(map(reporters[0].is_ranked, reporters[0].stats)):
            logging.warning(
                "No epoch lies wholly in stage 2 (the selection ends with update "
                f"{model.state.get_schedule().last_update}): there is no best epoch, and "
                "no averaged model is written. Raise max_epoch and resume."
            )

    @staticmethod
    def resume(checkpoint, model: DESModel, reporter, optimizers, schedulers, **kwargs):
        def load(path: Path) -> None:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            check_settings(found, optimizers, schedulers)
            stock.Trainer.resume(path, model, reporter, optimizers, schedulers, **kwargs)

        resume_with(load, Path(checkpoint))
        keep_schedule(model)
        reporter.find_lost(Path(checkpoint).parent)
        if rank() == 0:
            finish_epoch(Path(checkpoint), reporter.get_epoch(), reporter.best_epochs())

    @classmethod
    def train_one_epoch(cls, model, optimizers, summary_writer, **kwargs) -> bool:
        # Gradients of an accumulation that the last epoch left incomplete are
        # not in the checkpoint: without them a resume continues exactly.
        for optimizer in optimizers:
            optimizer.zero_grad()
        supernet = getattr(model, "module", model)
        supernet.tracker.start_epoch()
        supernet.skipped.start_epoch(kwargs["options"].accum_grad, int(supernet.state.updates))
        supernet.scaler = kwargs["scaler"]
        with tell_tensorboard(supernet, optimizers[0], summary_writer):
            nothing_learned = super().train_one_epoch(
                model=model, optimizers=optimizers, summary_writer=summary_writer, **kwargs
            )
        if nothing_learned:  # ESPnet would stop here, average, and end as if all were well
            raise RuntimeError(
                "this epoch made no update: the gradients of all its batches were not finite, "
                f"or it has fewer batches than accum_grad. {HOW_TO_GO_ON}"
            )
        check_weights(supernet)
        return False


@contextlib.contextmanager
def alone(folder: Path):
    """Refuse a second training in the folder; of several ranks the first looks."""
    with contextlib.ExitStack() as stack:
        if rank() == 0:
            stack.enter_context(alone_in(folder, "training", TRAINING_LOCK))
        yield


@contextlib.contextmanager
def quiet_reporter():
    """Keep the Reporter from warning of values that a stage does not have.

    The middle sizes have no loss in stage 1: their NaN is meant.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No valid stats found")
        yield


def count_updates(train_iter_factory, accum_grad: int) -> Optional[int]:
    """Optimizer updates per epoch; None where the iterator does not tell.

    All ranks stop with the one that has the fewest batches; they must agree on the schedule.
    """
    try:
        batches = len(train_iter_factory.build_iter(1))
    except TypeError:
        return None
    dist = torch.distributed
    if dist.is_available() and dist.is_initialized():
        fewest = torch.tensor(batches, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(fewest, dist.ReduceOp.MIN)
        batches = int(fewest)
    return batches // accum_grad


def register_hooks(model: DESModel, optimizer: torch.optim.Optimizer) -> list:
    """Let the optimizer's steps advance the selection; returns the handles."""
    scores = ScaledGroup(optimizer, score_group(model, optimizer))

    def before_step(*_):
        model.before_step()
        share = model.options.score_lr_at(model.state.get_schedule(), int(model.state.updates))
        scores.before_step(share * float(model.state.score_lr_factor))

    def after_step(*_):
        scores.after_step()
        # Fused optimizers are called by AMP even for a step that they then skip.
        skipped = getattr(optimizer, "found_inf", None)
        if skipped is None or not skipped.item():
            model.after_step()

    return [
        optimizer.register_step_pre_hook(before_step),
        optimizer.register_step_post_hook(after_step),
    ]


def score_group(model: DESModel, optimizer: torch.optim.Optimizer) -> int:
    scores = model.encoder.scores
    return next(i for i, g in enumerate(optimizer.param_groups) if g["params"] == [scores])


def start_selection(model: DESModel, optimizer: torch.optim.Optimizer, scheduler) -> None:
    """Fix schedule and learning rate of the scores at the first start, or refuse."""
    encoder, state, total = model.encoder, model.state, model.total_updates
    schedule = model.options.resolve(encoder.num_layers, encoder.sizes[0], total)
    known = state.get_schedule()  # with --init_param of a supernet
    if known is not None and known != schedule:
        logging.warning(
            f"The initial parameters bring their selection schedule ({describe(known)}); "
            f"it is kept, not the one of the options ({describe(schedule)})."
        )
        schedule = known
    if not state.is_frozen:
        check_fits(schedule, total, done=int(state.updates))
    state.set_schedule(schedule)
    factor = choose_score_lr_factor(model, optimizer, scheduler, schedule)
    # In float32, so that averaging over epochs gives the same number again.
    state.score_lr_factor.copy_(torch.tensor(factor, dtype=torch.float32))
    logging.info(f"The scores learn {factor:.4g} times as fast as the model.")
    tell_schedule(model)


def keep_schedule(model: DESModel) -> None:
    """After a resume: say so where the options would now give another schedule."""
    encoder, state = model.encoder, model.state
    kept = state.get_schedule()
    if not state.is_frozen:
        check_fits(kept, model.total_updates)
    try:
        now = model.options.resolve(
            encoder.num_layers, encoder.sizes[0], model.total_updates
        )
        difference = "" if now == kept else describe(now)
    except ConfigError as error:
        difference = str(error)
    if difference:
        logging.warning(
            f"The options would now give another selection schedule ({difference}); "
            f"the one of the first start is kept ({describe(kept)})."
        )
    tell_schedule(model)


def tell_schedule(model: DESModel) -> None:
    schedule, per_epoch = model.state.get_schedule(), model.updates_per_epoch
    logging.info(
        f"Selection schedule: {describe(schedule)}; the run has {model.total_updates} updates."
    )
    if per_epoch and not int(model.state.updates):
        first_whole = -(-(schedule.last_update + 1) // per_epoch) + 1
        logging.info(f"The first epoch that lies wholly in stage 2 is epoch {first_whole}.")


def choose_score_lr_factor(model: DESModel, optimizer, scheduler, schedule: Schedule) -> float:
    """The factor asked for, or what the first iteration's sparsity needs."""
    asked = model.options.score_lr_factor
    if not model.selector.needs_travel:
        return 1.0 if asked is None else asked
    needed = needed_travel(schedule, model.encoder.num_layers)
    group = score_group(model, optimizer)
    travel = sum_of_learning_rates(
        optimizer, scheduler, group, schedule.ends[0] + 1, model.updates_per_epoch,
        lambda t: model.options.score_lr_at(schedule, t),
    )  # fmt: skip
    enough = max(1.0, needed / max(travel, 1e-30))
    if asked is None:
        return enough
    if asked < enough and not model.state.is_frozen:
        logging.warning(
            f"model_conf: score_lr_factor: {asked:g} is too small: the scores must "
            f"move by {needed:.2f} in the first iteration, but their learning rates "
            f"sum to {travel * asked:.3g} only, so the zero-outs would cut noise. "
            f"{enough:.3g} would do (it is the default)."
        )
    return asked


def describe(schedule: Schedule) -> str:
    counts, zeroed = schedule.updates, schedule.zeroed
    return (
        f"{len(counts)} iterations of {min(counts)} to {max(counts)} updates, down by "
        f"{zeroed[0]} to {zeroed[-1]} layers, stage 1 ends with update {schedule.last_update}"
    )
