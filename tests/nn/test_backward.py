"""Savings that must not change anything: gradients equal those of the plain sum."""

import copy
import dataclasses

import pytest
import torch

import espnet_des.nn.model
import espnet_des.nn.residual
from espnet_des.measure.benchmark.saved import count_saved
from espnet_des.method.passes import FAINT
from espnet_des.method.selection import Schedule
from espnet_des.nn.backward import BackwardPerPass
from espnet_des.nn.residual import Branch, add_branch, add_closed_branch, add_gated_branch
from tests.conftest import make_batch, make_encoder, make_model

SCHEDULE = Schedule((4, 4), (3, 5))  # 8 layers, sizes 3, 5, 8: E = 8


class PlainSum:
    """What :class:`BackwardPerPass` must equal: one graph of everything."""

    def __init__(self, front, parameters, scale=1.0):
        self.front, self.total = front, 0.0

    def add(self, loss):
        self.total = self.total + loss

    def loss(self, last):
        return self.total + last


def gradients(model, plainly: bool, monkeypatch, factor=1.0):
    """Loss and gradients of one update, drawn from the same seed.

    In the model's precision: rounding is no difference in float64, where a bias before a
    BatchNorm, whose true gradient is 0, has one of 1e-17. (ESPnet's CTC is in float32
    nevertheless: only a factor that is a power of two leaves its rounding as it is.)
    """
    with monkeypatch.context() as patch:
        if plainly:
            patch.setattr(espnet_des.nn.model, "BackwardPerPass", PlainSum)
            patch.setattr(espnet_des.nn.residual, "add_closed_branch", add_branch)
            patch.setattr(espnet_des.nn.residual, "add_gated_branch", add_branch)
        torch.manual_seed(5)
        model.zero_grad()
        batch = make_batch()
        batch["speech"] = batch["speech"].to(model.encoder.scores.dtype)
        loss, stats, _ = model(**batch)
        (factor * loss).backward()
    learned = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), stats, learned


DROPOUT = {
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
}


def at(stage, method="simple_top_k", decoder=False, **conf):
    model = make_model(
        {**DROPOUT, **conf},
        SCHEDULE,
        decoder,
        method=method,
        stochastic_depth_p1=0.3,
        stochastic_depth_p2=0.4,
    ).train()
    with torch.no_grad():
        model.encoder.scores.normal_()
    model.state.updates.fill_(5 if stage == 1 else 20)
    if stage == 2:
        model.state.freeze(torch.randperm(8))
    return model


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"input_layer": "vgg"},
        {"input_layer": "dw_striding", "subsampling_channels": 6},
        {"conv_norm": "batch_norm"},
        {"layer_order": "paper", "macaron_style": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("decoder", [False, True], ids=["ctc", "hybrid"])
@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out", "ortho_softmax"])
@pytest.mark.parametrize("stage", [1, 2])
def test_gradients_are_those_of_the_plain_sum(stage, method, decoder, conf, monkeypatch):
    model = at(stage, method, decoder, **conf).double()
    twin = copy.deepcopy(model)
    plain_loss, plain_stats, plain = gradients(twin, True, monkeypatch, factor=0.5)
    loss, stats, ours = gradients(model, False, monkeypatch, factor=0.5)
    torch.testing.assert_close(loss, plain_loss)
    assert stats.keys() == plain_stats.keys()
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-13, rtol=1e-9, msg=name)
    for (name, mine), theirs in zip(model.named_buffers(), twin.buffers()):
        torch.testing.assert_close(mine, theirs, msg=name)  # BatchNorm's statistics


def test_a_closed_gate_learns_what_an_open_graph_would_tell_it():
    encoder = make_encoder(dropout_rate=0.0)
    x, lengths = torch.randn(2, 20, 12), torch.tensor([20, 16])
    front, pos_emb, mask = encoder.subsample(x, lengths)
    for q, layer in enumerate(encoder.layers):
        results = []
        for add in (add_branch, add_closed_branch):
            inputs = front.detach().requires_grad_(), torch.zeros((), requires_grad=True)
            block = encoder.encoders[layer.block]
            branch = Branch(encoder.block_type, block, layer.kind, inputs[0], pos_emb, mask)
            out = add(inputs[0], branch, inputs[1])
            assert torch.equal(out, front)
            results.append(torch.autograd.grad((out**2).sum(), inputs))
        for mine, theirs in zip(*results):
            torch.testing.assert_close(mine, theirs)
        assert results[0][1] != 0, q


@pytest.mark.parametrize("gate", [FAINT, 0.0067, 0.3, 0.99995, 1.0])
def test_an_open_gate_learns_what_its_branch_would_tell_it(gate):
    """The gate's gradient comes from the sum, of which the branch is a small part."""
    encoder = make_encoder(dropout_rate=0.0)
    x, lengths = torch.randn(2, 60, 12), torch.tensor([60, 44])
    front, pos_emb, mask = encoder.subsample(x, lengths)
    front = 3 * front  # larger than what a branch gives, as deep in an encoder
    for layer in encoder.layers:
        results = []
        for add in (add_branch, add_gated_branch):
            inputs = front.detach().requires_grad_(), torch.tensor(gate, requires_grad=True)
            block = encoder.encoders[layer.block]
            branch = Branch(encoder.block_type, block, layer.kind, inputs[0], pos_emb, mask)
            out = add(inputs[0], branch, inputs[1])
            weights = [p for m in branch.modules() for p in m.parameters()]
            loss = (out**2).sum()
            grads = torch.autograd.grad(loss, [*inputs, *weights], allow_unused=True)
            results.append((out, *(g for g in grads if g is not None)))
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_gates_that_are_nearly_0_are_not_divided_by():
    model = at(1, "iterative_zero_out")
    with torch.no_grad():
        model.encoder.scores.copy_(torch.tensor([10.0, -5, -5.2, -5.4, -20, 0, 3, -60]))
    small = model.passes(5)[1]
    assert small.faint == [3, 4, 7] and not small.closed
    soft = make_model(schedule=SCHEDULE, hard_gates=False)
    soft.state.updates.fill_(5)
    with torch.no_grad():
        soft.encoder.scores.copy_(5 * torch.randn(8))
    gates = soft.passes(5)[1].gates
    assert soft.passes(5)[1].faint == (gates < FAINT).nonzero().flatten().tolist()
    hard = at(1).passes(5)[1]
    assert not hard.faint and len(hard.closed) == 5


@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out", "ortho_softmax"])
def test_memory_is_that_of_the_full_pass(method):
    """Counted in saved tensors: no graph of closed layers, of open ones nothing more."""

    def peak(model):
        with count_saved(model.parameters()) as saved:
            model(**make_batch(frames=200))[0].backward()
        assert saved.now == 0
        return saved.peak

    model = at(1, method)
    model.options = dataclasses.replace(model.options, stochastic_depth_p1=0.0)
    with torch.no_grad():
        model.encoder.scores.abs_()  # none is nearly 0
    both = peak(model)
    full = model.passes(5)[0]
    model.passes = lambda *_: [full]
    assert both <= 1.02 * peak(model)


def test_accumulated_updates_add_up(monkeypatch):
    model = at(2).double()  # gradients that are 0 would be rounding, and differ by more
    twin = copy.deepcopy(model)
    for one, plainly in ((model, False), (twin, True)):
        with monkeypatch.context() as patch:
            if plainly:
                patch.setattr(espnet_des.nn.model, "BackwardPerPass", PlainSum)
            torch.manual_seed(3)
            for _ in range(3):
                batch = make_batch()
                batch["speech"] = batch["speech"].double()
                (one(**batch)[0] / 3).backward()
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_gradients_may_be_one_tensor():
    a, b = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    front = torch.ones(3, requires_grad=True)
    sums = BackwardPerPass(front, [a, b], scale=1024.0)
    sums.add((a + b + sums.front).sum())  # the same gradient for all three
    loss = sums.loss((2 * a + front).sum())
    assert loss == 18.0
    (5 * loss).backward()
    assert a.grad.tolist() == [15.0] * 3 and b.grad.tolist() == [5.0] * 3
    assert front.grad.tolist() == [10.0] * 3


def test_gradients_may_overlap():
    """Of terms of a sum, one of which is made of parts: those are views of its gradient."""
    a, b, c = (torch.nn.Parameter(torch.ones(n)) for n in (1, 2, 3))
    sums = BackwardPerPass(torch.ones(1), [a, b, c])
    weights = torch.tensor([1.0, 2.0, 3.0])
    for _ in range(2):
        sums.add((weights * (torch.cat([a, b]) + c)).sum())
    sums.loss(torch.zeros(())).backward()
    assert [p.grad.tolist() for p in (a, b, c)] == [[2.0], [4.0, 6.0], [2.0, 4.0, 6.0]]


def test_the_last_pass_adds_to_what_is_known_without_a_copy():
    linear, conv = torch.nn.Linear(3, 3), torch.nn.Conv1d(3, 3, 1)
    parameters = [*linear.parameters(), *conv.parameters()]
    front = torch.randn(2, 5, 3, requires_grad=True)

    def loss_of(x):
        return conv(linear(x).transpose(1, 2)).square().sum()

    sums = BackwardPerPass(front, parameters)
    sums.add(loss_of(sums.front))
    known = [g.data_ptr() for g in sums._gradients[1:]]
    sums.loss(loss_of(front)).backward()
    assert [p.grad.data_ptr() for p in parameters] == known


@pytest.mark.parametrize("stage", [1, 2])
def test_what_an_update_does_not_train_gets_no_gradient(stage):
    """Zeros for all that smaller sizes own would be twice the model."""
    model = at(stage)
    idle = {id(p) for p in model._idle_parameters(int(model.state.updates))}
    model(**make_batch())[0].backward()
    assert {id(p) for p in model.parameters() if p.grad is None} == idle != set()


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_loss_may_be_weighted(factor):
    """By 1, which is not multiplied with, and by less, as where gradients are accumulated."""
    weight = torch.nn.Parameter(torch.ones(2))
    sums = BackwardPerPass(torch.ones(1), [weight])
    sums.add((3 * weight).sum())
    (factor * sums.loss(torch.zeros(()))).backward()
    assert weight.grad.tolist() == [3 * factor] * 2


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0.0), (2.0**16, 2.0**-26)])
def test_half_precision_is_scaled(scale, expected):
    """A gradient that fp16 rounds to 0 without the scale."""
    weight = torch.nn.Parameter(torch.ones(1))
    sums = BackwardPerPass(torch.ones(1), [weight], scale=scale)
    sums.add((weight.half() * 1.0).float().sum() * 2.0**-26)
    sums.loss(torch.zeros(())).backward()
    assert weight.grad.item() == expected


def test_the_front_end_learns_in_half_precision():
    """Its output is in fp16 under autocast, and so is the gradient that it is given."""
    tiny, scaler = 2.0**-26, torch.amp.GradScaler("cpu", init_scale=2.0**16)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    front = weight.half()
    sums = BackwardPerPass(front, [], scale=scaler.scale(torch.ones(())).item())
    sums.add(sums.front.float().sum() * tiny)
    scaler.scale(sums.loss(front.float().sum() * tiny)).backward()
    scaler.unscale_(optimizer)
    assert weight.grad.item() == 2 * tiny


@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out", "ortho_softmax"])
@pytest.mark.parametrize("stage", [1, 2])
def test_bfloat16_is_close_to_float32(stage, method, monkeypatch):
    no_dropout = {f"{k}dropout_rate": 0.0 for k in ("", "positional_", "attention_")}
    model = at(stage, method, **no_dropout, output_size=32, linear_units=64)
    exact_loss, _, exact = gradients(model, False, monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _, rounded = gradients(model, False, monkeypatch)
    torch.testing.assert_close(loss.float(), exact_loss, atol=0, rtol=0.02)
    assert not torch.equal(loss.float(), exact_loss)  # autocast was on
    for name in exact:
        assert rounded[name].dtype == torch.float32 and torch.isfinite(rounded[name]).all(), (
            name
        )
    a, b = (torch.cat([g.flatten() for g in of.values()]) for of in (exact, rounded))
    assert (a - b).norm() < 0.05 * a.norm()


def test_the_loss_is_back_propagated_once():
    weight = torch.nn.Parameter(torch.ones(1))
    sums = BackwardPerPass(torch.ones(1), [weight])
    sums.add(weight.sum())
    loss = sums.loss(2 * weight.sum())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()
