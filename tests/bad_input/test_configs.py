"""Configs that cannot be meant: refused at start-up, by key, value and what would be right."""

import os
import re

import numpy as np
import pytest
import yaml
from humanfriendly import InvalidSize

import espnet2.bin.asr_train as asr_train
from espnet_des.errors import ConfigError
from tests.train import CONFIG, arguments, load, train_here

NAN, HUGE = float("nan"), 10**400
DES = r"^encoder_conf: "
MODEL = r"^model_conf: "
TWO_PER_BLOCK = "a fraction such as 0.0 or 0.1, or a list of 2, one for each block"

# Changes of a good config (a__b is key b of a), and what the error says.
REFUSED = [
    ({"encoder_conf__sizes": "3, 5, 8"}, rf"{DES}sizes: '3, 5, 8' must be a list such as"),
    ({"encoder_conf__sizes": [3, [5], 8]}, rf"{DES}sizes: .*\[5\].* must hold integers"),
    ({"encoder_conf__sizes": [NAN, 8]}, rf"{DES}sizes: \[nan, 8\] must hold integers"),
    ({"encoder_conf__sizes": [3, 10**30]}, rf"{DES}sizes: .* between 1 and the 8 layers"),
    ({"encoder_conf__sizes": {3: 5}}, rf"{DES}sizes: {{3: 5}} must be a list"),
    ({"encoder_conf__size": [3, 8]}, rf"{DES}size: \[3, 8\] is unknown; .*'sizes'"),
    ({"encoder_conf__num_blocks": 0}, rf"{DES}num_blocks: 0 must be an integer above 0"),
    ({"encoder_conf__num_blocks": "2"}, rf"{DES}num_blocks: '2' must be an integer above 0"),
    ({"encoder_conf__num_blocks": 2.0}, rf"{DES}num_blocks: 2.0 must be an integer"),
    ({"encoder_conf__num_blocks": True}, rf"{DES}num_blocks: True must be an integer"),
    ({"encoder_conf__linear_units": 0}, rf"{DES}linear_units: 0 must be an integer above 0"),
    ({"encoder_conf__output_size": -8}, rf"{DES}output_size: -8 must be an integer above 0"),
    ({"encoder_conf__output_size": 7}, rf"{DES}output_size: 7 must be even, and a multiple"),
    ({"encoder_conf__attention_heads": 3}, rf"{DES}output_size: 8 .* attention_heads: 3"),
    ({"encoder_conf__attention_heads": 0}, rf"{DES}attention_heads: 0 must be an integer"),
    ({"encoder_conf__cnn_module_kernel": 4}, rf"{DES}cnn_module_kernel: 4 must be odd"),
    ({"encoder_conf__max_pos_emb_len": -1}, rf"{DES}max_pos_emb_len: -1 must be an integer"),
    ({"encoder_conf__dropout_rate": NAN}, rf"{DES}dropout_rate: nan must be from 0 to 1"),
    ({"encoder_conf__dropout_rate": "0.1"}, rf"{DES}dropout_rate: '0.1' must be from 0 to 1"),
    ({"encoder_conf__stochastic_depth_rate": 1.0},
     rf"{DES}stochastic_depth_rate: 1.0 must be {TWO_PER_BLOCK}"),
    ({"encoder_conf__stochastic_depth_rate": [0.1]},
     rf"{DES}stochastic_depth_rate: \[0.1\] must be {TWO_PER_BLOCK}"),
    ({"encoder_conf__pos_enc_layer_type": "abs_pos"},
     rf"{DES}pos_enc_layer_type: 'abs_pos' .* it is rel_selfattn"),
    ({"encoder_conf__selfattention_layer_type": "selfattn"},
     rf"{DES}pos_enc_layer_type: 'rel_pos' .* it is selfattn"),
    ({"encoder_conf__layer_order": ["espnet"]}, rf"{DES}layer_order: \['espnet'\] must be one"),
    ({"encoder_conf__subsampling_factor": 8},
     rf"{DES}subsampling_factor: 8 belongs to input_layer: dw_striding; leave it out with"),
    ({"encoder_conf__input_layer": "vgg", "encoder_conf__subsampling_channels": 64},
     rf"{DES}subsampling_channels: 64 belongs to input_layer: dw_striding or conv2d; leave"),
    ({"encoder_conf__input_layer": "dw_striding", "encoder_conf__subsampling_factor": 6},
     rf"{DES}subsampling_factor: 6 must be one of \[4, 8\]"),
    ({"encoder_conf__input_layer": "dw_striding", "encoder_conf__subsampling_channels": "64"},
     rf"{DES}subsampling_channels: '64' must be an integer above 0"),
    ({"encoder_conf__conv_norm": "none"}, rf"{DES}conv_norm: 'none' must be one of"),
    ({"encoder_conf": ["sizes"]}, r"^encoder_conf: \['sizes'\] must hold keys and values"),
    ({"encoder_conf": "sizes: [3, 8]"}, "^encoder_conf: .* must hold keys and values"),
    ({"model_conf": [1]}, r"^model_conf: \[1\] must hold keys and values"),
    ({"model_conf__method": ["simple_top_k"]}, rf"{MODEL}method: \['simple_top_k'\] must be one"),
    ({"model_conf__method": {}}, rf"{MODEL}method: {{}} must be one of"),
    ({"model_conf__loss_weight_small": "3e-1"},
     rf"{MODEL}loss_weight_small: '3e-1' must be a number .*write 1.0e-3"),
    ({"model_conf__loss_weight_small": 1e39}, rf"{MODEL}loss_weight_small: 1e.39 .* up to 3e"),
    ({"model_conf__score_lr_factor": HUGE}, rf"{MODEL}score_lr_factor: 10+ must be a number up"),
    ({"model_conf__score_lr_factor": [2]}, rf"{MODEL}score_lr_factor: \[2\] must be a number"),
    ({"model_conf__updates_per_iteration": "1"},
     rf"{MODEL}updates_per_iteration: '1' must be an integer above 0"),
    ({"model_conf__updates_per_iteration": 10**30}, "the run has only .* Raise max_epoch"),
    ({"model_conf__reduction": 1.0}, rf"{MODEL}reduction: 1.0 must divide 5 .* one of \[1, 5\]"),
    ({"model_conf__typo": 3}, rf"{MODEL}typo: 3 is unknown to model: des; it takes .*method"),
    ({"model_conf__ctc_weight": NAN}, rf"{MODEL}ctc_weight: nan must be from 0"),
    ({"model_conf__ctc_weight": True}, rf"{MODEL}ctc_weight: True must be from 0"),
    ({"model_conf__ctc_weight": "1.0"}, rf"{MODEL}ctc_weight: '1.0' must be from 0"),
    ({"model_conf__ctc_weight": 0.3}, rf"{MODEL}ctc_weight: 0.3 .* there is none: set it to 1.0"),
    ({"model_conf__ctc_weight": None}, rf"{MODEL}ctc_weight: 0.5 .* give decoder: transformer"),
    ({"decoder": "transducer", "model_conf__ctc_weight": 1.5}, "ctc_weight: 1.5 must be from 0"),
    ({"model": ["des"]}, r"^model: \['des'\] cannot be used .* use model: des"),
    ({"encoder": "transformer", "encoder_conf": {"output_size": 8}},
     "^model: des needs a supernet encoder"),
    ({"encoder": "des_conformer_subnet"}, rf"{DES}sizes: \[3, 5, 8\] is unknown"),
    ({"encoder": "des_conformer_subnet", "model": "espnet", "model_conf": {"ctc_weight": 1.0},
      "encoder_conf": {"kept_layers": [0], "num_blocks": "2"}},
     rf"{DES}num_blocks: '2' must be an integer above 0"),
    ({"accum_grad": 0}, "^accum_grad: 0 must be an integer above 0"),
    ({"max_epoch": 2.5}, "^max_epoch: 2.5 must be an integer above 0"),
    ({"max_epoch": -1}, "^max_epoch: -1 must be an integer above 0"),
]  # fmt: skip


@pytest.mark.parametrize("changes, says", REFUSED, ids=lambda x: str(x)[:60].replace("/", "-"))
def test_what_the_plugin_refuses(data, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        train_here(data, tmp_path, **{"max_epoch": 3} | changes)
    assert not list((tmp_path / "exp").glob("*.pth"))


# What ESPnet itself refuses, in words that name the key or the value.
ESPNETS = [
    ({"encoder": "des_conformerr"}, ValueError, "--encoder must be one of .*'des_conformer'"),
    ({"encoder": ["des_conformer"]}, Exception, 'argument "name" .list. did not match'),
    (
        {"encoder_conf__macaron_style": "yes"},
        Exception,
        '"macaron_style" .str. is not .* bool',
    ),
    ({"encoder_conf__input_layer": "vggg"}, ValueError, "unknown input_layer: vggg"),
    ({"encoder_conf__rel_pos_type": "new"}, ValueError, "unknown rel_pos_type: new"),
    ({"frontend_conf__n_mel": 3}, TypeError, "unexpected keyword argument 'n_mel'"),
    ({"frontend_conf__fs": "fast"}, InvalidSize, "Failed to parse size! .input 'fast'"),
    (
        {"token_list": ["<blank>", "A"]},
        RuntimeError,
        "'<unk>' doesn't exist in the token_list",
    ),
    ({"token_list": ["a", "a", "<unk>"]}, RuntimeError, 'Symbol "a" is duplicated'),
    ({"token_list": "tokens.txt"}, FileNotFoundError, "tokens.txt"),
    ({"init_param": ["start.pth"]}, FileNotFoundError, "start.pth"),
]


@pytest.mark.parametrize("changes, error, says", ESPNETS, ids=lambda x: str(x)[:60])
def test_what_espnet_refuses(data, tmp_path, changes, error, says):
    with pytest.raises(error, match=says):
        train_here(data, tmp_path, **{"max_epoch": 3} | changes)
    assert not list((tmp_path / "exp").glob("*.pth"))


def train_with_text(data, folder, content: bytes):
    """Train with a YAML file of this content."""
    command = arguments(data, folder, max_epoch=3)
    (folder / "train.yaml").write_bytes(content)
    asr_train.main(cmd=command)


GOOD = yaml.safe_dump(CONFIG | {"max_epoch": 3, "accum_grad": 1}).encode()
# Content of the YAML file, exit code 2 or the error, and what stderr or the error says.
FILES = [
    (b"", 2, "Config file has non dict value"),
    (b"- encoder: des_conformer\n- model: des\n", 2, "Config file has non dict value"),
    (b"des_conformer\n", 2, "Config file has non dict value"),
    (GOOD + b"encoderr: conformer\n", 2, "unrecognized arguments: encoderr .from .*train.yaml"),
    (GOOD + b"patience: soon\n", 2, "argument --patience: invalid int_or_none value: 'soon'"),
    (GOOD + b"seed:\n\t- 1\n", yaml.YAMLError, r"'\\t' that cannot start any token.*train.yaml"),
    (GOOD + b"a: [1\n", yaml.YAMLError, "expected ',' or ']'.*train.yaml"),
    (GOOD + b"wandb_name: caf\xe9\n", UnicodeDecodeError, "utf-8"),
    (GOOD + b"wandb_name: a\x00b\n", yaml.YAMLError, "not allowed.*train.yaml"),
    (GOOD + b"wandb_name: !!python/object/apply:os.system ['touch executed']\n",
     yaml.YAMLError, "could not determine a constructor for .*os.system.*train.yaml"),
    (GOOD + b"encoder_conf:\n", ConfigError, "encoder_conf: None must hold keys and values"),
]  # fmt: skip


@pytest.mark.parametrize("content, error, says", FILES, ids=lambda x: str(x)[-50:])
def test_yaml_files_that_are_none(data, tmp_path, monkeypatch, capsys, content, error, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit if error == 2 else error) as stopped:
        train_with_text(data, tmp_path, content)
    said = capsys.readouterr().err if error == 2 else str(stopped.value)
    assert error != 2 or stopped.value.code == 2
    assert re.search(says, said.replace("\n", " ")), said[-500:]
    assert os.listdir(tmp_path) == ["train.yaml"]  # nothing was executed, or begun


def test_of_a_key_given_twice_the_last_value_counts(data, tmp_path):
    """As everywhere in YAML, and as config.yaml records it."""
    twice = GOOD.replace(b"- 3\n  - 5\n  - 8\n", b"- 3\n  - 5\n  - 8\n  sizes: [4, 8]\n")
    assert twice != GOOD
    train_with_text(data, tmp_path, twice)
    state = load(tmp_path / "exp/3epoch.pth")
    assert state["encoder.selection.sizes"].tolist() == [4, 8]
    config = yaml.safe_load((tmp_path / "exp/config.yaml").read_text())
    assert config["encoder_conf"]["sizes"] == [4, 8]


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_statistics_that_are_no_numbers_are_refused(data, tmp_path, value):
    """One damaged recording in stage 10, and every feature would be NaN."""
    sums = np.full(16, -50.0)
    sums[3] = value
    np.savez(tmp_path / "stats.npz", count=10, sum=sums, sum_square=np.full(16, 300.0))
    with pytest.raises(ConfigError, match="^normalize_conf: .*stats.npz.* is NaN or infinite"):
        train_here(data, tmp_path, max_epoch=3, normalize="global_mvn",
                   normalize_conf={"stats_file": str(tmp_path / "stats.npz")})  # fmt: skip
