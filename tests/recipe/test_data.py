"""Stages 2 to 4 on a few lines."""

import dataclasses
from argparse import Namespace

import numpy as np
import pytest
import soundfile

from espnet_des.corpus.kaldi import write_table
from espnet_des.recipe.data import filter_length, format_audio, symbols
from espnet_des.recipe.jobs import speech
from espnet_des.recipe.layout import layout
from espnet_des.recipe.options import parse
from espnet_des.recipe.process import StageError


def test_a_language_model_is_trained_on_all_texts_that_are_named(tmp_path):
    """In their order, as ESPnet's asr.sh writes them; a text may be empty."""
    texts = ["utt-b Ä WORD\nutt-c\nutt-a ONE\n", "", "lng_2 A BANK\r\nlng_1 IT'S 100%\n"]
    paths = [tmp_path / f"text{number}" for number, _ in enumerate(texts)]
    for path, text in zip(paths, texts):
        path.write_text(text, encoding="utf-8")
    o: Namespace = parse(
        ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test",
         "--dumpdir", str(tmp_path / "dump"), "--lm_train_text", " ".join(map(str, paths))]
    )  # fmt: skip
    at = layout(o)
    for name in ("train", "dev"):
        folder = at.feats / "org" / name
        folder.mkdir(parents=True)
        for table, value in (("text", "ONE"), ("utt2spk", "s"), ("wav.scp", "a.flac"),
                             ("utt2num_samples", "16000")):  # fmt: skip
            write_table(folder / table, {f"{name}-1": value})
        for table in ("feats_type", "audio_format"):
            (folder / table).write_text("raw\n")
    filter_length(o, at)
    assert at.lm_train.read_text(encoding="utf-8") == (
        "utt-b Ä WORD\nutt-a ONE\nlng_2 A BANK\nlng_1 IT'S 100%\n"
    )


@pytest.mark.parametrize("audio_format, kind", [
    (None, "sound"), ("wav", "sound"), ("flac", "sound"), ("flac.ark", "kaldi_ark"),
    ("wav.ark", "kaldi_ark"), ("multi_wav", "multi_columns_sound"),
])  # fmt: skip
def test_a_dump_of_espnets_stage_3_is_read_as_asr_sh_reads_it(tmp_path, audio_format, kind):
    if audio_format:
        (tmp_path / "audio_format").write_text(f"{audio_format}\n")
    assert speech(tmp_path) == f"{tmp_path}/wav.scp,speech,{kind}"


def test_a_command_in_a_table_is_called_one(tmp_path):
    o: Namespace = parse(
        ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test",
         "--dumpdir", str(tmp_path / "dump")]
    )  # fmt: skip
    at = dataclasses.replace(layout(o), data=tmp_path / "data")
    folder = at.data / "test"
    folder.mkdir(parents=True)
    for table, value in (("text", "ONE"), ("utt2spk", "s"),
                         ("wav.scp", "sph2pipe -f wav a.sph |")):  # fmt: skip
        write_table(folder / table, {"test-1": value})
    with pytest.raises(StageError, match=r"test-1: 'sph2pipe -f wav a.sph \|' is a command"):
        format_audio(o, at)


def test_several_processes_format_as_one_does(tmp_path, monkeypatch):
    """Of other rates, channels, speeds, and of parts of recordings."""
    monkeypatch.setattr("espnet_des.recipe.data.A_JOB", 2)
    rng = np.random.default_rng(0)
    made = {}
    for jobs in ("1", "2"):
        o = parse(
            ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test", "--nj", jobs,
             "--dumpdir", str(tmp_path / jobs), "--stage", "3", "--stop_stage", "3"]
        )  # fmt: skip
        at = dataclasses.replace(layout(o), data=tmp_path / "data")
        for name in ("train", "dev", "test"):
            utts = [f"{name}-{number}" for number in range(5)]
            folder = at.data / name
            if not folder.exists():
                folder.mkdir(parents=True)
                for number, utt in enumerate(utts):
                    wave = 0.1 * rng.standard_normal((9000, 1 + number % 2))
                    soundfile.write(folder / f"{utt}.wav", wave, (16000, 8000)[number // 3])
                write_table(folder / "wav.scp", {u: str(folder / f"{u}.wav") for u in utts})
                for table in ("text", "utt2spk", "spk2utt"):
                    write_table(folder / table, {utt: utt for utt in utts})
                if name == "train":
                    write_table(folder / "rec2speed", dict.fromkeys(utts, "0.9"))
                if name == "dev":
                    write_table(folder / "segments", {u: f"{u} 0.1 0.4" for u in utts})
        format_audio(o, at)
        made[jobs] = {
            str(file.relative_to(tmp_path / jobs)): file.read_bytes().replace(
                str(tmp_path / jobs).encode(), b""
            )
            for file in (tmp_path / jobs).rglob("*") if file.is_file()
        }  # fmt: skip
    assert made["1"] == made["2"]
    assert sum(name.endswith(".flac") for name in made["1"]) == 5 + 5 + 3


def test_symbols_that_bpe_keeps_may_stand_in_a_file_as_in_espnet(tmp_path):
    file = tmp_path / "nlsyms.txt"
    file.write_text("<noise> 1\n\n<laugh>\n", encoding="utf-8")
    assert symbols(str(file)) == symbols("<noise>,<laugh>") == "<noise>,<laugh>"
    assert symbols("") == ""
