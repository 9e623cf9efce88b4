"""What counts as an update: with accumulation, a scaler that skips, several groups."""

import functools

import pytest
import torch

import espnet2.train.trainer as stock
from tests.train import load, train_here

SELECTION = "encoder.selection."


@pytest.fixture
def steps(monkeypatch):
    """Steps that optimizers really made."""
    done = []
    step = torch.optim.AdamW.step

    @functools.wraps(
        step
    )  # torch marks a step whose hooks it calls, and would call them twice
    def count(*args, **kwargs):
        done.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", count)
    return done


@pytest.mark.parametrize("accum_grad", [1, 2, 3])
@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out", "ortho_softmax"])
def test_steps_that_a_scaler_skips_do_not_count(
    data, tmp_path, monkeypatch, steps, accum_grad, method
):
    """A scale that is too large at first, as fp16 has on a GPU, and tries again later."""
    made = []

    def scaler():
        made.append(torch.amp.GradScaler("cpu", init_scale=2.0**124, growth_interval=3))
        return made[0]

    monkeypatch.setattr(stock, "GradScaler", scaler)
    exp = train_here(
        data, tmp_path, use_amp=True, accum_grad=accum_grad, max_epoch=8,
        model_conf__method=method, model_conf__reduction=None, exclude_weight_decay=True,
    )  # fmt: skip
    checkpoint = load(exp / "checkpoint.pth")
    assert len(checkpoint["optimizers"][0]["param_groups"]) == 3
    done = 8 * (7 // accum_grad)
    skipped = sum(
        stats["valid"]["skipped_updates"] for stats in checkpoint["reporter"]["stats"].values()
    )
    assert 0 < skipped < done
    assert checkpoint["model"][SELECTION + "updates"] == done - skipped == len(steps)
    assert all(torch.isfinite(v).all() for v in checkpoint["model"].values())
