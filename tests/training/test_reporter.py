"""What a training tells of its updates and epochs: what there is, and no more."""

import logging
import re

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from espnet_des.training.reporter import StageReporter
from tests.train import load, make_data, train_here

# Of two middle sizes an update of stage 2 has one, and an update of stage 1 none.
MIDDLES = ("loss_ctc_size3", "loss_ctc_size5")


@pytest.mark.parametrize(
    "method, reduction", [("simple_top_k", 1), ("iterative_zero_out", None)]
)
def test_a_log_holds_no_number_of_what_an_update_has_not(tmp_path, caplog, method, reduction):
    caplog.set_level(logging.INFO)
    make_data(tmp_path)
    exp = train_here(
        tmp_path, tmp_path / "run", max_epoch=4, encoder_conf__sizes=[2, 3, 5, 8],
        model_conf__method=method, model_conf__reduction=reduction, use_tensorboard=True,
        best_model_criterion=[["train", MIDDLES[0], "min"], ["valid", "cer_ctc", "min"]],
    )  # fmt: skip
    told = [record.getMessage() for record in caplog.records]
    lines = [m for m in told if re.search(r"\depoch:train:|epoch results: ", m)]
    assert len(lines) == 4 * (7 + 1)
    assert not [line for line in lines if "nan" in line]
    stages = {s: [line for line in lines if f"stage={s}" in line] for s in ("1.000", "2.000")}
    assert stages["1.000"] and stages["2.000"]
    for line in stages["1.000"]:
        train = line.partition("[valid]")[0]
        assert not any(name in train for name in MIDDLES), line
        assert "loss_ctc=" in train and "loss_ctc_size2=" in train
    for line in stages["2.000"]:
        if "epoch:train:" in line:
            assert sum(f"{name}=" in line for name in MIDDLES) == 1, line
    # Epochs are ranked by it all the same.
    stats = load(exp / "checkpoint.pth")["reporter"]["stats"]
    values = {e: s["train"][MIDDLES[0]] for e, s in stats.items()
              if s["train"]["stage"] == 2.0 and MIDDLES[0] in s["train"]}  # fmt: skip
    best = (exp / f"train.{MIDDLES[0]}.best.pth").resolve().name
    assert values and best == f"{min(values, key=values.get)}epoch.pth"
    curves = EventAccumulator(str(exp / "tensorboard/train")).Reload()
    for name in curves.Tags()["scalars"]:
        assert all(np.isfinite(point.value) for point in curves.Scalars(name)), name
    assert set(MIDDLES) <= set(curves.Tags()["scalars"])


def observe(reporter, epoch, *updates, stage=2.0):
    reporter.set_epoch(epoch)
    with reporter.observe("train") as sub:
        for stats in updates:
            sub.register(stats | {"stage": stage}, torch.tensor(2.0))
            sub.next()
        return sub.log_message(-1)


def test_a_loss_that_is_nan_is_told():
    """It is there, and says that the training diverges."""
    told = observe(StageReporter(), 1, {"loss": 1.0}, {"loss": float("nan"), "loss_ctc": 0.5})
    assert "loss=nan" in told and "loss_ctc=0.500" in told


def test_an_epoch_without_the_value_leaves_the_ranking_as_it_is():
    """ESPnet removes the files of all that are not ranked where there is no ranking."""
    reporter = StageReporter([("train", "loss_ctc_size5", "min")])
    observe(reporter, 1, {"loss": 1.0}, stage=1.0)
    assert not reporter.has("train", "loss_ctc_size5")
    assert np.isnan(reporter.get_value("train", "loss_ctc_size5"))
    observe(reporter, 2, {"loss": 1.0, "loss_ctc_size5": 3.0}, {"loss": 1.0})
    observe(reporter, 3, {"loss": 1.0})
    assert reporter.has("train", "loss_ctc_size5")
    assert reporter.sort_epochs("train", "loss_ctc_size5", "min") == [2]
    assert reporter.get_value("train", "loss_ctc_size5", 2) == 3.0
    with pytest.raises(KeyError, match="valid.loss"):
        reporter.get_value("valid", "loss")


def test_an_epoch_is_ranked_where_all_of_it_is_of_stage_2():
    """Of 7 or 14 ranks the mean of twos is not exactly 2."""
    reporter = StageReporter()
    for epoch, stages in enumerate([[2.0] * 99 + [1.0], [2.0] * 3, [2.0000002] * 3], 1):
        reporter.set_epoch(epoch)
        with reporter.observe("train") as sub:
            for stage in stages:
                sub.register({"stage": stage, "loss": 1.0}, torch.tensor(2.0))
                sub.next()
    found = [reporter.is_ranked(epoch) for epoch in (1, 2, 3)]
    assert found == [False, True, True]
    assert reporter.sort_epochs("train", "loss", "min") == [2, 3]
