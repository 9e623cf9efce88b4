"""Tiny trainings through ESPnet's real commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

from espnet_des.inference.loading import load_model

ROOT = Path(__file__).parents[1]
TOKENS = ["<blank>", "<unk>", "A", "B", "C", "<space>", "<sos/eos>"]

CONFIG = {
    "encoder": "des_conformer",
    "encoder_conf": {
        "sizes": [3, 5, 8], "output_size": 8, "attention_heads": 2, "linear_units": 8,
        "num_blocks": 2, "macaron_style": True, "cnn_module_kernel": 3,
        "rel_pos_type": "latest", "input_layer": "conv2d",
    },
    "model": "des",
    "model_conf": {"ctc_weight": 1.0, "updates_per_iteration": 1, "reduction": 1},
    "frontend_conf": {"fs": 8000, "n_fft": 128, "hop_length": 80, "n_mels": 16},
    "normalize": None,
    "token_type": "char",
    "token_list": TOKENS,
    "batch_type": "unsorted",
    "batch_size": 2,
    "max_epoch": 4,
    "accum_grad": 2,  # does not divide the 7 batches of an epoch: 3 updates
    "grad_clip": 5.0,
    "optim": "adamw",
    "optim_conf": {"lr": 0.01, "weight_decay": 0.1},
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 4},
    "best_model_criterion": [["valid", "cer_ctc", "min"]],
    "keep_nbest_models": 3,
    "num_workers": 0,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
    "log_interval": 1,
    "seed": 1,
    "ngpu": 0,
    "resume": True,
}  # fmt: skip


def make_data(folder: Path, utterances: int = 14, rate: int = 8000) -> None:
    """Noise of half a second each, with words of two or three letters."""
    rng = np.random.default_rng(0)
    wavs, texts, shapes, lengths = [], [], [], []
    for i in range(utterances):
        samples = int(rng.integers(3600, 5200)) * rate // 8000
        path = folder / f"{i:02d}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), rate)
        text = "".join(rng.choice(list("ABC"), rng.integers(2, 4)))
        wavs.append(f"u{i:02d} {path}\n")
        texts.append(f"u{i:02d} {text}\n")
        shapes.append(f"u{i:02d} {samples}\n")
        lengths.append(f"u{i:02d} {len(text)},{len(TOKENS)}\n")
    for name, lines in (("wav.scp", wavs), ("text", texts), ("speech_shape", shapes),
                        ("text_shape", lengths)):  # fmt: skip
        (folder / name).write_text("".join(lines))


def arguments(data: Path, out: Path, **changes) -> list:
    """Command line of ``asr_train``; ``a__b=c`` changes key b of a, None drops it."""
    return command_line(data, out, changed(CONFIG, **changes))


def changed(config: dict, **changes) -> dict:
    """A copy; ``a__b=c`` changes key b of a, None drops it."""
    config = yaml.safe_load(yaml.safe_dump(config))
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
        if value is None and last != "normalize":
            del place[last]
    return config


def command_line(data: Path, out: Path, config: dict) -> list:
    """Of ``asr_train`` with this config; the experiment's folder is ``out/exp``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.yaml").write_text(yaml.safe_dump(config))
    command = ["--config", str(out / "train.yaml"), "--output_dir", str(out / "exp")]
    for kind in ("train", "valid"):
        for file, name, form in (("wav.scp", "speech", "sound"), ("text", "text", "text")):
            option = f"--{kind}_data_path_and_name_and_type"
            command += [option, f"{data / file},{name},{form}"]
        for file in ("speech_shape", "text_shape"):
            command += [f"--{kind}_shape_file", str(data / file)]
    return command


def train_here(data: Path, out: Path, **changes) -> Path:
    """Train in this process; returns the experiment's folder."""
    import espnet2.bin.asr_train as asr_train

    asr_train.main(cmd=arguments(data, out, **changes))
    return out / "exp"


def start(data: Path, out: Path, extra=(), program=None, **changes) -> subprocess.Popen:
    """Start a training as a user does; its log is ``out/log*.txt``."""
    program = program or ["-m", "espnet2.bin.asr_train"]
    command = [sys.executable, "-m", "espnet_des", *program,
               *arguments(data, out, **changes), *extra]  # fmt: skip
    number = len(list(out.glob("log*.txt")))
    log = (out / f"log{number}.txt").open("w")
    # One thread: models this small lose time on two, and sums come out as in pytest.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=env)


def kill_when(process: subprocess.Popen, log: Path, words: str) -> None:
    """SIGKILL the process as soon as its log says the words."""
    deadline = time.monotonic() + 300
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, f"{words!r} never came"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def load(path: Path):
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_same(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    different = [k for k in one if not torch.equal(one[k], two[k])]
    assert not different, different


def let_it_talk(config: Path, file: Path, audio: torch.Tensor | None = None) -> None:
    """Give the sizes of a model file random output layers, for audio ``(samples,)`` like this.

    After so short a training as those of tests it says nothing but blank.
    """
    model, _ = load_model(config, file)
    noise = 0.1 * torch.randn(1, 16000) if audio is None else audio[None]
    lengths = torch.tensor([noise.size(1)])
    for size in model.encoder.sizes:
        model.set_size(size)
        head = model.ctc.ctc_lo.of_size(size)
        with torch.no_grad():
            mean = model.eval().encode(noise, lengths)[0].mean((0, 1))
            head.weight.normal_(std=10.0)
            head.bias.copy_(-head.weight @ mean)
    torch.save(model.state_dict(), file)
