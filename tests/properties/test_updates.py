"""Real supernets under a real optimizer: equal ranks, exact resumes, a final stage 2.

Ranks are copies of a model whose random numbers differ and whose reduced gradients are
equal, as those that DDP hands to each of them.
"""

import argparse
import copy
import random
from typing import NamedTuple

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_des.method.methods import METHODS
from espnet_des.nn.model import DESModel
from espnet_des.task import SupernetTask
from espnet_des.training.trainer import register_hooks
from tests.conftest import examples, make_model, under_ddp
from tests.properties.strategies import (
    SEEDS,
    Run,
    batches,
    encoder_confs,
    runs,
    texts,
    through_a_file,
)
from tests.train import assert_same

pytestmark = pytest.mark.fuzzed

# Momentum and weight decay: they would move what an update is not meant to train.
OPTIMIZERS = {
    "adamw": {"lr": 0.1, "weight_decay": 0.1},
    "sgd": {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.1},
}
IN_STAGE_2 = 3


class Training(NamedTuple):
    """A supernet that trains, and what is needed to make it once more."""

    model: DESModel
    optimizer: torch.optim.Optimizer
    conf: dict
    run: Run
    optim: str

    def __repr__(self):
        return f"{self.optim}, {self.conf}, {self.run}"

    def copy_of_the_start(self) -> "Training":
        """The same settings and parameters, as DDP gives them to every rank."""
        other = start(self.conf, self.run, self.optim)
        other.model.load_state_dict(self.model.state_dict())
        return other

    def kept(self) -> list[list[int]]:
        return [self.model.encoder.kept_layers(size) for size in self.run.sizes]

    def step(self, of_scores: torch.Tensor) -> None:
        """One optimizer step with this gradient of the scores, and some of all else."""
        if self.model.encoder.scores.dim() == 2:  # a row chooses, too
            of_scores = torch.outer(of_scores, of_scores.roll(1))
        for name, p in self.model.named_parameters():
            p.grad = of_scores.clone() if name == "encoder.scores" else 0.1 * p.detach().sign()
        self.optimizer.step()


def start(conf: dict, run: Run, optim: str) -> Training:
    """A training as SupernetTask and SupernetTrainer set it up."""
    own = {key: getattr(run.options, key) for key in run.options.keys()}
    model = make_model(conf, run.schedule, **own)
    args = argparse.Namespace(
        optim=optim, optim_conf=OPTIMIZERS[optim], sharded_ddp=False,
        exclude_weight_decay=False, freeze_param=[], best_model_criterion=[], patience=None,
        scheduler=None, resume=False,
        init_param=["a supernet"],  # whose scores any optimizer may have moved
    )  # fmt: skip
    (optimizer,) = SupernetTask.build_optimizers(args, model)
    register_hooks(model, optimizer)
    return Training(model, optimizer, conf, run, optim)


@st.composite
def trainings(draw, methods=tuple(METHODS), **more):
    """The start of a training; small and of any settings."""
    conf = draw(encoder_confs(**{"max_blocks": 2, "front_ends": ("linear",)} | more))
    run = draw(runs(updates=st.integers(1, 2), sizes=conf["sizes"], methods=methods))
    optim = draw(st.sampled_from(list(OPTIMIZERS)))
    torch.manual_seed(draw(SEEDS))
    return start(conf, run, optim)


@st.composite
def gradients(draw, run: Run):
    """Gradients of the scores over all updates, small or large, many of them equal."""
    rng = numpy.random.default_rng(draw(SEEDS))
    shape = (run.last_update + 1 + IN_STAGE_2, run.num_layers)
    size = draw(st.sampled_from([0.0, 1e-30, 1.0, 30.0]))
    return torch.from_numpy(size * rng.integers(-2, 3, shape)).float()


def scatter_random_numbers(rank: int, t: int) -> None:
    """Every rank and update draws other ones, of all generators."""
    seed = 97 * rank + t
    random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)


def decided(training: Training) -> dict:
    """All that the ranks must agree on before an update."""
    model = training.model
    t = int(model.state.updates)
    passes = [(p.size, p.weight, p.kept, list(p.closed), list(p.faint), list(p.dropped))
              for p in model.passes(t)]  # fmt: skip
    return {"update": t, "stage": model.stage, "kept": training.kept(), "passes": passes,
            "middle": model.middle_size(t)}  # fmt: skip


@examples(20)
@given(st.data())
def test_ranks_with_equal_gradients_choose_equally(data):
    one = data.draw(trainings())
    walk = data.draw(gradients(one.run))
    two = one.copy_of_the_start()
    for t, row in enumerate(walk):
        seen = []
        for rank, training in enumerate((one, two)):
            scatter_random_numbers(rank, t)
            seen.append(decided(training))
            training.step(row)
        assert seen[0] == seen[1]
        assert one.kept() == two.kept()
    assert_same(one.model.state_dict(), two.model.state_dict())


@examples(10)
@given(st.data())
@under_ddp()
def test_ranks_stay_equal_with_utterances_and_dropout_of_their_own(data):
    conf = {"front_ends": ("linear", "conv2d1")}
    one = data.draw(trainings(methods=["simple_top_k", "iterative_zero_out"], **conf))
    ranks, inputs = (one, one.copy_of_the_start()), []
    for _ in ranks:
        batch = data.draw(batches(one.conf, max_rows=2, max_frames=30))
        inputs.append((*batch, *data.draw(texts(len(batch.lengths)))))
    for t in range(one.run.last_update + 1 + IN_STAGE_2):
        for rank, (training, tensors) in enumerate(zip(ranks, inputs)):
            scatter_random_numbers(rank, t)
            training.optimizer.zero_grad()
            training.model.train()(*tensors)[0].backward()
        assert decided(ranks[0]) == decided(ranks[1])
        # What DDP does; it waits for a gradient of each on every rank.
        for p, q in zip(*(rank.model.parameters() for rank in ranks)):
            p.grad = (p.grad + q.grad) / 2
            q.grad = p.grad.clone()
        for training in ranks:
            torch.nn.utils.clip_grad_norm_(training.model.parameters(), 5.0)
            training.optimizer.step()
        assert ranks[0].kept() == ranks[1].kept()
    assert one.model.stage == 2
    # BatchNorm's statistics are each rank's own.
    own = ("running_mean", "running_var", "num_batches_tracked")
    states = [rank.model.state_dict() for rank in ranks]
    assert_same(
        *({k: v for k, v in s.items() if not any(n in k for n in own)} for s in states)
    )


@examples(20)
@given(st.data())
def test_a_resume_from_any_update_ends_as_the_uninterrupted_training(data):
    one = data.draw(trainings())
    walk = data.draw(gradients(one.run))
    stop = data.draw(st.integers(1, len(walk) - 1), label="resumed after so many updates")
    for row in walk[:stop]:
        one.step(row)
    two = start(one.conf, one.run, one.optim)
    two.model.load_state_dict(through_a_file(one.model.state_dict()))
    two.optimizer.load_state_dict(through_a_file(one.optimizer.state_dict()))
    assert_same(one.model.state_dict(), two.model.state_dict())
    for row in walk[stop:]:
        assert decided(one) == decided(two)
        one.step(row), two.step(row)
    assert one.kept() == two.kept()
    assert_same(one.model.state_dict(), two.model.state_dict())


@examples(20)
@given(st.data())
def test_stage_2_begins_on_time_and_moves_neither_sets_nor_scores(data):
    training = data.draw(trainings())
    final = None
    for t, row in enumerate(data.draw(gradients(training.run))):
        assert int(training.model.state.updates) == t
        assert training.model.stage == (1 if t <= training.run.last_update else 2)
        if t == training.run.last_update + 1:
            final = training.kept(), training.model.encoder.scores.detach().clone()
        training.step(row)
        if final is not None:
            assert training.kept() == final[0]
            assert torch.equal(training.model.encoder.scores, final[1])
    assert [len(kept) for kept in final[0]] == training.run.sizes
    assert all(set(a) < set(b) for a, b in zip(final[0], final[0][1:]))


@examples(10)
@given(st.data())
def test_copies_and_conversions_keep_the_same_layers(data):
    training = data.draw(trainings())
    walk = data.draw(gradients(training.run))
    for row in walk:
        training.step(row)
    model, kept = training.model, training.kept()
    model.state.updates.fill_(2**24 + 1)  # more than a float32 can count
    for other in (copy.deepcopy(model), copy.deepcopy(model).half(), model.double()):
        assert [other.encoder.kept_layers(size) for size in training.run.sizes] == kept
        assert int(other.state.updates) == 2**24 + 1
