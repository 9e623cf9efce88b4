"""Dropout with masks that cost little: the same distribution and gradients as torch's."""

import pytest
import torch

from espnet_des.nn.dropout import QuickDropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.97])
def test_of_the_values_as_many_are_dropped_as_asked(rate):
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)  # no multiple of four
    y = QuickDropout(rate)(x)
    kept = y > 0
    deviation = (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs(kept.double().mean().item() - (1 - rate)) < 5 * deviation + 1 / 65536
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - rate)), rtol=1e-3)
    # Neighbours come of one draw, and know nothing of each other.
    for step in (1, 2, 3, 4):
        flat = kept.flatten()
        both = (flat[:-step] & flat[step:]).double().mean().item()
        assert abs(both - (1 - rate) ** 2) < 10 * deviation


def test_the_mean_is_that_of_the_input_where_the_rate_is_rounded():
    rate = 0.6 / 65536  # becomes 1 / 65536
    y = QuickDropout(rate)(torch.ones(1, 7))
    assert torch.equal(y[y > 0].double(), torch.full_like(y[y > 0], 65536 / 65535).double())


def test_the_gradient_passes_where_the_value_does():
    x = torch.randn(5, 6, 7, dtype=torch.float64, requires_grad=True)
    y = QuickDropout(0.25)(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, grad * x)
    assert set(grad.unique().tolist()) == {0.0, 1 / 0.75}


def test_a_mask_takes_one_byte_of_each_value():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        QuickDropout(0.1)(torch.randn(10, 10, requires_grad=True))
    assert sum(t.numel() * t.element_size() for t in saved) == 100


def test_half_precision_stays_half():
    x = torch.ones(64, 64, dtype=torch.bfloat16)
    assert QuickDropout(0.5)(x).dtype is torch.bfloat16


@pytest.mark.parametrize("shape", [(0,), (), (1,), (3, 0, 2)])
def test_any_shape(shape):
    assert QuickDropout(0.5)(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("rate, left", [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0)])
def test_rates_without_a_step_are_torchs(rate, left):
    assert torch.equal(QuickDropout(rate)(torch.ones(50)), torch.full((50,), left))


def test_nothing_is_dropped_in_evaluation():
    x = torch.randn(50)
    assert torch.equal(QuickDropout(0.9).eval()(x), x)


def test_it_draws_again_what_it_drew_after_the_same_seed():
    drop, x = QuickDropout(0.5), torch.ones(100)
    torch.manual_seed(1)
    first, second = drop(x), drop(x)
    torch.manual_seed(1)
    assert torch.equal(drop(x), first)
    assert not torch.equal(first, second)
