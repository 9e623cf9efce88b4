"""Options of the driver that become names of folders: none leads out of the recipe."""

import pytest

from espnet_des.recipe.layout import layout
from espnet_des.recipe.options import parse

SETS = ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test_a test_b"]


@pytest.mark.parametrize("option", ["asr_tag", "lm_tag", "inference_tag", "lang", "bpemode"])
@pytest.mark.parametrize("value", ["../../x", "a/b", "/x", "..", ".", "a/.."])
def test_a_tag_is_the_name_of_one_folder(option, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse([*SETS, f"--{option}", value])
    assert stopped.value.code == 2
    assert f"--{option} {value}: must be the name of one folder" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["train_set", "valid_set", "test_sets"])
@pytest.mark.parametrize("value", ["../../x", "/x", "..", ".", "a/../../b", "a /x"])
def test_a_set_lies_below_data(option, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse([*SETS, f"--{option}", value])
    assert stopped.value.code == 2
    assert f"--{option} {value}: must name" in capsys.readouterr().err


def test_a_name_made_of_options_stays_inside_too(capsys):
    arguments = ["--inference_args", "--transducer_conf a/../../../b"]
    with pytest.raises(SystemExit):
        parse([*SETS, *arguments])
    assert "--inference_args" in capsys.readouterr().err
    parse([*SETS, *arguments, "--inference_tag", "named"])


def test_usual_names_and_other_disks_are_taken():
    """Folders of experiments and data may be anywhere."""
    o = parse([*SETS, "--asr_tag", "v1.2 (first)", "--lm_tag", "..b", "--inference_tag", "beam-10",
               "--lang", "en", "--expdir", "../elsewhere/exp", "--dumpdir", "/disk/dump",
               "--asr_stats_dir", "../stats", "--test_sets", "dev/one test"])  # fmt: skip
    at = layout(o)
    assert str(at.asr_exp) == "../elsewhere/exp/asr_v1.2 (first)"
    assert str(at.lm_exp) == "../elsewhere/exp/lm_..b" and str(at.stats) == "../stats"
    assert str(at.feats) == "/disk/dump/raw" and o.inference_tag == "beam-10"


def test_a_model_without_ctc_is_told_before_the_training(tmp_path, capsys):
    """Stage 16 decodes and measures by it."""
    config = tmp_path / "train.yaml"
    config.write_text("decoder: transducer\nmodel_conf:\n    ctc_weight: 0.0\n")
    with pytest.raises(SystemExit):
        parse([*SETS, "--asr_config", str(config)])
    assert "ctc_weight: 0.0 leaves the model without CTC" in capsys.readouterr().err
    parse([*SETS, "--asr_config", str(config), "--skip_sizes", "true"])
    parse([*SETS, "--asr_config", str(config), "--stop_stage", "13"])


@pytest.mark.parametrize("number", ["2", "0", "-1"])
def test_the_anchors_are_always_measured(number, capsys):
    with pytest.raises(SystemExit):
        parse([*SETS, "--num_sizes", number])
    assert f"--num_sizes {number}: must be 3 or more" in capsys.readouterr().err
    assert parse([*SETS, "--num-sizes", "3"]).num_sizes == 3
    assert parse(SETS).num_sizes >= 10


@pytest.mark.parametrize("text", ["model_conf: [", "\x00"])
def test_a_config_that_is_no_yaml_is_named(tmp_path, capsys, text):
    config = tmp_path / "train.yaml"
    config.write_text(text)
    with pytest.raises(SystemExit):
        parse([*SETS, "--asr_config", str(config)])
    err = capsys.readouterr().err
    assert f"--asr_config {config}: is no YAML" in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "- 1", "model_conf: [1]", "model_conf:"])
def test_what_else_is_wrong_with_a_config_the_training_says(tmp_path, text):
    config = tmp_path / "train.yaml"
    config.write_text(text)
    parse([*SETS, "--asr_config", str(config)])
