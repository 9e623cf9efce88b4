"""Stage 16: which sizes it measures, and its tables, as files."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from espnet_des.corpus.kaldi import read_table, write_table
from espnet_des.inference import loading
from espnet_des.inference.scoring import Errors
from espnet_des.measure import report
from espnet_des.recipe import sizes as stage_16
from espnet_des.recipe.layout import layout
from espnet_des.recipe.options import parse
from espnet_des.recipe.process import StageError
from espnet_des.recipe.sizes import rates_by_set, write_sizes
from espnet_des.recipe.slices import write_slices
from tests.train import train_here

KINDS = ["ff_macaron", "mhsa", "conv", "ff"]


def row(size):
    return {"size": size, "kept_layers": list(range(size)), "num_params": 1000 * size,
            "wer": {"test": 10.0 / size}, "macs_per_second": 1e6 * size,
            "rtf_1_thread": 0.01 * size}  # fmt: skip


def write(folders):
    write_sizes(folders, [row(2), row(4)], KINDS, "simple_top_k, model.pth", 0.1)


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, capsys):
    write([tmp_path])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(before) == {"sizes.md", "sizes.json"}
    assert [r["size"] for r in json.loads(before["sizes.json"])] == [2, 4]
    assert before["sizes.md"].decode() in capsys.readouterr().out
    write_text = Path.write_text

    def full_disk(self, text, *args, **kwargs):
        write_text(self, text[: len(text) // 2], *args, **kwargs)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        write([tmp_path])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_table_is_straight_and_counts_kinds(tmp_path, capsys):
    rows = [row(2), row(4)]
    rows[0]["kept_layers"] = [1, 2]
    write_sizes([tmp_path], rows, KINDS, "fixed, model.pth", None)
    assert "Spread" not in (tmp_path / "sizes.md").read_text()
    lines = (tmp_path / "sizes.md").read_text().splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert {len(line) for line in tables[:4]} == {len(tables[0])}
    assert tables[2].split("|")[-2].strip() == "1-2"
    assert tables[3].split("|")[-2].strip() == "all"
    assert tables[6].replace(" ", "") == "|2|0|1|1|0|"


# ---- slices.json ------------------------------------------------------------


def test_slices_have_the_keys_that_commands_read(tmp_path):
    rows = [
        row(size) | {"model_params": 1100 * size, "model_file_bytes": 5000 * size, "wer": wer}
        for size, wer in ((2, {"a": 9.0, "b": 11.0}), (3, {"a": 8.0, "b": 12.0}),
                          (4, {"a": 9.0, "b": 10.0}))
    ]  # fmt: skip
    about = {"cpu": "x", "threads": 2}
    write_slices([tmp_path], about, rows)
    found = json.loads((tmp_path / "slices.json").read_text())
    assert found["about"] == about and found.keys() == {"about", "slices"}
    assert found["slices"][0] == {
        "size": 2, "params": 2200, "macs_per_second": 2e6, "rtf": 0.02, "file_bytes": 10000,
        "wer": {"a": 9.0, "b": 11.0}, "pareto": True,
    }  # fmt: skip
    # Size 3 is as good as size 2 in the mean, and costs more.
    assert [piece["pareto"] for piece in found["slices"]] == [True, False, True]


# ---- the stage --------------------------------------------------------------


@pytest.fixture(scope="module")
def any_size(data, tmp_path_factory):
    """A recipe's folder after the training of a supernet that has the sizes from 2 to 8."""
    folder = tmp_path_factory.mktemp("recipe")
    train_here(data, folder / "exp", max_epoch=4, encoder_conf__sizes="any",
               encoder_conf__smallest_size=2)  # fmt: skip
    test = folder / "dump/raw/test"
    test.mkdir(parents=True)
    for name in ("wav.scp", "text"):
        (test / name).write_text((data / name).read_text())
    write_table(test / "utt2spk", {utt: utt for utt in read_table(data / "text")})
    return folder


def fake_measure(candidates, seconds, rounds):
    """Costs as :func:`report.measure` tells them, without a process for each model."""
    return [
        {
            "name": c.name, "num_layers": len(c.kept_layers), "kept_layers": c.kept_layers,
            "encoder_params": 1000, "model_params": 2000,
            "macs_per_second": 10**6 * len(c.kept_layers), "front_end_macs_per_second": 10,
            "peak_memory_bytes": None, "model_file_bytes": c.model_file.stat().st_size,
            **{f"rtf_{n}": 0.01 for n in ("1_thread", "all_threads")},
            **{f"times_{n}": [0.1] for n in ("1_thread", "all_threads")},
        }
        for c in candidates
    ]  # fmt: skip


OPTIONS = [
    "--train_set", "train", "--valid_set", "dev", "--test_sets", "test", "--token_type", "char",
    "--use_lm", "false", "--asr_exp", "exp/exp", "--skip_packing", "false",
    "--inference_asr_model", "valid.cer_ctc.ave.pth",
]  # fmt: skip


@pytest.fixture
def run_stage(any_size, monkeypatch):
    """Run stage 16 with these options; returns slices.json and the experiments it packed."""
    packed = []

    def stage(*options):
        o = parse([*OPTIONS, *options])
        stage_16.score_sizes(o, layout(o))
        return json.loads(Path("exp/slices.json").read_text()), packed

    def pack(o: argparse.Namespace, at, exp: Path):
        packed.append(exp.name)

    monkeypatch.chdir(any_size)
    monkeypatch.setattr(report, "measure", fake_measure)
    monkeypatch.setattr(stage_16, "pack", pack)
    return stage


def test_of_any_size_as_many_are_measured_as_asked_for(any_size, run_stage, capsys):
    found, packed = run_stage("--num_sizes", "4")
    sizes = [piece["size"] for piece in found["slices"]]
    assert sizes == [2, 5, 6, 8]
    assert packed == [f"exp_size{size}" for size in (2, 5, 8)]  # the anchors
    for size in sizes:
        exp = any_size / f"exp/exp_size{size}"
        (texts,) = exp.glob("decode_ctc*/test/text")
        assert len(read_table(texts)) == 14
    assert "Size 6 (3 of 4)" in capsys.readouterr().out
    assert {"asr_train_config", "asr_model_file", "cpu", "threads", "torch", "espnet",
            "seconds"} <= set(found["about"])  # fmt: skip
    assert found["slices"][0]["pareto"] and found["slices"][0]["rtf"] == 0.01
    for folder in (any_size / "exp", any_size / "exp/exp"):
        assert json.loads((folder / "slices.json").read_text()) == found
        rows = json.loads((folder / "sizes.json").read_text())
        assert [one["size"] for one in rows] == sizes
        assert [len(one["kept_layers"]) for one in rows] == sizes
        assert (folder / "images/wer.png").exists()


def test_of_any_size_all_are_measured_where_they_are_few(run_stage):
    found, _ = run_stage()
    assert [piece["size"] for piece in found["slices"]] == list(range(2, 9))


def test_a_baseline_has_no_table_of_sizes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp/exp").mkdir(parents=True)
    (tmp_path / "exp/exp/valid.cer_ctc.ave.pth").touch()
    baseline = torch.nn.Linear(1, 1), argparse.Namespace(encoder="conformer")
    monkeypatch.setattr(loading, "load_model", lambda config, file: baseline)
    o = parse([*OPTIONS, "--stage", "16"])
    with pytest.raises(StageError, match="conformer has one size only; stage 16 is for"):
        stage_16.score_sizes(o, layout(o))
    o = parse(OPTIONS)  # of all stages it is the last, which must not fail
    stage_16.score_sizes(o, layout(o))
    assert "conformer has one size only: there is no table" in capsys.readouterr().out


def test_sets_of_the_same_last_name_stay_two():
    names = ("one/dev", "two/dev", "org/dev")
    errors = {name: Errors(1, 10, i, 0, 0, 1) for i, name in enumerate(names, start=1)}
    assert rates_by_set(errors) == {"one/dev": 10.0, "two/dev": 20.0, "dev": 30.0}
