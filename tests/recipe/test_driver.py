"""The demo's own run.sh on a small corpus, from synthesis to the table of sizes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "egs2/mini_digits/asr1"
SMALL = (
    "--batch_bins 300000 --num_iters_per_epoch 4 --max_epoch 3 --keep_nbest_models 1 "
    "--encoder_conf num_blocks=2 --encoder_conf output_size=16 --encoder_conf linear_units=16 "
    "--encoder_conf sizes=[4,8] --model_conf reduction=4 --scheduler_conf total_steps=12"
)


def make_folder(folder):
    """Links to the recipe: what is made goes there."""
    folder.mkdir(exist_ok=True)
    for name in ("run.sh", "asr.sh", "path.sh", "cmd.sh", "local", "conf"):
        (folder / name).symlink_to((RECIPE / name).resolve())
    return folder


def command_of(folder, *arguments):
    """What to start a small run with, as arguments of a subprocess."""
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [str(folder / "run.sh"), "--local_data_opts", "--scale 0.05", "--asr_args", SMALL,
               *arguments]  # fmt: skip
    return {"args": command, "env": env, "text": True,
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}  # fmt: skip


def run(folder, *arguments):
    return subprocess.run(**command_of(folder, *arguments))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("a recipe"))


def test_a_stage_before_its_time_says_what_is_missing(recipe):
    for stage, says in ((3, "run stage 1 first"), (4, "run the stage that makes it first"),
                        (5, "run stage 4 first"), (11, "run stage 10 first"),
                        (16, "run stage 11 first")):  # fmt: skip
        done = run(recipe, "--stage", str(stage), "--stop_stage", str(stage))
        assert done.returncode == 1, done.stdout
        assert says in done.stderr, (stage, done.stderr)


def test_a_training_without_its_gpus_is_refused_before_the_data_is_made(recipe):
    done = run(recipe, "--ngpu", "97")
    assert done.returncode == 1 and "torch finds" in done.stderr, done.stderr
    assert not (recipe / "downloads").exists()
    done = run(recipe, "--ngpu", "97", "--stage", "4", "--stop_stage", "4")
    assert "run the stage that makes it first" in done.stderr


def test_the_recipe_ends_with_a_table_of_sizes(recipe):
    done = run(recipe)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((recipe / "exp/sizes.json").read_text())
    assert [row["size"] for row in rows] == [4, 8]
    assert rows[0]["num_params"] < rows[1]["num_params"]
    assert set(rows[0]["wer"]) == {"test_clean", "test_noisy"}
    assert rows[1]["kept_layers"] == list(range(8))
    assert set(rows[0]["kept_layers"]) < set(range(8)) and len(rows[0]["kept_layers"]) == 4
    assert rows[0]["macs_per_second"] < rows[1]["macs_per_second"]
    assert all(row["rtf_1_thread"] > 0 for row in rows)
    slices = json.loads((recipe / "exp/slices.json").read_text())
    assert [piece["size"] for piece in slices["slices"]] == [4, 8]
    assert slices["about"]["threads"] > 0
    for folder in ("exp/images", "exp/asr_simple_top_k/images"):
        names = {path.name for path in (recipe / folder).iterdir()}
        assert {"kept_layers.png", "scores.png", "wer.png"} <= names
    table = (recipe / "exp/sizes.md").read_text()
    assert table in done.stdout and "Spread of the scores" in table
    assert not table.rstrip().endswith(": 0")
    # The decoded text is there for every size, set and utterance.
    for size in (4, 8):
        texts = next(
            (recipe / f"exp/asr_simple_top_k_size{size}").glob("decode_ctc*/test_clean/text")
        )
        assert len(texts.read_text().splitlines()) == 20


def test_a_trained_model_is_shrunk_by_stage_11(recipe):
    stock = " ".join(word for word in SMALL.replace("--encoder_conf sizes=[4,8]", "").replace(
        "--model_conf reduction=4", "").split())  # fmt: skip
    here = ("--stage", "11", "--stop_stage", "11")
    done = run(recipe, *here, "--asr_config", "conf/train_conformer_24.yaml",
               "--asr_tag", "conformer", "--asr_args", stock)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(recipe, "--stage", "11", "--shrink", "exp/asr_conformer",
               "--asr_tag", "conformer_shrunk", "--asr_args", "--model_conf reduction=4",
               "--shrink_args", "--sizes 4 8 --share 1.0 --rank_by loss")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((recipe / "exp/asr_conformer_shrunk/sizes.json").read_text())
    assert [row["size"] for row in rows] == [4, 8]
    assert (recipe / "exp/asr_conformer_shrunk_size4/config.yaml").exists()


@pytest.mark.parametrize(
    "options, says",
    [
        (["--shrink", "exp/none"], "--shrink exp/none: is not there"),
        (["--shrink_args", "--share 0.1"], "give the model, too: --shrink"),
        (["--shrink", "conf", "--shrink_args", "--share 3"], "share: 3 must be from 0"),
        (["--shrink", "conf", "--pretrained_model", "x.pth"], "leave it out with --shrink"),
    ],
)
def test_what_a_shrink_cannot_begin_with_is_said_at_once(recipe, options, says):
    done = run(recipe, "--stage", "11", *options)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_best_path_decoding_does_not_depend_on_the_batch(recipe):
    import soundfile
    import torch

    from espnet_des.corpus.kaldi import read_table
    from espnet_des.inference.best_path import BestPathDecoder
    from espnet_des.inference.loading import load_model
    from espnet_des.inference.transcribe import decode_files

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(recipe)
        exp = Path("exp/asr_simple_top_k")
        model, args = load_model(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth")
        decoder = BestPathDecoder(model, args)
        wavs = read_table(Path("dump/raw/test_clean/wav.scp"))
        alone = decode_files(decoder, wavs, 1, "alone")
        assert alone == decode_files(decoder, wavs, 7, "together")
        path = next(iter(wavs.values()))
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        assert decoder([wave[:300]]) == [""]  # too short for the front end


def chosen(tmp_path, encoder, *arguments):
    """``run.sh`` with ENCODER, in a folder whose asr.sh tells its options, one a line."""
    for name in ("run.sh", "conf"):
        if not (tmp_path / name).exists():
            (shutil.copytree if name == "conf" else shutil.copy)(
                RECIPE / name, tmp_path / name
            )
    (tmp_path / "asr.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "asr.sh").chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k != "ENCODER"}
    done = subprocess.run([tmp_path / "run.sh", *arguments], capture_output=True, text=True,
                          env=env | ({} if encoder is None else {"ENCODER": encoder}))  # fmt: skip
    words = done.stdout.splitlines()
    return done, dict(zip(words[::2], words[1::2]))


@pytest.mark.parametrize("encoder, config, tag", [
    (None, "train_des", "simple_top_k"), ("des_conformer", "train_des", "simple_top_k"),
    ("des_e_branchformer", "train_des_e_branchformer", "des_e_branchformer_simple_top_k"),
])  # fmt: skip
def test_the_demo_takes_another_encoder(tmp_path, encoder, config, tag):
    """Its experiment is another one; what is given by hand counts more."""
    done, options = chosen(tmp_path, encoder)
    assert (options["--asr_config"], options["--asr_tag"]) == (f"conf/{config}.yaml", tag)
    assert (tmp_path / options["--asr_config"]).exists(), done.stderr
    done, options = chosen(tmp_path, encoder, "--asr_tag", "x")
    assert (options["--asr_config"], options["--asr_tag"]) == (f"conf/{config}.yaml", "x")


def test_an_encoder_without_a_config_is_said(tmp_path):
    done, options = chosen(tmp_path, "conformer")
    assert done.returncode == 2 and not options and done.stderr.count("\n") == 1
    assert "ENCODER=conformer" in done.stderr and "des_e_branchformer" in done.stderr
