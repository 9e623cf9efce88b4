"""Options of ESPnet's asr.sh: those that it alone has, and how stage 16 follows it."""

import subprocess
from pathlib import Path

import pytest

from espnet_des.recipe.layout import layout
from espnet_des.recipe.options import parse

ROOT = Path(__file__).parents[2]
SETS = ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test"]
# As in ESPnet: names and defaults at the top, and what it does with them.
THEIRS = """#!/usr/bin/env bash
stage=1
stop_stage=10000
new_option=
k2_config=conf/k2.yaml
echo "theirs:" "$@"
"""


@pytest.fixture
def asr_sh(tmp_path):
    """Of a checkout; names that it does not have are unknown to it."""
    path = tmp_path / "espnet/egs2/TEMPLATE/asr1/asr.sh"
    path.parent.mkdir(parents=True)
    path.write_text(THEIRS)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("options", [
    ["--ngpu", "8", "--num_nodes", "2"], ["--use_ngram", "true"], ["--use_ngram", "true",
    "--ngram_num", "4"], ["--k2_config", "conf/k2.yaml", "--use_k2", "true"],
    ["--num_splits_asr", "4"], ["--num_splits_lm", "4"], ["--gpu_inference", "true"],
    ["--audio_format", "flac.ark"], ["--hf_repo", "me/model", "--skip_upload_hf", "false"],
    ["--post_process_local_data_opts", "--stage 2"], ["--score_opts", "-s"],
    ["--use_streaming", "true"], ["--new_option", "--of a later release"], ["--ngpu", "no number"],
    ["--nj", "400"], ["--feats_type", "raw_copy"], ["--feats_normalize", "none"],
])  # fmt: skip
def test_only_what_stage_16_needs_reaches_it(asr_sh, options):
    o = parse([*SETS, "--asr_sh", str(asr_sh), "--stage", "1", "--asr_tag", "x", *options])
    assert o.stage == 16 and o.stop_stage == 10000 and o.ngpu == 1
    kind = "raw_copy" if "raw_copy" in options else "raw"
    assert str(layout(o).asr_exp) == "exp/asr_x" and layout(o).feats.name == kind


def test_how_many_sizes_are_measured_reaches_stage_16(asr_sh):
    assert parse([*SETS, "--asr_sh", str(asr_sh), "--num_sizes", "5"]).num_sizes == 5


@pytest.mark.parametrize("options, says", [
    (["--use_lightning", "true"], "--use_lightning true: stage 16"),
    (["--asr_task", "asr_transducer"], "--asr_task asr_transducer: stage 16"),
    (["--use_maskctc", "true"], "--use_maskctc true: stage 16"),
    (["--num_ref", "2"], "--num_ref 2: stage 16"),
    (["--download_model", "x"], "--download_model x: stage 16"),
    (["--multi_columns_output_wav_scp", "true"], "--multi_columns_output_wav_scp true: stage"),
    (["--feats_type", "extracted"], "--feats_type extracted: must be one of ['raw', 'raw_copy']"),
    (["--token_type", "hugging_face"], "--token_type hugging_face: must be one of ['char',"),
    (["--use_ngram", "true", "--sizes_decoding", "beam"],
     "--use_ngram true: beam search in stage 16"),
    (["--use_k2", "true", "--sizes_decoding", "beam"], "--use_k2 true: beam search in stage 16"),
    (["--use_streaming", "true", "--sizes-decoding", "beam"], "--use_streaming true: beam"),
    (["--no_such_option", "1"], "--no_such_option: unknown here and to"),
    (["--config", "x.sh"], "--config: unknown here and to"),
    (["--inference_config", "conf/none.yaml"], "conf/none.yaml: no such file"),
])  # fmt: skip
def test_what_stage_16_cannot_follow_is_said_before_the_others(asr_sh, options, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse([*SETS, "--asr_sh", str(asr_sh), *options])
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and says in told and told.count("\n") == 1
    if ": stage 16" in says or "beam" in says or "one of" in says:
        assert "--skip_sizes true" in told


@pytest.mark.parametrize("options, says", [
    (["--k2_config", "x"], "--k2_config x: this driver leaves that out"),
    (["--ngram_num", "4"], "--ngram_num 4: this driver leaves that out"),
    (["--num-nodes", "2"], "--num_nodes 2: this driver leaves that out; it is part of ESPnet's "
     "asr.sh, which --espnet_root runs"),
])  # fmt: skip
def test_without_a_checkout_these_options_are_left_out(options, says, capsys):
    with pytest.raises(SystemExit):
        parse([*SETS, *options])
    assert says in capsys.readouterr().err


def test_names_may_have_hyphens_as_in_kaldi():
    arguments = ["--train-set", "train", "--valid-set", "dev", "--test-sets", "te-st",
                 "--stop-stage", "3", "--asr-args", "--max-epoch 2",
                 "--asr_args", "--max_epoch=5"]  # fmt: skip
    o = parse(arguments)
    assert (o.stop_stage, o.test_sets, o.asr_args) == (3, "te-st", "--max_epoch=5")


@pytest.mark.parametrize("arguments, says", [
    (["--stop_stage", "three"], "--stop_stage: 'three' must be a whole number"),
    (["--max_wav_duration", "long"], "--max_wav_duration: 'long' must be a number"),
    (["--use_lm", "maybe"], "--use_lm: 'maybe' must be true or false"),
    (["--stop_stge", "3"], "--stop_stge: unknown; is --stop_stage meant? --help lists"),
    (["--no_such_option", "3"], "--no_such_option: unknown; --help lists"),
    (["--skip_stages", "6 nine"], "--skip_stages 6 nine: must be numbers of stages"),
    (["--stage"], "--stage needs a value"),
    (["3"], "3: every argument must follow an --option"),
    (["--nbpe", "-1"], "--nbpe -1: must be 1 or more"),
])  # fmt: skip
def test_an_option_that_is_wrong_takes_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse([*SETS, *arguments])
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and says in told and told.count("\n") == 1


def run(tmp_path, *arguments):
    """Our asr.sh in a folder whose python tells what it is to run."""
    recipe = tmp_path / "asr1"
    recipe.mkdir(exist_ok=True)
    (recipe / "path.sh").write_text(f'PATH="{tmp_path}/bin:${{PATH}}"\n')
    (tmp_path / "bin").mkdir(exist_ok=True)
    for name, words in (("python3", 'echo "ours:" "$@"'), ("sclite", ":")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = subprocess.run([ROOT / "egs2/TEMPLATE/asr1/asr.sh", *arguments], cwd=recipe,
                          capture_output=True, text=True)  # fmt: skip
    return done, done.stdout.splitlines()


def test_stage_16_begins_after_espnets_stages_and_its_options_are_checked_before(
    asr_sh, tmp_path
):
    root = str(tmp_path / "espnet")
    done, lines = run(tmp_path, "--espnet-root", root, "--num-nodes", "2", "--asr-tag", "a b",
                      "--sizes-decoding", "beam", "--num-sizes", "5")  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = f"ours: -m espnet_des.bin.recipe --asr_sh {asr_sh}"
    options = "--num_nodes 2 --asr_tag a b --sizes_decoding beam --num_sizes 5"
    assert lines == [
        f"{ours} --only_check true {options}",
        "theirs: --python python3 -m espnet_des --num_nodes 2 --asr_tag a b",
        f"{ours} {options}",
    ]


@pytest.mark.parametrize("options, stages", [
    (["--stop-stage", "11"], ["theirs:"]), (["--stop_stage", "16"], ["ours:", "theirs:", "ours:"]),
    (["--skip-stages", "3 16"], ["theirs:"]), (["--skip-sizes", "true"], ["theirs:"]),
    (["--stage", "16"], ["ours:", "ours:"]), (["--help"], ["ours:"]), (["-h"], ["ours:"]),
])  # fmt: skip
def test_stage_16_is_left_out_where_that_was_asked_for(asr_sh, tmp_path, options, stages):
    done, lines = run(tmp_path, "--espnet_root", str(tmp_path / "espnet"), *options)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in lines] == stages


def test_a_trained_model_is_shrunk_between_espnets_stages(asr_sh, tmp_path):
    """Stage 11 is the driver's then; the experiment has the same name for both."""
    given = ["--shrink", "exp/asr_x.zip", "--shrink_args", "--share 0.1"]
    done, lines = run(tmp_path, "--espnet_root", str(tmp_path / "espnet"), *given)
    assert done.returncode == 0, done.stderr
    shrink, tag = " ".join(given), "--asr_tag x_shrunk"
    theirs, ours = "theirs: --python python3 -m espnet_des", "ours: -m espnet_des.bin.recipe"
    assert lines == [
        f"{ours} --asr_sh {asr_sh} --only_check true {shrink} {tag}",
        f"{theirs} {tag} --stop_stage 10",
        f"{ours} --asr_sh {asr_sh} {shrink} {tag} --stage 11 --stop_stage 11",
        f"{theirs} {tag} --stage 12",
        f"{ours} --asr_sh {asr_sh} {shrink} {tag}",
    ]
    done, lines = run(tmp_path, "--espnet_root", str(tmp_path / "espnet"), *given,
                      "--asr_tag", "mine", "--stage", "11", "--stop_stage", "11")  # fmt: skip
    assert lines == [f"{ours} --asr_sh {asr_sh} {shrink} --asr_tag mine --stage 11 "
                     "--stop_stage 11 --stage 11 --stop_stage 11"]  # fmt: skip


def test_options_of_espnet_alone_reach_no_shrink(asr_sh, tmp_path, monkeypatch, capsys):
    """What the check before stage 1 has accepted must not be refused by stage 11."""
    monkeypatch.chdir(tmp_path)
    Path("exp").mkdir()
    Path("exp/asr_x.zip").touch()
    given = ["--asr_sh", str(asr_sh), *SETS, "--shrink", "exp/asr_x.zip", "--num_nodes", "2",
             "--audio_format", "flac.ark", "--gpu_inference", "true"]  # fmt: skip
    asr_sh.write_text("num_nodes=1\ngpu_inference=false\n")
    assert parse(given).stage == 16
    now = parse([*given, "--stage", "11", "--stop_stage", "11", "--ngpu", "4"])
    assert (now.stage, now.stop_stage, now.ngpu) == (11, 11, 4)
    with pytest.raises(SystemExit):
        parse([*given, "--use_lightning", "true", "--stage", "11", "--stop_stage", "11"])
    assert "--use_lightning true: this driver leaves that out" in capsys.readouterr().err


def test_without_a_checkout_names_with_hyphens_reach_the_driver(tmp_path):
    done, lines = run(tmp_path, "--stop-stage", "3", "--asr-args", "--max-epoch 2")
    assert lines == ["ours: -m espnet_des.bin.recipe --stop_stage 3 --asr_args --max-epoch 2"]
    for wrong, says in ((["--stage=3"], "--stage=3: must be written as --stage 3"),
                        (["stage"], "stage: every argument must follow an --option"),
                        (["--stop-stage"], "--stop-stage needs a value")):  # fmt: skip
        done, lines = run(tmp_path, *wrong)
        assert done.returncode == 2 and not lines and says in done.stderr
        assert done.stderr.count("\n") == 1
