"""Models are loaded from any working directory, and what is at fault is named."""

import contextlib
import errno
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import yaml

import espnet_des
from espnet_des.deploy.extract import extract_subnet
from espnet_des.deploy.onnx.export import export_onnx
from espnet_des.errors import ConfigError
from espnet_des.inference.decode_best_path import decode_best_path
from espnet_des.inference.loading import load_model
from espnet_des.inference.named_files import with_found_files
from espnet_des.measure.pictures import plot_all
from espnet_des.measure.report import report
from espnet_des.measure.stock import save_stock
from tests.train import make_data, train_here

STATS = "exp/asr_stats/feats_stats.npz"
BPE = "data/token_list/bpe.model"
MODEL = "valid.cer_ctc.ave.pth"


def write_stats(recipe: Path, mean: float) -> Path:
    path = recipe / STATS
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, count=10, sum=np.full(16, 10 * mean), sum_square=np.full(16, 300.0))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A recipe's folder, in which config.yaml names files by relative paths."""
    recipe = tmp_path_factory.mktemp("recipe")
    write_stats(recipe, -5.0)
    make_data(recipe, 6)
    (recipe / BPE).parent.mkdir(parents=True)
    (recipe / "letters").write_text("A B C\nC A B\nAB CA\nBB CC AA\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(recipe / "letters"), model_prefix=str((recipe / BPE).with_suffix("")),
        vocab_size=7, model_type="char", minloglevel=2,
    )  # fmt: skip
    with contextlib.chdir(recipe):
        train_here(
            recipe, recipe / "exp/asr", max_epoch=3, accum_grad=1, normalize="global_mvn",
            normalize_conf={"stats_file": STATS}, token_type="bpe", bpemodel=BPE,
        )  # fmt: skip
    return recipe


@pytest.fixture
def recipe(trained, tmp_path, monkeypatch):
    """A copy of it; the working directory is another folder."""
    shutil.copytree(trained, tmp_path / "recipe")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "recipe"


def test_espnets_other_warnings_stay(recipe, caplog):
    """Of a CTC model it warns that it has no decoder, which its config says."""
    load_model(*files(recipe))
    assert not caplog.records
    logging.warning("Set decoder to none as ctc_weight==1.0")
    assert len(caplog.records) == 1


def files(recipe: Path):
    exp = recipe / "exp/asr/exp"
    return exp / "config.yaml", exp / MODEL


def encoded(model) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model.eval().encode(torch.randn(1, 4000), torch.tensor([4000]))[0]


@pytest.fixture(scope="module")
def expected(trained):
    """What the model gives in the recipe's folder."""
    with contextlib.chdir(trained):
        return encoded(load_model(*files(trained))[0])


COMMANDS = {
    "decode_best_path": lambda c, m, out: decode_best_path(
        c, m, c.parents[3] / "00.wav", out / "decoded"),
    "extract_subnet": lambda c, m, out: extract_subnet(c, m, 3, out / "size3"),
    "export_onnx": lambda c, m, out: export_onnx(c, m, out / "size3.onnx", 3),
    "plot": lambda c, m, out: plot_all(c, m, out / "pictures"),
    "Speech2Text": lambda c, m, out: espnet_des.Speech2Text(c, m, beam_size=2, ctc_weight=1.0)(
        0.1 * torch.ones(4000)),
    "stock_blocks": lambda c, m, out: save_stock(c, 1, out / "stock1"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_work_outside_of_the_recipe(recipe, tmp_path, command, caplog):
    caplog.set_level(logging.INFO)
    COMMANDS[command](*files(recipe), tmp_path)
    if command not in ("stock_blocks", "extract_subnet"):
        assert f"stats_file: {STATS} is taken from {recipe / STATS}" in caplog.text


@pytest.mark.thorough
def test_a_report_works_outside_of_the_recipe(recipe, tmp_path):
    report(*files(recipe), tmp_path / "report", stock_blocks=[1], seconds=1.0, rounds=1)


def test_the_files_of_the_recipe_are_found(recipe, expected):
    model, args = load_model(*files(recipe))
    assert torch.equal(encoded(model), expected)
    assert args.bpemodel == str(recipe / BPE)
    part = recipe / "exp/asr/exp"
    with contextlib.chdir(part):  # named by relative paths themselves
        assert torch.equal(encoded(load_model("config.yaml", MODEL)[0]), expected)
    with contextlib.chdir(recipe):  # as ESPnet does
        assert load_model(*files(recipe))[1].bpemodel == BPE


def test_the_place_that_a_link_leads_to_counts(recipe, tmp_path, expected):
    (tmp_path / "linked").symlink_to(recipe / "exp/asr/exp")
    linked = tmp_path / "linked"
    assert torch.equal(
        encoded(load_model(linked / "config.yaml", linked / MODEL)[0]), expected
    )


def test_a_missing_file_is_named_with_its_key(recipe):
    (recipe / STATS).unlink()
    config, model_file = files(recipe)
    says = (
        f"normalize_conf: stats_file: {STATS} is not there, neither in the working directory"
    )
    for load in (load_model, espnet_des.Speech2Text):
        with pytest.raises(ConfigError, match=f"^asr_train_config: {config}: {says}") as error:
            load(config, model_file)
        assert "damaged" not in str(error.value)
    whole = yaml.safe_load(config.read_text())
    whole["normalize_conf"]["stats_file"] = "/nowhere/stats.npz"
    config.write_text(yaml.safe_dump(whole))
    with pytest.raises(ConfigError, match="stats_file: /nowhere/stats.npz is not there; run"):
        load_model(config, model_file)


def test_a_missing_sentencepiece_model_is_named_before_decoding(recipe):
    (recipe / BPE).unlink()
    load_model(*files(recipe))  # needs it not
    for load in (
        espnet_des.Speech2Text,
        lambda c, m: COMMANDS["decode_best_path"](c, m, recipe),
    ):
        with pytest.raises(ConfigError, match=f"^bpemodel: {BPE} is not there"):
            load(*files(recipe))
    assert not (recipe / "decoded").exists()


def test_two_files_that_differ_are_refused(recipe, expected):
    config, model_file = files(recipe)
    other = write_stats(recipe / "exp/asr", -5.0)
    assert torch.equal(encoded(load_model(config, model_file)[0]), expected)  # a copy
    write_stats(recipe / "exp/asr", 2.0)
    for load in (load_model, espnet_des.Speech2Text):
        with pytest.raises(
            ConfigError, match=f"stats_file: {STATS} can be {other} or "
        ) as error:
            load(config, model_file)
        assert f"or {recipe / STATS}, which differ" in str(error.value)
    # A working directory above the config is the one that the training had.
    with contextlib.chdir(recipe):
        assert torch.equal(encoded(load_model(config, model_file)[0]), expected)


def test_statistics_of_another_recipe_are_not_taken(recipe, tmp_path):
    """Its folder, the working directory, has a file of that name."""
    here = write_stats(tmp_path / "elsewhere", 2.0)
    with pytest.raises(ConfigError, match=f"can be {here} or {recipe / STATS}, which differ"):
        load_model(*files(recipe))


@pytest.mark.parametrize("place", ["exp/size3", "../size3"])
@pytest.mark.parametrize("cwd", [".", "../elsewhere"])
def test_an_extracted_size_loads_from_everywhere(recipe, tmp_path, place, cwd):
    with contextlib.chdir(recipe / cwd):
        file = extract_subnet(*files(recipe), 3, recipe / place)
    config = file.with_name("config.yaml")
    written = yaml.safe_load(config.read_text())
    in_recipe = not place.startswith("..")
    # In the recipe it keeps what it was trained with, which can be packed and moved.
    assert written["normalize_conf"]["stats_file"] == (
        STATS if in_recipe else str(recipe / STATS)
    )
    assert written["bpemodel"] == (BPE if in_recipe else str(recipe / BPE))
    (tmp_path / "third").mkdir()
    found = []
    for folder in (recipe, tmp_path / "elsewhere", tmp_path / "third"):
        with contextlib.chdir(folder):
            found.append(encoded(load_model(config, file)[0]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_what_is_no_file_stays_as_it_is(tmp_path):
    """Words, names of models at Hugging Face, and files of the training alone."""
    for name in ("conv2d", "facebook/model", "wav.scp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "facebook/model").unlink()
    config = {
        "encoder_conf": {"input_layer": "conv2d", "model": "facebook/model", "long": "x/" * 3000},
        "train_data_path_and_name_and_type": [["wav.scp", "speech", "sound"]],
        "preprocessor_conf": {"noise_scp": "wav.scp"}, "token_list": ["a/b", "wav.scp"],
        "model_conf": {"teacher_config": "wav.scp", "cost_table": "wav.scp"},
        "bpemodel": None, "normalize_conf": {"zero": "\0.x", "list": ["wav.scp", 3]},
    }  # fmt: skip
    found = with_found_files(config, tmp_path / "exp/config.yaml")
    assert found["normalize_conf"].pop("list") == [str(tmp_path / "wav.scp"), 3]
    config["normalize_conf"].pop("list")
    assert found == config


OF_THE_MACHINE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    OSError(errno.EIO, "Input/output error", "model.pth"),
    OSError(errno.ESTALE, "Stale file handle"),
    PermissionError(errno.EACCES, "Permission denied", "model.pth"),
]


@pytest.mark.parametrize("error", OF_THE_MACHINE, ids=lambda e: type(e).__name__)
def test_what_is_of_the_machine_is_not_taken_for_damage(recipe, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    says = f"{MODEL} could not be loaded now .{type(error).__name__}: .*but may be whole"
    with pytest.raises(RuntimeError, match=says) as found:
        load_model(*files(recipe))
    assert "damaged" not in str(found.value)
