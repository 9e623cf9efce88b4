"""What cannot be shrunk is refused by name, and nothing is written."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from espnet_des.errors import ConfigError
from espnet_des.recipe.shrink import shrink
from tests.shrink.originals import train_original

METHOD = ["--model_conf", "method=ortho_softmax"]
NAME = "valid.cer_ctc.ave.pth"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return train_original(tmp_path_factory.mktemp("original"))


def files(exp: Path) -> dict:
    return {"asr_train_config": exp / "config.yaml", "asr_model_file": exp / NAME}


def copied(original: Path, folder: Path, state=None, **config) -> Path:
    """A copy with another config or other tensors."""
    folder.mkdir()
    content = yaml.safe_load((original / "config.yaml").read_text()) | config
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    weights = torch.load(original / NAME, weights_only=True)
    torch.save(state(weights) if state else weights, folder / NAME)
    return folder


def without_bias(weights):
    return {k: v for k, v in weights.items() if k != "ctc.ctc_lo.bias"}


def one_more(weights):
    return weights | {"encoder.more": torch.zeros(1)}


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"encoder": "rnn", "encoder_conf": {}}, "encoder: 'rnn' has no supernet form"),
        ({"encoder": "des_conformer"}, "encoder: des_conformer is a supernet already"),
        ({"model": "maskctc"}, "model: 'maskctc' cannot be shrunk"),
        ({"state": without_bias}, "lacks 1 of the model's weights, such as ctc.ctc_lo.bias"),
        ({"state": one_more}, "has 1 tensors that the model .* such as encoder.more"),
        ({"optim_conf": {}}, "names no learning rate"),
    ],
)
def test_other_models(original, tmp_path, changes, says):
    exp = copied(original, tmp_path / "other", **changes)
    with pytest.raises(ConfigError, match=says):
        shrink(tmp_path / "out", **files(exp), share=1.0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, says",
    [
        ({"sizes": [3, 5]}, "sizes: .* the last one being all 8"),
        ({"training": ["--model_conf", "method=iterative_zero_out"]}, "give --rank_by scores"),
        ({"share": 0.001}, "share: 0.001 of 6 epochs of 7 updates is 0 updates"),
        (
            {"share": 0.3, "sizes": [3, 8], "rank_by": "scores"},
            "selection_share: .* is too short",
        ),
        (
            {"training": ["--token_list", "other.txt"]},
            "token_list: it is another one .*token 2 is 'B', not 'A'",
        ),
        (
            {"training": ["--normalize", "utterance_mvn"]},
            "normalize: 'utterance_mvn' must be None",
        ),
        (
            {"rank_by": "scores", "start_by": "angle", "training": METHOD},
            "start_by: 'angle' is no start for the scores of method: ortho_softmax",
        ),
        ({"training": ["--train_shape_file", "none"]}, "train_shape_file: none is not there"),
        ({"training": ["--max_epoch", "3"]}, "max_epoch: leave it out"),
        ({"asr_model_file": None}, "give it together with asr_model_file"),
        ({"model_file": Path("x.zip")}, "or model_file alone"),
    ],
)
def test_options_that_do_not_fit(original, tmp_path, options, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other.txt").write_text("<blank>\n<unk>\nB\nA\nC\n<space>\n<sos/eos>\n")
    with pytest.raises(ConfigError, match=says):
        shrink(tmp_path / "out", **(files(original) | {"share": 1.0} | options))
    assert not (tmp_path / "out").exists()


def test_the_original_is_not_written_over(original):
    before = sorted(original.iterdir())
    with pytest.raises(ConfigError, match="output_dir: .* is only read"):
        shrink(original, **files(original))
    assert sorted(original.iterdir()) == before


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "a/../../outside.txt"])
def test_an_archive_that_leads_out_of_its_folder(original, tmp_path, name):
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("META/meta.yaml", yaml.safe_dump({"files": {}, "yaml_files": {}}))
        out.writestr(name, "x")
    with pytest.raises(ConfigError, match="which would be written outside"):
        shrink(tmp_path / "out", model_file=archive)
    assert not (tmp_path / "out").exists() and not (tmp_path / "outside.txt").exists()


def archive_of(tmp_path: Path, files: dict) -> Path:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("META/meta.yaml", yaml.safe_dump({"files": files, "yaml_files": {}}))
    return path


@pytest.mark.parametrize(
    "inside, says",
    [
        ({}, "is not an ASR model that ESPnet packed"),
        (
            {"asr_train_config": "/etc/hostname", "asr_model_file": "m.pth"},
            "which is not in it",
        ),
    ],
)
def test_archives_of_something_else(tmp_path, inside, says):
    with pytest.raises(ConfigError, match=says):
        shrink(tmp_path / "out", model_file=archive_of(tmp_path, inside))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "packed.zip").write_text("no zip")
    with pytest.raises(ConfigError, match="cannot be read as an archive"):
        shrink(tmp_path / "out", model_file=tmp_path / "packed.zip")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
