"""ESPnet's Trainer with a supernet's update counter, schedule and epochs."""

import contextlib
import logging
import warnings
from pathlib import Path
from typing import Optional
from unittest import mock

import torch

import espnet2.train.trainer as stock
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet_des.files import write_atomically
from espnet_des.model import DESModel
from espnet_des.options import check_fits
from espnet_des.reporter import StageReporter
from espnet_des.score_lr import (
    needed_travel,
    scale_learning_rate,
    sum_of_learning_rates,
)
from espnet_des.selection import Schedule


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
        updates_per_epoch = count_updates(train_iter_factory, opts.accum_grad)
        total = updates_per_epoch and updates_per_epoch * opts.max_epoch
        prepare_selection(
            model, optimizers[0], schedulers[0], total, updates_per_epoch,
            resumes=opts.resume and (Path(opts.output_dir) / "checkpoint.pth").exists(),
        )  # fmt: skip
        hooks = [
            optimizers[0].register_step_pre_hook(lambda *_: model.before_step()),
            optimizers[0].register_step_post_hook(lambda *_: model.tracker.after_step()),
        ]
        reporters = []

        def new_reporter():
            reporters.append(StageReporter())
            return reporters[0]

        try:
            # ESPnet's run() makes its Reporter itself; nothing hands it one.
            with mock.patch.object(stock, "Reporter", new_reporter), quiet_reporter():
                super().run(
                    model=model, optimizers=optimizers, schedulers=schedulers,
                    train_iter_factory=train_iter_factory, trainer_options=opts, **kwargs,
                )  # fmt: skip
        finally:
            for hook in hooks:
                hook.remove()
        if not any(map(reporters[0].is_ranked, reporters[0].stats)):
            logging.warning(
                "No epoch lies wholly in stage 2 (the selection ends with update "
                f"{model.state.get_schedule().last_update}): there is no best epoch, and "
                "no averaged model is written. Raise max_epoch and resume."
            )

    @staticmethod
    def resume(checkpoint, model: DESModel, reporter, *args, **kwargs):
        proposed = model.state.get_schedule()
        stock.Trainer.resume(checkpoint, model, reporter, *args, **kwargs)
        kept = model.state.get_schedule()
        if kept != proposed:
            logging.warning(
                "The options would now give another selection schedule "
                f"({describe(proposed)}); the one of the first start is kept "
                f"({describe(kept)})."
            )
        # ESPnet writes checkpoint.pth first: a kill in between loses this file,
        # and averaging would fail on it at the end.
        epoch_file = Path(checkpoint).parent / f"{reporter.get_epoch()}epoch.pth"
        if not epoch_file.exists() and is_rank_zero():
            states = safe_torch_load(checkpoint, map_location="cpu")
            write_atomically(epoch_file, lambda path: torch.save(states["model"], path))

    @classmethod
    def train_one_epoch(cls, model, optimizers, **kwargs) -> bool:
        # Gradients of an accumulation that the last epoch left incomplete are
        # not in the checkpoint: without them a resume continues exactly.
        for optimizer in optimizers:
            optimizer.zero_grad()
        getattr(model, "module", model).tracker.start_epoch()
        return super().train_one_epoch(model=model, optimizers=optimizers, **kwargs)


@contextlib.contextmanager
def quiet_reporter():
    """Keep the Reporter from warning of values that a stage does not have.

    The middle sizes have no loss in stage 1: their NaN is meant.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No valid stats found")
        yield


def count_updates(train_iter_factory, accum_grad: int) -> Optional[int]:
    """Optimizer updates per epoch; None where the iterator does not tell."""
    try:
        return len(train_iter_factory.build_iter(1)) // accum_grad
    except TypeError:
        return None


def prepare_selection(
    model: DESModel,
    optimizer: torch.optim.Optimizer,
    scheduler,
    total: Optional[int],
    updates_per_epoch: Optional[int],
    resumes: bool,
) -> None:
    """Resolve the schedule and the scores' learning rate, or refuse to start."""
    encoder, opts, state = model.encoder, model.options, model.state
    schedule = opts.resolve(encoder.num_layers, encoder.sizes[0], total)
    known = state.get_schedule()  # with --init_param of a supernet
    if known is not None and known != schedule:
        logging.warning(
            f"The initial parameters bring their selection schedule ({describe(known)}); "
            f"it is kept, not the one of the options ({describe(schedule)})."
        )
        schedule = known
    if not state.is_frozen and not resumes:
        check_fits(schedule, total)
    state.set_schedule(schedule)
    logging.info(f"Selection schedule: {describe(schedule)}; the run has {total} updates.")
    if total is not None and updates_per_epoch:
        first_whole = -(-(schedule.last_update + 1) // updates_per_epoch) + 1
        logging.info(f"The first epoch that lies wholly in stage 2 is epoch {first_whole}.")
    group = next(
        i for i, g in enumerate(optimizer.param_groups) if g["params"] == [encoder.scores]
    )
    factor = 1.0 if opts.score_lr_factor is None else opts.score_lr_factor
    if model.selector.needs_travel:
        needed = needed_travel(schedule, encoder.num_layers)
        travel = sum_of_learning_rates(
            optimizer, scheduler, group, schedule.ends[0] + 1, updates_per_epoch
        )
        enough = max(1.0, needed / max(travel, 1e-30))
        if opts.score_lr_factor is None:
            factor = enough
        elif factor < enough and not state.is_frozen:
            logging.warning(
                f"model_conf: score_lr_factor: {factor:g} is too small: the scores must "
                f"move by {needed:.2f} in the first iteration, but their learning rates "
                f"sum to {travel * factor:.3g} only, so the zero-outs would cut noise. "
                f"{enough:.3g} would do (it is the default)."
            )
    logging.info(f"The scores learn {factor:.4g} times as fast as the model.")
    scale_learning_rate(optimizer, scheduler, group, factor)


def describe(schedule: Schedule) -> str:
    counts, zeroed = schedule.updates, schedule.zeroed
    return (
        f"{len(counts)} iterations of {min(counts)} to {max(counts)} updates, down by "
        f"{zeroed[0]} to {zeroed[-1]} layers, stage 1 ends with update {schedule.last_update}"
    )


def is_rank_zero() -> bool:
    dist = torch.distributed
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
