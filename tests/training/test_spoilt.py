"""Trainings that would end as if all were well, and leave nothing of use."""

import pytest
import torch

from espnet_des.nn.model import DESModel
from espnet_des.training.trainer import TRAINING_LOCK
from espnet_des.utils.files import alone_in
from tests.train import load, make_data, train_here


@pytest.fixture
def data(tmp_path):
    make_data(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(data, monkeypatch, number):
    """What stands there goes on, once the cause is gone."""
    after_step = DESModel.after_step

    def spoil(self):
        after_step(self)
        if self.state.updates == 8:  # in the third epoch, in stage 2
            with torch.no_grad():
                self.encoder.after_norm.weight[0] = number

    with monkeypatch.context() as patched:
        patched.setattr(DESModel, "after_step", spoil)
        with pytest.raises(
            RuntimeError, match="not finite any more: encoder.after_norm.weight"
        ):
            train_here(data, data)
    assert load(data / "exp/checkpoint.pth")["reporter"]["epoch"] == 2
    assert not (data / "exp/3epoch.pth").exists()
    exp = train_here(data, data)
    assert all(v.isfinite().all() for v in load(exp / "4epoch.pth").values())


def test_scores_that_are_not_finite_are_not_ranked(data, monkeypatch):
    before_step = DESModel.before_step

    def spoil(self):
        before_step(self)
        if self.state.updates == 4:
            self.encoder.scores.data[3] = float("inf")

    monkeypatch.setattr(DESModel, "before_step", spoil)
    with pytest.raises(
        RuntimeError, match="scores of the layers are not finite after update 5"
    ):
        train_here(data, data)
    assert load(data / "exp/checkpoint.pth")["reporter"]["epoch"] == 1


def test_a_second_training_of_espnets_own_command_is_refused(data, monkeypatch):
    """asr.sh of an ESPnet checkout does not look."""
    exp = train_here(data, data)
    config = (exp / "config.yaml").read_text()
    monkeypatch.setattr("espnet_des.utils.files.DYING_SECONDS", 0)
    with alone_in(exp, "training", TRAINING_LOCK):
        with pytest.raises(RuntimeError, match=f"another training runs in {exp}: wait for it"):
            train_here(data, data, max_epoch=5)
    assert (exp / "config.yaml").read_text() == config
    train_here(data, data, max_epoch=5)
