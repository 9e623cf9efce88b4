"""ESPnet's Trainer with a supernet's update counter, schedule and epochs."""

import contextlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import espnet2.train.trainer as stock
from espnet_des.errors import HOW_TO_GO_ON, ConfigError
from espnet_des.espnet_api import CHECKPOINT, own_reporter, was_left_out
from espnet_des.method.options import check_fits
from espnet_des.method.selection import Schedule
from espnet_des.nn.model import DESModel
from espnet_des.training.bad_data import SkippedUpdates, check_weights
from espnet_des.training.checkpoints import (
    check_start,
    finish_epoch,
    load_states,
    named_mismatch,
    put_in_place,
    read_checkpoint,
    remove_epochs,
    whole_files,
)
from espnet_des.training.costs import set_costs
from espnet_des.training.reporter import SKIPPED, StageReporter
from espnet_des.training.score_log import tell_tensorboard
from espnet_des.training.score_lr import (
    ScaledGroup,
    choose_score_lr_factor,
    moves_by_gradient,
    score_group,
    share_moments,
)
from espnet_des.training.settings import (
    check_accumulation,
    check_one_cycle,
    tell_first_whole_epoch,
)
from espnet_des.utils.files import alone_in
from espnet_des.utils.ranks import are_several, device_of_group, rank

# Not that of the recipe, which holds its own while this training runs.
TRAINING_LOCK = ".training.lock"


class Length(NamedTuple):
    """Optimizer updates of a training; None where its iterator does not tell."""

    per_epoch: int | None
    total: int | None

    def left_after(self, epochs: int) -> int | None:
        if self.per_epoch is None or self.total is None:
            return None
        return self.total - epochs * self.per_epoch


class SupernetTrainer(stock.Trainer):
    """Trainer of ``model: des``.

    The counter advances where updates happen: in a hook of the optimizer's
    step. Accumulated batches, gradients that are not finite and steps that AMP
    skips do not count.

    Attributes:
        length: of the training that runs.
        skipped: its updates that were none.
    """

    # ESPnet's Trainer has class methods only; what one training has of its own is in a
    # subclass that ``run`` makes for it.
    length = Length(None, None)
    skipped: SkippedUpdates

    @classmethod
    def run(cls, model: DESModel, optimizers, schedulers, train_iter_factory,
            trainer_options, **kwargs) -> None:  # fmt: skip
        opts = trainer_options
        per_epoch = count_updates(train_iter_factory, opts.accum_grad)
        length = Length(per_epoch, per_epoch and per_epoch * opts.max_epoch)
        own = {"length": length, "skipped": SkippedUpdates(model.options.max_skipped_updates)}
        training: Any = type(cls.__name__, (cls,), own)
        folder = Path(opts.output_dir)
        check_start(folder, opts.resume)
        if not (folder / CHECKPOINT).exists():
            check_one_cycle(schedulers[0], length.total, begun=False)
            start_selection(model, optimizers[0], schedulers[0], length, opts.seed)
        hooks = register_hooks(model, optimizers[0])
        reporters = []

        def new_reporter():
            reporters.append(StageReporter(opts.best_model_criterion))
            return reporters[0]

        try:
            # ESPnet's run() makes its Reporter itself; nothing hands it one.
            with own_reporter(new_reporter), alone(folder), whole_files():
                super(SupernetTrainer, training).run(
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

    @classmethod
    def resume(cls, checkpoint, model: DESModel, reporter, optimizers, schedulers,
               scaler=None, **kwargs) -> None:  # fmt: skip
        checkpoint = Path(checkpoint)
        found, chosen = read_checkpoint(checkpoint)
        with named_mismatch(chosen):
            load_states(found, model, reporter, optimizers, schedulers, scaler)
        done = reporter.get_epoch()
        check_one_cycle(schedulers[0], cls.length.left_after(done), begun=True)
        put_in_place(chosen, checkpoint)
        logging.info(f"The training was resumed using {chosen}")
        keep_schedule(model, cls.length, done)
        reporter.find_lost(checkpoint.parent)
        if rank() == 0:
            best = reporter.best_epochs()
            finish_epoch(checkpoint.parent, found["model"], reporter.get_epoch(), best)

    @classmethod
    def train_one_epoch(
        cls, model, optimizers, scaler, summary_writer, options, **kwargs
    ) -> bool:
        # Gradients of an accumulation that the last epoch left incomplete are
        # not in the checkpoint: without them a resume continues exactly.
        for optimizer in optimizers:
            optimizer.zero_grad()
        supernet = getattr(model, "module", model)
        supernet.tracker.start_epoch(supernet.encoder.scores)
        cls.skipped.start_epoch(options.accum_grad, int(supernet.state.updates))

        def before_batch(module: DESModel, args, batch):
            cls.skipped.before_batch(int(module.state.updates), batch.get("utt_id", ()))
            if scaler is not None:
                one = torch.ones((), device=batch["speech"].device)
                batch = batch | {"loss_scale": scaler.scale(one)}
            return args, batch

        hook = supernet.register_forward_pre_hook(before_batch, with_kwargs=True)
        try:
            with tell_tensorboard(supernet, optimizers[0], summary_writer):
                nothing_learned = super().train_one_epoch(
                    model=model, optimizers=optimizers, scaler=scaler,
                    summary_writer=summary_writer, options=options, **kwargs,
                )  # fmt: skip
        finally:
            hook.remove()
        if nothing_learned:  # ESPnet would stop here, average, and end as if all were well
            raise RuntimeError(
                "this epoch made no update: the gradients of all its batches were not finite, "
                f"or it has fewer batches than accum_grad. {HOW_TO_GO_ON}"
            )
        check_weights(supernet)
        return False

    @classmethod
    def validate_one_epoch(cls, model, reporter, **kwargs) -> None:
        super().validate_one_epoch(model=model, reporter=reporter, **kwargs)
        supernet = getattr(model, "module", model)
        skipped = cls.skipped.total(int(supernet.state.updates))
        reporter.register(supernet.selection_stats() | {SKIPPED: float(skipped)})
        reporter.next()


@contextlib.contextmanager
def alone(folder: Path):
    """Refuse a second training in the folder; of several ranks the first looks."""
    with contextlib.ExitStack() as stack:
        if rank() == 0:
            stack.enter_context(alone_in(folder, "training", TRAINING_LOCK))
        yield


def count_updates(train_iter_factory, accum_grad: int) -> int | None:
    """Optimizer updates per epoch; None where the iterator does not tell.

    All ranks stop with the one that has the fewest batches; they must agree on the schedule.
    """
    try:
        batches = len(train_iter_factory.build_iter(1))
    except TypeError:
        return None
    if are_several():
        fewest = torch.tensor(batches, device=device_of_group())
        torch.distributed.all_reduce(fewest, torch.distributed.ReduceOp.MIN)
        batches = int(fewest)
    check_accumulation(batches, accum_grad)
    return batches // accum_grad


def register_hooks(model: DESModel, optimizer: torch.optim.Optimizer) -> list:
    """Let the optimizer's steps advance the selection; returns the handles."""
    scores = ScaledGroup(optimizer, score_group(model, optimizer))
    by_gradient = moves_by_gradient(model, optimizer)

    def before_step(*_):
        model.before_step()
        share = model.options.score_lr_at(model.state.get_schedule(), int(model.state.updates))
        scores.before_step(share * float(model.state.score_lr_factor))

    def after_step(*_):
        scores.after_step()
        if by_gradient and not model.state.is_frozen:
            share_moments(optimizer, model.encoder.scores)
        # Fused optimizers are called by AMP even for a step that they then skip.
        if not was_left_out(optimizer):
            model.after_step()

    return [
        optimizer.register_step_pre_hook(before_step),
        optimizer.register_step_post_hook(after_step),
    ]


def start_selection(
    model: DESModel, optimizer: torch.optim.Optimizer, scheduler, length: Length, seed: int
) -> None:
    """Fix schedule and learning rate of the scores at the first start, or refuse."""
    encoder, state, total = model.encoder, model.state, length.total
    if not int(state.updates):  # else --init_param brought the costs
        set_costs(model)
    known = state.get_schedule()  # with --init_param of a supernet
    if known is None:
        schedule = model.options.resolve(encoder.num_layers, encoder.sizes[0], total)
    else:
        schedule = known
        if other := other_schedule(model, known, total):
            logging.warning(
                f"The initial parameters bring their selection schedule ({describe(known)}); "
                f"it is kept, not the one of the options ({other})."
            )
    if not state.is_frozen:
        check_fits(schedule, total, done=int(state.updates))
    state.set_schedule(schedule)
    factor = choose_score_lr_factor(model, optimizer, scheduler, schedule, length.per_epoch)
    # In float32, so that averaging over epochs gives the same number again.
    state.score_lr_factor.copy_(torch.tensor(factor, dtype=torch.float32))
    state.seed.fill_(seed)
    logging.info(f"The scores learn {factor:.4g} times as fast as the model.")
    tell_schedule(model, length)


def keep_schedule(model: DESModel, length: Length, epochs: int) -> None:
    """After a resume: say so where the options would now give another schedule."""
    state = model.state
    kept = state.get_schedule()
    assert kept is not None, "checkpoints are of trainings that have one"
    if not state.is_frozen:
        left = length.left_after(epochs)
        check_fits(kept, left, done=int(state.updates))
    if other := other_schedule(model, kept, length.total):
        logging.warning(
            f"The options would now give another selection schedule ({other}); "
            f"the one of the first start is kept ({describe(kept)})."
        )
    asked = model.options.score_lr_factor
    if asked is not None and not torch.isclose(
        torch.tensor(asked, dtype=torch.float32), state.score_lr_factor.float(), rtol=1e-6
    ):
        logging.warning(
            f"model_conf: score_lr_factor: {asked:g} is not used: the training goes on with the "
            f"checkpoint's {float(state.score_lr_factor):g}."
        )
    tell_schedule(model, length, epochs)


def other_schedule(model: DESModel, kept: Schedule, total: int | None) -> str:
    """What the options would give in place of a schedule; empty where it is the same."""
    encoder = model.encoder
    try:
        now = model.options.resolve(encoder.num_layers, encoder.sizes[0], total)
    except ConfigError as error:
        return str(error)
    return "" if now == kept else describe(now)


def tell_schedule(model: DESModel, length: Length, epochs: int = 0) -> None:
    schedule, per_epoch = model.state.get_schedule(), length.per_epoch
    logging.info(
        f"Selection schedule: {describe(schedule)}; the run has {length.total} updates."
    )
    if per_epoch and length.total:
        tell_first_whole_epoch(
            schedule, per_epoch, length.total // per_epoch, int(model.state.updates), epochs
        )


def describe(schedule: Schedule) -> str:
    counts, zeroed = schedule.updates, schedule.zeroed
    return (
        f"{len(counts)} iterations of {min(counts)} to {max(counts)} updates, down by "
        f"{zeroed[0]} to {zeroed[-1]} layers, stage 1 ends with update {schedule.last_update}"
    )
