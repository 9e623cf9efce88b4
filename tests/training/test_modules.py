"""What YAMLs have around the encoder: other front ends and decoders, exits, frozen parts."""

import importlib.util
import math

import pytest
import torch

import espnet2.bin.asr_inference as stock
import espnet_des
from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.inference.loading import load_model
from tests.train import load, train_here

HYBRID = {
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
    "model_conf__ctc_weight": 0.3,
    "best_model_criterion": [["valid", "acc", "max"]],
}
# ESPnet's YAMLs of LibriSpeech with small widths.
UPSTREAM = HYBRID | {
    "frontend": "s3prl",
    "frontend_conf": {"frontend_conf": {"upstream": "hubert_large_ll60k"},
                      "download_dir": "./hub", "multilayer_feature": True},
    "preencoder": "linear",
    "preencoder_conf": {"input_size": 8, "output_size": 8},
    "freeze_param": ["frontend.upstream"],
    "unused_parameters": True,
    "encoder_conf__input_layer": "conv2d2",
    "model_conf__extract_feats_in_collect_stats": False,
}  # fmt: skip
S4 = HYBRID | {
    "decoder": "s4",
    "decoder_conf": {
        "dropinp": 0.0, "dropout": 0.1, "drop_path": 0.1, "prenorm": True, "n_layers": 1,
        "layer": [
            {"_name_": "s4", "postact": "glu", "dropout": 0.1, "n_ssm": 1, "lr": 0.0025,
             "dt_min": 0.001, "dt_max": 0.1, "measure": "legs"},
            {"_name_": "mha", "n_head": 2, "dropout": 0.1},
            {"_name_": "ff", "expand": 4, "activation": "gelu", "dropout": 0.1},
        ],
        "residual": "residual", "norm": "layer",
    },
}  # fmt: skip
EXITS = {
    "encoder_conf__num_blocks": 3, "encoder_conf__sizes": [3, 5, 12],
    "encoder_conf__interctc_layer_idx": [1, 2], "model_conf__interctc_weight": 0.5,
    "best_model_criterion": [["valid", "cer_interctc_layer1", "min"]],
    "model_conf__reduction": 3,
}  # fmt: skip


def recognisers(exp, folder, size):
    """The supernet at a size, and that size extracted."""
    (file,) = exp.glob("valid.*.ave.pth")
    alone = extract_subnet(exp / "config.yaml", file, size, folder / f"size{size}")
    whole = espnet_des.Speech2Text(str(exp / "config.yaml"), str(file), size=size, beam_size=2)
    config = str(folder / f"size{size}/config.yaml")
    return whole, stock.Speech2Text(config, str(alone), beam_size=2)


def assert_all_sizes_recognise_alike(exp, folder, sizes):
    speech = 0.1 * torch.randn(4000)
    for size in sizes:
        whole, alone = recognisers(exp, folder, size)
        one, two = whole(speech), alone(speech)
        one, two = (r[0] if isinstance(r, tuple) else r for r in (one, two))  # with exits
        assert one[0][:3] == two[0][:3]
        assert float(one[0][3].score) == float(two[0][3].score)


def test_features_of_an_upstream_model(data, tmp_path, upstreams):
    """Through ESPnet's s3prl front end and a linear pre-encoder; the upstream is frozen."""
    exp = train_here(data, tmp_path, **UPSTREAM)
    first, *_, last = (load(file) for file in sorted(exp.glob("?epoch.pth")))
    frozen = [name for name in last if name.startswith("frontend.upstream.")]
    assert frozen
    assert all(torch.equal(first[name], last[name]) for name in frozen)
    for name in ("frontend.featurizer.weights", "preencoder.linear_out.weight"):
        assert not torch.equal(first[name], last[name])
    assert_all_sizes_recognise_alike(exp, tmp_path, [3, 5, 8])
    model, train_args = load_model(exp / "config.yaml", exp / "4epoch.pth")
    assert len(BestPathDecoder(model, train_args)([torch.randn(8000), torch.randn(100)])) == 2


@pytest.mark.skipif(
    importlib.util.find_spec("opt_einsum") is None, reason="opt_einsum is not installed"
)
def test_a_decoder_of_state_spaces(data, tmp_path):
    exp = train_here(data, tmp_path, **S4)
    assert_all_sizes_recognise_alike(exp, tmp_path, [3, 5, 8])


def test_a_decoder_of_state_spaces_names_the_package_it_needs(data, tmp_path, monkeypatch):
    monkeypatch.setattr("espnet_des.task.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install opt_einsum"):
        train_here(data, tmp_path, **S4)
    assert not (tmp_path / "exp/config.yaml").exists()


def test_exits_of_the_full_size(data, tmp_path):
    exp = train_here(data, tmp_path, **EXITS)
    stats = load(exp / "checkpoint.pth")["reporter"]["stats"][4]
    for phase, name in (("train", "loss_interctc_layer2"), ("valid", "cer_interctc_layer1")):
        assert math.isfinite(stats[phase][name])
        assert not any("interctc" in key and "size" in key for key in stats[phase])
    assert_all_sizes_recognise_alike(exp, tmp_path, [3, 5, 12])
    whole, _ = recognisers(exp, tmp_path, 12)
    _, exits = whole(0.1 * torch.randn(4000))  # as ESPnet's: what each exit would say
    assert set(exits) == {1, 2}
