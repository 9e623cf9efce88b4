"""Started again with other settings, or where files of an earlier training stand."""

import re

import pytest
import torch

from tests.faults.process import assert_same_training, run
from tests.faults.test_kills import finish, last_log
from tests.faults.test_storage import files
from tests.train import load

pytestmark = pytest.mark.faults

OTHERS = [
    ("model", {"encoder_conf__output_size": 16}, "size mismatch"),
    ("sizes", {"encoder_conf__sizes": [3, 8]}, "encoder_conf: sizes: the checkpoint has"),
    ("sgd", {"optim": "sgd", "optim_conf": {"lr": 0.1}}, "other settings .*momentum.*optim: SGD"),
    ("adam", {"optim": "adam"}, "decays weights otherwise than optim: Adam\\b"),
    ("radam", {"optim": "radam"}, "other settings \\(amsgrad, fused\\) than optim: RAdam"),
    ("adamax", {"optim": "adamax"}, "other settings .* than optim: Adamax"),
    ("no scheduler", {"scheduler": None, "scheduler_conf": None}, "than scheduler: None"),
    ("exponential", {"scheduler": "exponentiallr", "scheduler_conf": {"gamma": 0.9}},
     "\\(gamma, warmup_steps\\) than scheduler: ExponentialLR"),
]  # fmt: skip


@pytest.mark.parametrize("other, says", [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_another_config_stops_the_training_and_changes_nothing(
    interrupted, data, faults, other, says
):
    """config.yaml included: it belongs to the checkpoint."""
    out, changes = interrupted
    before = files(out / "exp")
    assert run(data, out, **changes | other) == 1
    assert re.search(says, last_log(out)), last_log(out)[-2000:]
    assert files(out / "exp") == before
    faults(1)


def test_settings_that_a_resume_does_not_take_over_are_named(
    undisturbed, interrupted, data, faults
):
    out, changes = interrupted
    other = {
        "optim_conf": {"lr": 0.02, "weight_decay": 0.3},
        "scheduler_conf__warmup_steps": 7,
    }
    finish(data, out, changes | other)
    for setting in ("weight_decay: 0.3", "initial_lr: 0.02", "warmup_steps: 7"):
        assert f"{setting} of the config is not used" in last_log(out)
    assert_same_training(undisturbed[0] / "exp", out / "exp")
    faults(1)


@pytest.mark.parametrize("resume, left, says", [
    ("false", ["checkpoint.pth", "checkpoint.previous.pth"], "resume false would write"),
    ("false", ["checkpoint.previous.pth"], "resume false would write"),
    ("true", ["checkpoint.previous.pth"], "checkpoint.pth is missing, but .* rename it to"),
])  # fmt: skip
def test_nothing_begins_anew_over_a_training(interrupted, data, faults, resume, left, says):
    out, changes = interrupted
    for name in {"checkpoint.pth", "checkpoint.previous.pth"} - set(left):
        (out / "exp" / name).unlink()
    before = files(out / "exp")
    assert run(data, out, resume=resume == "true", **changes, seed=2) == 1
    assert re.search(says, last_log(out)), last_log(out)[-2000:]
    assert files(out / "exp") == before
    faults(1)


def test_what_an_earlier_training_left_is_not_taken_for_an_epoch(
    undisturbed, interrupted, data, faults
):
    """A kill came between checkpoint.pth and the epoch's own file."""
    out, changes = interrupted
    epoch = load(out / "exp/checkpoint.pth")["reporter"]["epoch"]
    stale = {k: torch.zeros_like(v) for k, v in load(out / f"exp/{epoch}epoch.pth").items()}
    torch.save(stale, out / f"exp/{epoch}epoch.pth")
    finish(data, out, changes)
    assert_same_training(undisturbed[0] / "exp", out / "exp")
    faults(1)
