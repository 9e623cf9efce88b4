"""Model files and configs that do not belong together, or to nothing: named, never guessed at."""

import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

import espnet_des
from espnet_des.deploy.extract import extract_subnet
from espnet_des.deploy.onnx.export import export_onnx
from espnet_des.errors import ConfigError
from espnet_des.inference.decode_best_path import decode_best_path
from espnet_des.inference.loading import load_model
from tests.train import load

WEIGHT = "encoder.encoders.0.feed_forward.w_1.weight"
EARLIER = f"NaN or infinite values in 1 weights, such as {WEIGHT}; give a file of an earlier"


class Code:
    """What a checkpoint must not run."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def with_weight(change):
    return lambda trained: load(trained.file) | {WEIGHT: change(load(trained.file)[WEIGHT])}


def bytes_of(change):
    return lambda trained: change(trained.file.read_bytes())


def without(key):
    return lambda trained: {k: v for k, v in load(trained.file).items() if k != key}


def with_buffer(name, value):
    key = f"encoder.selection.{name}"
    return lambda trained: load(trained.file) | {key: load(trained.file)[key] * 0 + value}


DAMAGED = "is damaged, truncated, or of another config.yaml"
# Name, what the file holds (bytes, or an object that is saved), and what is said of it.
OF_A_SUPERNET = [
    ("one byte", bytes_of(lambda b: b[:1]), DAMAGED),
    ("without its end", bytes_of(lambda b: b[:-100]), DAMAGED),
    ("zeros", bytes_of(lambda b: bytes(len(b))), DAMAGED),
    ("a pickle with code", lambda _: pickle.dumps(Code()), DAMAGED),
    ("code among the weights", lambda t: load(t.file) | {"x": Code()}, DAMAGED),
    ("code instead of them", lambda _: Code(), DAMAGED),
    ("a tensor", lambda t: load(t.file)[WEIGHT], DAMAGED),
    ("numbers for names", lambda t: {1: load(t.file)[WEIGHT]}, DAMAGED),
    ("a number for a weight", with_weight(lambda _: 3.0), DAMAGED),
    ("a weight of another shape", with_weight(lambda w: w[:4]), "size mismatch for .*w_1.weight"),
    ("a weight is missing", without(WEIGHT), f"lacks 1 of this model's weights: {WEIGHT}"),
    ("no ranking", without("encoder.selection.ranking"), "lacks 1 .*: encoder.selection.ranking"),
    ("integers", with_weight(lambda w: (9 * w).long()), "is torch.int64, but .* floating point"),
    ("complex numbers", with_weight(lambda w: w + 0j), "is torch.complex64, but .* floating"),
    ("NaN", with_weight(lambda w: w * float("nan")), EARLIER),
    ("infinite", with_weight(lambda w: w / 0), EARLIER),
    ("NaN for a counter", with_buffer("updates", float("nan")), "selection.updates; give a file"),
    ("NaN for a ranking", with_buffer("ranking", float("nan")), "ranking of layers is not one"),
    ("another layer order", with_buffer("layer_order", 1), "layer_order: .* has paper, the con"),
    ("no layer order", with_buffer("layer_order", 9), DAMAGED),
    ("nothing in it", lambda _: {}, "has no layer selection.*give a file of that training"),
    ("the weights a level deeper", lambda t: {"model": load(t.file)}, "has no layer selection"),
    ("what a training resumes from", lambda t: t.file.with_name("checkpoint.pth").read_bytes(),
     "is what a training resumes from, not a model; give a model file beside it"),
]  # fmt: skip


def write(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    return path


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The working directory, where code of a checkpoint would leave its trace."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def at_fault(what: str):
    return re.compile(f"^asr_model_file: .*{what}", re.S)


@pytest.mark.parametrize(
    "name, content, says", OF_A_SUPERNET, ids=[c[0] for c in OF_A_SUPERNET]
)
def test_files_of_a_supernet(supernet, inside, name, content, says):
    file = write(inside / "model.pth", content(supernet))
    with pytest.raises(ConfigError, match=at_fault(f"model.pth.*{says}")):
        load_model(supernet.config, file)
    assert os.listdir(inside) == ["model.pth"]


@pytest.mark.parametrize("name, change", [
    ("float64", lambda s: {k: v.double() for k, v in s.items()}),
    ("more weights", lambda s: s | {"decoder.weight": torch.zeros(3)}),
    ("as DeepSpeed writes it", lambda s: {"module": s}),
    ("as Lightning writes it", lambda s: {"state_dict": s}),
])  # fmt: skip
def test_harmless_differences_change_nothing(supernet, tmp_path, name, change):
    file = write(tmp_path / "model.pth", change(load(supernet.file)))
    (one, _), (two, _) = load_model(*supernet), load_model(supernet.config, file)
    for model in (one.eval(), two.eval()):
        model.set_size(5)
    speech, lengths = torch.randn(1, 4000), torch.tensor([4000])
    assert torch.equal(one.encode(speech, lengths)[0], two.encode(speech, lengths)[0])


# Config of, file of, and what is said.
STRANGERS = [
    ("supernet", "wider", "size mismatch"),
    ("supernet", "other_sizes", r"sizes: the checkpoint has \[4, 8\], the config \[3, 5, 8\]"),
    ("supernet", "stock", "has no layer selection: it is not of a trained supernet"),
    ("supernet", "part", "has no layer selection: it is not of a trained supernet"),
    ("part", "supernet", "has besides .* of the encoder's weights"),
    ("part", "stock", "has besides .* of the encoder's weights"),
    ("stock", "part", "lacks .* of the model's weights, such as encoder"),
    ("stock", "wider", "size mismatch"),
]


@pytest.mark.parametrize("config, file, says", STRANGERS)
def test_files_of_another_model(request, config, file, says):
    config, file = (request.getfixturevalue(name) for name in (config, file))
    with pytest.raises(ConfigError, match=at_fault(says)):
        load_model(config.config, file.file)


@pytest.mark.parametrize("name, content, says", [
    ("what a training resumes from", lambda t: t.file.with_name("checkpoint.pth").read_bytes(),
     "is what a training resumes from"),
    ("a weight is missing", without(WEIGHT), f"lacks 1 of the model's weights, such as {WEIGHT}"),
    ("integers", with_weight(lambda w: w.long()), "is torch.int64, but weights must be"),
    ("NaN", with_weight(lambda w: w * float("nan")), EARLIER),
])  # fmt: skip
def test_files_of_a_stock_model(stock, tmp_path, name, content, says):
    """ESPnet itself would decode with them, by random weights or NaN."""
    file = write(tmp_path / "model.pth", content(stock))
    with pytest.raises(ConfigError, match=f"^asr_model_file: .*{says}"):
        load_model(stock.config, file)


def test_a_folder_is_no_model_file(supernet, tmp_path):
    with pytest.raises(ConfigError, match=f"^asr_model_file: {tmp_path} is no file"):
        load_model(supernet.config, tmp_path)


def edited(**changes):
    def edit(config: bytes) -> bytes:
        config = yaml.safe_load(config)
        for key, value in changes.items():
            config = {k: v for k, v in config.items() if k != key}
            config |= {} if value is None else {key: value}
        return yaml.safe_dump(config).encode()

    return edit


# Name, what becomes of a good config.yaml, and which argument is at fault.
CONFIGS = [
    ("empty", lambda _: b"", "asr_train_config: .* is not of a training of speech recog"),
    ("a list", lambda _: b"- encoder\n", "asr_train_config: .* no encoder or no token_list"),
    ("a word", lambda _: b"encoder", "asr_train_config: .* no encoder or no token_list"),
    ("not UTF-8", lambda c: c + b"a: caf\xe9\n", "asr_train_config: .* cannot be read .*utf-8"),
    ("tabs", lambda c: c + b"a:\n\t- 1\n", r"asr_train_config: .* cannot be read .*'\\t'"),
    ("zero bytes", lambda c: c + b"\0\0", "asr_train_config: .* cannot be read"),
    ("code", lambda c: c + b"a: !!python/object/apply:os.system ['touch executed']\n",
     r"asr_train_config: .* cannot be read \(could not determine a constructor"),
    ("no model_conf", edited(model_conf=None), f"asr_model_file: .*{DAMAGED}"),
    ("no blocks", edited(encoder_conf={"num_blocks": 0}), "encoder_conf: num_blocks: 0 must be"),
    ("no number", edited(frontend_conf={"n_mels": "x"}), f"asr_model_file: .*{DAMAGED}"),
    ("one token less", edited(token_list=["<blank>", "<unk>", "A"]), "size mismatch for ctc"),
]  # fmt: skip


@pytest.mark.parametrize("name, change, says", CONFIGS, ids=[c[0] for c in CONFIGS])
def test_configs_of_no_model_or_another(supernet, inside, name, change, says):
    config = write(inside / "config.yaml", change(supernet.config.read_bytes()))
    with pytest.raises(ConfigError, match=re.compile(f"^.*{says}", re.S)):
        load_model(config, supernet.file)
    assert os.listdir(inside) == ["config.yaml"]


def decode(config, file, folder):
    return decode_best_path(config, file, folder / "wavs", folder / "out/decoded")


COMMANDS = {
    "decode_best_path": decode,
    "extract_subnet": lambda c, f, folder: extract_subnet(c, f, 3, folder / "out/size3"),
    "export_onnx": lambda c, f, folder: export_onnx(c, f, folder / "out/size3.onnx", 3),
    "Speech2Text": lambda c, f, folder: espnet_des.Speech2Text(c, f, size=3),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["without its end", "a pickle with code", "NaN"])
def test_every_command_refuses_them_and_writes_nothing(supernet, data, inside, command, name):
    content = {n: c for n, c, _ in OF_A_SUPERNET}[name]
    (inside / "wavs").mkdir()
    shutil.copy(data / "00.wav", inside / "wavs")
    (inside / "out").mkdir()
    file = write(inside / "model.pth", content(supernet))
    with pytest.raises(ConfigError, match="^asr_model_file: .*model.pth"):
        COMMANDS[command](supernet.config, file, inside)
    assert sorted(os.listdir(inside)) == ["model.pth", "out", "wavs"]
    assert os.listdir(inside / "out") == []


def test_a_command_says_it_without_a_traceback(supernet, inside):
    file = write(inside / "model.pth", Code())
    done = subprocess.run(
        [sys.executable, "-m", "espnet_des.bin.extract_subnet", "--asr_train_config",
         supernet.config, "--asr_model_file", file, "--size", "3", "--output_dir", "out"],
        text=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "asr_model_file: " in done.stderr and os.listdir(inside) == ["model.pth"]
