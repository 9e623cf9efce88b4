"""Files that version 0.1.0 wrote, before the modules moved, still give what they gave."""

import re
import shutil
from pathlib import Path

import numpy
import pytest
import torch

from espnet_des.deploy.extract import extract_subnet
from espnet_des.deploy.onnx.graph import run, session
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model
from tests.train import load, make_data, train_here

FILES = Path(__file__).parent / "data" / "before_move"
EXPECTED = numpy.load(FILES / "expected.npz")
WAVE = torch.from_numpy(EXPECTED["wave"])[None]
SIZES = (3, 5, 8)
# Recorded in float32, up to 1.6e-5 from what float64 gives, and kinds of CPU round differently.
ROUNDED = {"atol": 1e-4}


def log_probs(model) -> numpy.ndarray:
    with torch.no_grad():
        encoded, _ = model.eval().encode(WAVE, torch.tensor([WAVE.size(1)]))
        return model.ctc.log_softmax(encoded)[0].numpy()


@pytest.mark.parametrize("size", SIZES)
def test_a_checkpoint_gives_the_same_output_at_every_size(size, tmp_path):
    model, _ = load_model(FILES / "config.yaml", FILES / "model.pth")
    model.set_size(size)
    assert model.encoder.kept_layers(size) == EXPECTED[f"kept{size}"].tolist()
    numpy.testing.assert_allclose(log_probs(model), EXPECTED[f"size{size}"], **ROUNDED)
    file = extract_subnet(FILES / "config.yaml", FILES / "model.pth", size, tmp_path / "out")
    extracted, _ = load_model(tmp_path / "out" / "config.yaml", file)
    numpy.testing.assert_allclose(log_probs(extracted), EXPECTED[f"size{size}"], **ROUNDED)


def without(key: str, config: Path, tmp_path: Path) -> Path:
    """A config as it was written then. (Those in tests/data have the key.)"""
    text = config.read_text()
    old = tmp_path / "config.yaml"
    old.write_text(re.sub(rf" *{key}\n", "", text))
    assert old.read_text() != text
    return old


def test_a_config_that_meant_shared_weights_is_told_to_say_so(tmp_path):
    old = without("own_weights: false", FILES / "config.yaml", tmp_path)
    with pytest.raises(ConfigError, match=r"Set own_weights: false in encoder_conf"):
        load_model(old, FILES / "model.pth")


@pytest.mark.parametrize("extracted", [False, True])
def test_a_config_that_meant_the_norm_of_then_is_told_to_say_so(extracted, tmp_path):
    config, model = FILES / "config.yaml", FILES / "model.pth"
    if extracted:
        model = extract_subnet(config, model, 3, tmp_path / "out")
        config = tmp_path / "out" / "config.yaml"
    old = without("conv_norm: layer_norm", config, tmp_path)
    with pytest.raises(ConfigError, match=r"Add conv_norm: layer_norm to encoder_conf"):
        load_model(old, model)


def test_an_onnx_file_gives_the_same_output():
    found, _ = run(session(FILES / "size5.onnx"), WAVE, torch.tensor([WAVE.size(1)]))
    numpy.testing.assert_allclose(found[0], EXPECTED["size5"], **ROUNDED)


def test_a_training_goes_on_from_its_checkpoint(tmp_path):
    make_data(tmp_path)
    exp = tmp_path / "out" / "exp"
    exp.mkdir(parents=True)
    shutil.copy(FILES / "checkpoint.pth", exp)
    shutil.copy(FILES / "config.yaml", exp)
    before = load(exp / "checkpoint.pth")["model"]
    train_here(tmp_path, tmp_path / "out", max_epoch=5, encoder_conf__conv_norm="layer_norm",
               encoder_conf__own_weights=False)  # fmt: skip
    after = load(exp / "latest.pth")
    name = "encoder.selection."
    assert torch.equal(before[name + "ranking"], after[name + "ranking"])
    assert after[name + "updates"] == before[name + "updates"] + 3
    assert after[name + "seed"] == -1  # the draws of middle sizes go on as they were
