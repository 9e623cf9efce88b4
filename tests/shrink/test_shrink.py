"""Shrinking trained models, end to end."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model
from espnet_des.method.selection import Schedule
from espnet_des.recipe.shrink import leaves_gpu_idle, shrink
from espnet_des.shrink.options import ShrinkOptions
from espnet_des.shrink.original import read_original
from espnet_des.shrink.prepare import built, prepare
from espnet_des.shrink.ranking import rank_units
from espnet_des.utils.files import alone_in
from tests.shrink.originals import E_BRANCHFORMER, TRANSDUCER, train_original
from tests.train import ROOT, load


def of(exp: Path, name: str = "valid.cer_ctc.ave.pth") -> dict:
    return {"asr_train_config": exp / "config.yaml", "asr_model_file": exp / name}


@pytest.fixture
def unmeasured(monkeypatch):
    """Without the report, whose processes take longer than such a training."""
    monkeypatch.setattr("espnet_des.recipe.shrink.report", lambda *args, **kwargs: None)


def contents(folder: Path) -> dict:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return train_original(tmp_path_factory.mktemp("original"))


def test_a_conformer_gives_three_sizes_and_stays_as_it_was(original, tmp_path, unmeasured):
    before = contents(original)
    out = tmp_path / "shrunk"
    options = of(original) | {"sizes": [3, 5, 8], "share": 1.0}
    options["training"] = ["--model_conf", "updates_per_iteration=2"]
    options["training"] += ["--encoder_conf", "own_weights=true"]
    shrink(out, **options)
    assert contents(original) == before
    model, _ = load_model(out / "config.yaml", out / "valid.cer_ctc.ave.pth")
    assert model.encoder.sizes == [3, 5, 8] and model.state.is_frozen
    assert set(model.state.get_schedule().updates) == {2}
    assert (out / "train.log").exists()
    for size in (3, 5, 8):
        folder = tmp_path / f"shrunk_size{size}"
        alone, args = load_model(folder / "config.yaml", folder / "valid.cer_ctc.ave.pth")
        assert args.encoder_conf["kept_layers"] == model.encoder.kept_layers(size)
        speech, lengths = torch.randn(1, 8000), torch.tensor([8000])
        model.set_size(size)
        same = [m.eval().encode(speech, lengths)[0] for m in (model, alone)]
        torch.testing.assert_close(*same)
    # Started once more it goes on, which is to say that nothing is left to do.
    weights = load(out / "valid.cer_ctc.ave.pth")
    shrink(out, **options)
    assert all(
        torch.equal(v, weights[k]) for k, v in load(out / "valid.cer_ctc.ave.pth").items()
    )
    # And refuses to go on as something else.
    with pytest.raises(ConfigError, match="output_dir: .* began otherwise"):
        shrink(out, **(options | {"sizes": [2, 5, 8]}))


def test_a_gpu_that_stays_idle_is_told_of(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert leaves_gpu_idle(["--batch_size", "4"])
    assert "--ngpu 1 takes a GPU" in "".join(capsys.readouterr())
    assert not leaves_gpu_idle(["--ngpu", "0"]) and not leaves_gpu_idle(["--ngpu=2"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not leaves_gpu_idle([])


def test_of_a_known_order_stage_1_has_one_update(original, tmp_path, unmeasured):
    """The 5 layers that go do so at once."""
    out = tmp_path / "shrunk"
    shrink(out, **of(original), sizes=[3, 8], share=0.3, calibration=4)
    model, _ = load_model(out / "config.yaml", out / "valid.cer_ctc.ave.pth")
    assert model.state.get_schedule() == Schedule((1,), (5,)) and model.state.is_frozen


@pytest.mark.parametrize(
    "by, words, schedule",
    [
        ("loss", ["selection_share=0.5", "reduction=1"], Schedule((4,) * 5, (1, 2, 3, 4, 5))),
        ("loss", ["updates_per_iteration=3"], Schedule((3,), (5,))),
        ("scores", ["updates_per_iteration=3", "reduction=5"], Schedule((3,), (5,))),
        ("scores", ["reduction=5"], Schedule((10,), (5,))),
    ],
)
def test_who_says_how_long_stage_1_is_is_heard(original, tmp_path, by, words, schedule):
    """Of 40 updates."""
    options = ShrinkOptions(sizes=[3, 8], share=1.0, rank_by=by, calibration=4)
    given = [w for word in words for w in ("--model_conf", word)]
    written = prepare(read_original(*of(original).values()), tmp_path / "x", options, given)
    config = yaml.safe_load(written.read_text())
    updates = config["scheduler_conf"]["total_steps"]
    supernet = built(config, given)
    assert updates == 40 and supernet.options.resolve(8, 3, updates) == schedule


@pytest.mark.parametrize(
    "changes, name",
    [
        (E_BRANCHFORMER, "valid.acc.ave.pth"),
        (TRANSDUCER, "valid.loss.ave.pth"),
        pytest.param(
            TRANSDUCER | {"model_conf__ctc_weight": 0.0},
            "valid.loss.ave.pth",
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["hybrid E-Branchformer", "transducer", "transducer without CTC"],
)
def test_other_encoders_and_decoders(changes, name, tmp_path, unmeasured, monkeypatch):
    exp = train_original(tmp_path / "original", **changes)
    out = tmp_path / "shrunk"

    def ranked(model, *more):
        """A ranking wants losses only: for its error rates a transducer would search."""
        calculators = ("error_calculator", "error_calculator_trans")
        assert all(getattr(model, name, None) is None for name in calculators)
        return rank_units(model, *more)

    monkeypatch.setattr("espnet_des.shrink.prepare.rank_units", ranked)
    shrink(out, **of(exp, name), share=1.0, rank_by="scores", start_by="angle", calibration=4)
    model, _ = load_model(out / "config.yaml", out / name)
    assert model.state.is_frozen and len(model.encoder.sizes) == 3
    for size in model.encoder.sizes:
        load_model(tmp_path / f"shrunk_size{size}" / "config.yaml",
                   tmp_path / f"shrunk_size{size}" / name)  # fmt: skip


@pytest.mark.parametrize("by", ["angle", "loss", "greedy"])
def test_without_training_the_sizes_are_layers_of_the_original(
    original, tmp_path, by, unmeasured
):
    out = tmp_path / "ranked"
    shrink(out, **of(original), sizes=[3, 8], share=0.0, rank_by=by, conv_norm="batch_norm")
    model, _ = load_model(out / "config.yaml", out / "ranked.pth")
    stock, _ = load_model(original / "config.yaml", original / "valid.cer_ctc.ave.pth")
    speech, lengths = torch.randn(2, 8000), torch.tensor([8000, 8000])
    same = [m.eval().encode(speech, lengths)[0] for m in (model, stock)]
    torch.testing.assert_close(*same)
    config = yaml.safe_load((tmp_path / "ranked_size3" / "config.yaml").read_text())
    assert config["encoder_conf"]["kept_layers"] == model.encoder.kept_layers(3)


def test_without_training_a_budget_counts_what_it_says(original, tmp_path):
    files, options = read_original(*of(original).values()), ShrinkOptions([3, 8], share=0.0)
    config = prepare(files, tmp_path / "ranked", options, ["--model_conf", "budget=params"])
    model, _ = load_model(config, tmp_path / "ranked/ranked.pth")
    encoder, counted = model.encoder, torch.tensor(model.encoder.parameters_of_layers())
    shares = encoder.selection.costs / encoder.selection.costs.sum()
    torch.testing.assert_close(shares, (counted / counted.sum()).to(shares.dtype))
    assert counted[encoder.kept_layers(3)].sum() <= counted.sum() * 3 / 8


@pytest.mark.parametrize("words", [
    ["--encoder_conf", "own_weights=false"],
    ["--encoder_conf", "granularity=component", "--model_conf", "budget=macs"],
    ["--optim_conf", "weight_decay=0.125"],
], ids=["shared", "components", "optimizer"])  # fmt: skip
def test_without_training_options_of_the_training_count_too(original, tmp_path, words):
    files, options = read_original(*of(original).values()), ShrinkOptions([3, 8], share=0.0)
    config = prepare(files, tmp_path / "ranked", options, words)
    load_model(config, tmp_path / "ranked/ranked.pth")
    found = yaml.safe_load(config.read_text())
    for key, word in zip(words[::2], words[1::2]):
        name, value = word.split("=")
        assert found[key.removeprefix("--")][name] == yaml.safe_load(value)


def test_keys_of_an_older_espnet_are_left_out(original, tmp_path):
    """ESPnet's own inference does not mind them, and names a model with ``init: chainer``."""
    exp = shutil.copytree(original, tmp_path / "old", symlinks=True)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    old = config | {"pretrain_key": [], "init": "chainer"}
    (exp / "config.yaml").write_text(yaml.safe_dump(old))
    files = read_original(*of(exp).values())
    written = prepare(files, tmp_path / "out", ShrinkOptions([3, 8], share=1.0))
    found = yaml.safe_load(written.read_text())
    assert not {"pretrain_key", "init"} & found.keys()
    built(found, [])


def test_an_original_whose_optimizer_names_no_rate_is_given_one(original, tmp_path):
    exp = shutil.copytree(original, tmp_path / "adadelta", symlinks=True)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    old = config | {"optim": "adadelta", "optim_conf": {}, "scheduler": None}
    (exp / "config.yaml").write_text(yaml.safe_dump(old))
    files, options = read_original(*of(exp).values()), ShrinkOptions([3, 8], share=1.0)
    with pytest.raises(ConfigError, match="give one with --optim_conf lr=0.001"):
        prepare(files, tmp_path / "out", options)
    more = ["--optim", "adam", "--optim_conf", "lr=0.001"]
    written = prepare(files, tmp_path / "out", options, more)
    assert yaml.safe_load(written.read_text())["scheduler_conf"]["max_lr"] == 0.001


def test_the_folder_it_was_started_in_is_a_place_too(
    original, tmp_path, unmeasured, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shrink(Path("."), **of(original), sizes=[3, 8], share=0.0)
    assert (tmp_path / "here_size3/config.yaml").exists()


@pytest.mark.parametrize("by", ["angle", "loss", "greedy"])
def test_the_ranking_is_of_the_original_whatever_norm_the_supernet_has(original, tmp_path, by):
    files = read_original(*of(original).values())
    orders = []
    for norm in ("batch_norm", "layer_norm"):
        options = ShrinkOptions(sizes=[3, 8], share=1.0, rank_by=by, conv_norm=norm)
        written = prepare(files, tmp_path / norm, options)
        config = yaml.safe_load(written.read_text())
        assert config["encoder_conf"]["conv_norm"] == norm
        orders.append(config["model_conf"]["ranking"])
    assert orders[0] == orders[1] and sorted(orders[0]) == list(range(8))


def test_a_packed_model_is_shrunk(original, tmp_path, unmeasured):
    packed = tmp_path / "packed.zip"
    subprocess.run(
        [sys.executable, "-m", "espnet2.bin.pack", "asr", "--asr_train_config",
         original / "config.yaml", "--asr_model_file", original / "valid.cer_ctc.ave.pth",
         "--outpath", packed],
        check=True, cwd=original.parent,
    )  # fmt: skip
    out = tmp_path / "shrunk"
    command = [sys.executable, "-m", "espnet_des.bin.shrink", "--output_dir", out]
    subprocess.run(
        [*command, "--model_file", packed, "--sizes", "3", "5", "8", "--share", "1.0"],
        check=True, cwd=ROOT,
    )  # fmt: skip
    model, _ = load_model(out / "config.yaml", out / "valid.cer_ctc.ave.pth")
    assert model.state.is_frozen
    # The command is another process, and measures.
    assert {"report.md", "report.json", "train.log"} <= {p.name for p in out.iterdir()}
    # Another archive leaves it as it is, and the same one goes on.
    before = contents(out)
    other = tmp_path / "other.zip"
    shutil.copy(packed, other)
    with zipfile.ZipFile(other, "a") as more:
        more.writestr("more.txt", "of another model")
    with pytest.raises(ConfigError, match="output_dir: .*original is of another model"):
        shrink(out, model_file=other, sizes=[3, 5, 8], share=1.0)
    with pytest.raises(ConfigError, match="began otherwise"):
        shrink(out, model_file=packed, sizes=[2, 5, 8], share=1.0)
    with pytest.raises(ConfigError, match="model_file: .*gone.zip cannot be read"):
        shrink(out, model_file=tmp_path / "gone.zip", sizes=[3, 5, 8], share=1.0)
    assert contents(out) == before
    shrink(out, model_file=packed, sizes=[3, 5, 8], share=1.0)


def test_what_has_begun_is_not_ranked_again(original, tmp_path, unmeasured, monkeypatch):
    out = tmp_path / "shrunk"
    options = of(original) | {"sizes": [3, 8], "share": 0.3, "calibration": 4}
    shrink(out, **options)
    monkeypatch.setattr("espnet_des.shrink.prepare.rank_units", lambda *args: list(range(8)))
    shrink(out, **options)
    with pytest.raises(ConfigError, match="began otherwise"):
        shrink(out, **options | {"rank_by": "angle"})
    with pytest.raises(ConfigError, match="began otherwise"):
        shrink(out, **options | {"calibration": 5})


def test_a_second_shrink_does_not_change_what_the_first_begins_with(original, tmp_path):
    out = tmp_path / "shrunk"
    files, options = read_original(*of(original).values()), ShrinkOptions([3, 8], share=0.3)
    before = prepare(files, out, options).read_bytes()
    with alone_in(out, "training"), pytest.raises(RuntimeError, match="another training runs"):
        prepare(files, out, ShrinkOptions([4, 8], share=0.3))
    assert (out / "shrink.yaml").read_bytes() == before
