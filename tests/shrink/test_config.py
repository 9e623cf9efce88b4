"""The config of a fine-tune: its length, learning rate and encoder, by hand."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from espnet_des.bin import shrink as command
from espnet_des.errors import ConfigError
from espnet_des.method.options import SelectionOptions
from espnet_des.shrink.config import (
    KNOWN,
    LEARNING,
    METHOD,
    Length,
    fine_tune,
    length_of,
    peak_lr,
    supernet_config,
)
from espnet_des.shrink.options import ShrinkOptions
from espnet_des.shrink.original import check_kind

CONFIG = {"max_epoch": 50, "accum_grad": 2, "num_iters_per_epoch": None,
          "keep_nbest_models": 10, "optim_conf": {"lr": 0.002, "weight_decay": 1e-6}}  # fmt: skip


@pytest.mark.parametrize(
    "share, changes, batches, expected",
    [
        # Ten epochs or more stay passes over the data.
        (0.2, {}, 101, Length(10, None, 500)),
        (0.5, {"num_iters_per_epoch": 100}, 100, Length(25, 100, 1250)),
        # Fewer are cut into ten.
        (0.2, {"max_epoch": 15, "accum_grad": 1}, 160, Length(10, 48, 480)),
        (0.01, {"max_epoch": 100}, 60, Length(10, 6, 30)),
    ],
)
def test_the_length_is_a_share_of_the_updates(share, changes, batches, expected):
    assert length_of(share, CONFIG | changes, batches) == expected


def test_a_share_of_too_few_updates_is_refused():
    with pytest.raises(
        ConfigError, match="share: 0.001 of 50 epochs of 5 updates is 0 updates"
    ):
        length_of(0.001, CONFIG, 10)


@pytest.mark.parametrize(
    "scheduler, conf, expected",
    [
        (None, {}, 0.002),
        ("warmuplr", {"warmup_steps": 25000}, 0.002),
        ("onecyclelr", {"max_lr": 0.004}, 0.004),
        ("onecyclelr", {"max_lr": [0.004, 0.001]}, 0.004),
        ("piecewiselinearwarmuplr", {"warmup_lr_list": [0.0, 5e-5, 1e-3]}, 1e-3),
        ("exponentialdecaywarmup", {"max_lr": 2e-4, "total_steps": 9}, 2e-4),
        ("cycliclr", {"base_lr": 1e-5, "max_lr": 3e-4}, 3e-4),
        ("noamlr", {"model_size": 256, "warmup_steps": 25000}, 0.002 / (256 * 25000) ** 0.5),
    ],
)
def test_the_learning_rate_is_the_highest_that_the_original_had(scheduler, conf, expected):
    config = CONFIG | {"scheduler": scheduler, "scheduler_conf": conf}
    assert peak_lr(config) == pytest.approx(expected)


def test_the_fine_tune_ends_with_its_last_update_and_averages_epochs_of_stage_2():
    found = fine_tune(CONFIG, Length(10, 48, 480), 0.001)
    assert found["scheduler_conf"]["total_steps"] == found["max_epoch"] * 48 == 480
    assert found["optim_conf"] == {"lr": 0.001, "weight_decay": 1e-6}
    assert found["keep_nbest_models"] == 2


def test_the_encoder_becomes_a_supernet_and_the_rest_stays():
    original = CONFIG | {
        "encoder": "conformer", "encoder_conf": {"num_blocks": 4}, "model": "espnet",
        "model_conf": {"ctc_weight": 0.3}, "output_dir": "exp/x", "dist_rank": None,
        "init_param": ["other.pth"], "specaug": "specaug", "decoder": "transformer",
    }  # fmt: skip
    found = supernet_config(original, [4, 16], "layer_norm", method="fixed")
    assert found["encoder"] == "des_conformer" and found["model"] == "des"
    assert found["encoder_conf"] == {
        "num_blocks": 4,
        "sizes": [4, 16],
        "conv_norm": "layer_norm",
    }
    assert found["model_conf"] == {"ctc_weight": 0.3, "method": "fixed"} | METHOD
    assert {*METHOD, *LEARNING, *KNOWN} < set(SelectionOptions.keys())
    assert found["specaug"] == "specaug" and found["decoder"] == "transformer"
    assert not {"output_dir", "init_param", "dist_rank"} & set(found)
    assert supernet_config(original, ["any"], "layer_norm")["encoder_conf"]["sizes"] == "any"
    transformer = supernet_config(original | {"encoder": "transformer"}, None, "layer_norm")
    assert transformer["encoder_conf"] == {"num_blocks": 4}


def test_a_long_fine_tune_has_the_settings_of_a_training_from_scratch():
    original = CONFIG | {"encoder": "conformer", "encoder_conf": {}, "model_conf": {}}
    for share in (0.0, 0.2, 0.5, 1.0):
        found = supernet_config(original, None, "batch_norm", share)["model_conf"]
        assert found == (METHOD if share < 0.4 else {"distillation_weight": 0.0})


def test_of_a_model_alone_a_supernet_has_what_it_knows():
    """One that dropped blocks in its training, was taught, and has no BatchNorm."""
    own = {"num_blocks": 2, "conv_norm": "layer_norm"}
    original = CONFIG | {
        "encoder": "des_conformer_subnet", "encoder_conf": own | {"block_drop_rate": 0.2},
        "model": "taught", "model_conf": {
            "ctc_weight": 1.0, "teacher_config": "c.yaml", "teacher_model_file": "m.pth",
            "distillation_weight": 0.3,
        },
    }  # fmt: skip
    found = supernet_config(original, [4, 8], "batch_norm")
    assert found["encoder_conf"] == own | {"sizes": [4, 8]}
    assert found["model_conf"] == {"ctc_weight": 1.0} | METHOD
    check_kind(original, Path("config.yaml"))


@pytest.mark.parametrize(
    "words, says",
    [
        (["--share", "2"], "share: 2 must be from 0"),
        (["--share", "x"], "share: 'x' must be from 0"),
        (["--lr_factor", "0"], "lr_factor: 0 must be a number above 0"),
        (["--rank_by", "weight"], "rank_by: 'weight' must be one of"),
        (["--start_by", "scores"], "start_by: 'scores' must be one of"),
        (["--start_by", "loss"], "start_by: 'loss' must be left out"),
        (
            ["--share", "0", "--rank_by", "scores"],
            "rank_by: 'scores' must be one of .* with share: 0",
        ),
        (["--conv_norm", "group_norm"], "conv_norm: 'group_norm' must be one of"),
        (["--teacher", "-1"], "teacher: -1 must be"),
        (["--calibration", "0"], "calibration: 0 must be"),
        (["--sices", "3"], "shrink_args: '--sices' must be one of --sizes"),
        (["0.2"], "shrink_args: '0.2' must be an option"),
        (["--share"], "shrink_args: '--share' must be followed by a value"),
    ],
)
def test_wrong_options_are_named(words, says):
    with pytest.raises(ConfigError, match=says):
        ShrinkOptions.of_words(words)


@pytest.mark.parametrize(
    "words, part",
    [("--share 0.2", 0.5), ("--share 0.5", 1.0), ("--share 0.1 --lr_factor 2", 2.0)],
)
def test_the_fewer_updates_the_lower_the_learning_rate(words, part):
    assert ShrinkOptions.of_words(words.split()).part_of_lr == part


def test_options_of_a_line():
    found = ShrinkOptions.of_words(["--sizes", "16", "32", "48", "--share=0.5"])
    assert found == ShrinkOptions(sizes=[16, 32, 48], share=0.5)
    assert ShrinkOptions.of_words(["--lr_factor", "1e-1"]).lr_factor == 0.1
    assert ShrinkOptions.of_words([]) == ShrinkOptions()


def test_the_command_leaves_the_defaults_to_the_options(monkeypatch):
    told = []
    monkeypatch.setattr(command, "call", lambda name, options: told.append(options) or 0)
    given = (
        "--output_dir out --sizes 2 4 --share 0.5 --lr_factor 2 --rank_by angle --teacher 0"
    )
    given += " --conv_norm batch_norm --calibration 9 --start_by loss --ngpu 1"
    for words in (["--output_dir", "out"], given.split()):
        monkeypatch.setattr(sys, "argv", ["shrink", *words])
        assert command.main() == 0
    out = Path("out")
    assert told[0] == {"output_dir": out, "training": []}
    assert told[1] == {
        "output_dir": out, "sizes": [2, 4], "share": 0.5, "lr_factor": 2.0, "rank_by": "angle",
        "teacher": 0.0, "conv_norm": "batch_norm", "calibration": 9, "start_by": "loss",
        "training": ["--ngpu", "1"],
    }  # fmt: skip
    assert set(told[1]) - {"output_dir", "training"} == {f.name for f in fields(ShrinkOptions)}
