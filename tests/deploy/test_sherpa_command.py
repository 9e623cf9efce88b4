"""export_onnx --runtime sherpa-onnx: the unmodified wheel gives decode_best_path's text."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
import yaml

from espnet_des.corpus.kaldi import DataError
from espnet_des.deploy.onnx import example
from espnet_des.deploy.onnx.export import export_onnx
from espnet_des.deploy.onnx.graph import session
from espnet_des.deploy.onnx.sherpa.recognise import recogniser
from espnet_des.errors import ConfigError
from espnet_des.inference.decode_best_path import decode_best_path
from espnet_des.measure.benchmark.runtimes import benchmark_runtimes
from tests.train import let_it_talk, make_data, train_here

RATE = 16000
TOKENS = ["<blank>", "<unk>", *"ABCDEF", "<space>", "<sos/eos>"]
# Samples, root mean square, offset.
AUDIO = [
    (399, 0.1, 0), (2001, 0.1, 0.02), (2600, 0.05, 0), (3601, 0.2, 0), (4999, 0.01, 0.001),
    (9000, 0.002, 0), (16000, 0.1, 0.001), (16161, 0.05, 0), (33333, 0.3, 0.2),
    (47999, 0.1, -0.01), (80001, 0.03, 0), (240000, 0.08, -0.05),
]  # fmt: skip
MODEL = "valid.cer_ctc.ave.pth"


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """A supernet's folder, and audio of many lengths and levels; its sizes talk at random."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder, 8, RATE)
    np.savez(
        folder / "stats.npz", count=10, sum=np.full(16, -60.0), sum_square=np.full(16, 440.0)
    )
    front_end = {"fs": RATE, "n_fft": 400, "hop_length": 160, "n_mels": 16}
    exp = train_here(
        folder, folder, max_epoch=3, accum_grad=1, token_list=TOKENS, frontend_conf=front_end,
        encoder_conf__output_size=32, encoder_conf__linear_units=32,
        normalize="global_mvn", normalize_conf={"stats_file": str(folder / "stats.npz")},
    )  # fmt: skip
    torch.manual_seed(1)
    let_it_talk(exp / "config.yaml", exp / MODEL)
    rng = np.random.default_rng(0)
    lines = []
    for number, (samples, rms, offset) in enumerate(AUDIO):
        # A slowly changing colour: a model of random weights would repeat itself.
        wave = np.cumsum(rng.standard_normal(samples)) * 0.1 + rng.standard_normal(samples)
        wave = np.diff(wave, prepend=0) * np.sin(np.arange(samples) / 2100) + np.where(
            np.arange(samples) // 3000 % 2, wave * 0.2, 0
        )
        wave = rms * (wave - wave.mean()) / wave.std() + offset
        wave[30000:33000] = 0
        path = folder / f"audio{number:02d}.wav"
        soundfile.write(path, wave.clip(-1, 1), RATE)
        lines.append(f"audio{number:02d} {path}\n")
    soundfile.write(folder / "silence.wav", np.zeros(5000), RATE)
    (folder / "audio.scp").write_text("".join([*lines, f"silence {folder / 'silence.wav'}\n"]))
    return exp


def with_changes(supernet: Path, tmp_path: Path, **changes) -> Path:
    """Another config.yaml for the same weights."""
    config = yaml.safe_load((supernet / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | changes))
    return tmp_path / "config.yaml"


def pieces(tmp_path: Path) -> dict:
    """Settings of a sentencepiece model, of as many tokens."""
    (tmp_path / "words").write_text("AB CA BA C ABC BAB\nAB AC BA AB\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "words"), model_prefix=str(tmp_path / "bpe"), model_type="bpe",
        vocab_size=len(TOKENS) - 2, bos_id=-1, eos_id=-1, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(str(tmp_path / "bpe.model"))
    found = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    return {
        "token_type": "bpe", "bpemodel": str(tmp_path / "bpe.model"),
        "token_list": ["<blank>", *found, "<sos/eos>"],
    }  # fmt: skip


def waves(supernet: Path) -> dict[str, np.ndarray]:
    lines = (supernet.parent / "audio.scp").read_text().splitlines()
    return {
        utt: soundfile.read(path, dtype="float32")[0]
        for utt, path in (line.split() for line in lines)
    }


def texts_of_sherpa(file: Path, supernet: Path, marked=True) -> dict[str, str]:
    recognise = recogniser(file, marked)
    return {utt: recognise(wave).strip() for utt, wave in waves(supernet).items()}


def texts_of_best_path(
    config: Path, model: Path, supernet: Path, size: int, out: Path
) -> dict[str, str]:
    decode_best_path(config, model, supernet.parent / "audio.scp", out, size)
    lines = [line.split(maxsplit=1) for line in (out / "text").read_text().splitlines()]
    return {line[0]: " ".join(line[1:]).strip() for line in lines}


def assert_talks(texts: dict[str, str]) -> None:
    """Not as models of random weights do: nothing, or always the same."""
    said = [text for text in texts.values() if text]
    assert len(said) >= len(AUDIO) - 2
    assert len(set(said)) > len(said) / 2 and len(set("".join(said))) > 3
    assert sum(map(len, said)) > 10 * len(said)
    assert texts["silence"] == texts["audio00"] == ""


@pytest.mark.parametrize(
    ("size", "normalize", "token_type"),
    [
        (5, "utterance_mvn", "bpe"),
        (3, "global_mvn", "char"),
        pytest.param(8, None, "char", marks=pytest.mark.thorough),
    ],
)
def test_the_text_is_that_of_decode_best_path(supernet, tmp_path, size, normalize, token_type):
    conf = {"normalize_conf": {}} if normalize != "global_mvn" else {}
    changes = pieces(tmp_path) if token_type == "bpe" else {}
    config = with_changes(supernet, tmp_path, normalize=normalize, **conf, **changes)
    model = tmp_path / MODEL
    shutil.copy(supernet / MODEL, model)
    torch.manual_seed(1)
    heard = torch.from_numpy(np.concatenate(list(waves(supernet).values())))
    let_it_talk(config, model, heard)  # with features that are normalised in this way
    done = export_onnx(
        config, model, tmp_path / "out", size, runtime="sherpa-onnx",
        wav_scp=supernet.parent / "audio.scp",
    )  # fmt: skip
    assert done.path == tmp_path / "out/model.onnx" and done.agreement > 0.99
    texts = texts_of_sherpa(done.path, supernet)
    assert_talks(texts)
    if token_type == "bpe":  # sentencepiece's, which the README tells
        texts = {utt: text.replace("<unk>", " ⁇ ").strip() for utt, text in texts.items()}
    assert texts == texts_of_best_path(config, model, supernet, size, tmp_path / "decoded")
    assert_talks(texts_of_sherpa(done.path, supernet, marked=False))
    notes = (tmp_path / "out/README.md").read_text()
    assert ("only at the floor of log-mel" in notes) == (normalize == "utterance_mvn")
    assert ("`<unk>`" in notes) == (token_type == "bpe")


def test_int8_and_the_commands_of_the_readme(supernet, tmp_path):
    plain, folder = tmp_path / "plain.onnx", tmp_path / "out"
    folder.mkdir()
    for name in ("model.onnx", "tokens.txt"):  # of an earlier export
        (folder / name).write_text("old")
    command = [sys.executable, "-m", "espnet_des.bin.export_onnx", "--size", "5",
               "--asr_train_config", supernet / "config.yaml", "--asr_model_file",
               supernet / MODEL, "--quantize", "int8", "--runtime", "sherpa-onnx",
               "--output", folder]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "README.md has the commands" in shown.stdout
    assert "subtracts the mean" in shown.stderr and "timestamps" in shown.stderr
    assert {f.name for f in folder.iterdir()} == {"model.int8.onnx", "tokens.txt", "README.md"}
    export_onnx(supernet / "config.yaml", supernet / MODEL, plain, 5, quantize="int8")
    opened = session(plain)
    stored = opened.get_modelmeta().custom_metadata_map
    about = {key: json.loads(stored[key])
             for key in ("tokens", "min_length", "token_type", "blank_id")}  # fmt: skip
    texts = texts_of_sherpa(folder / "model.int8.onnx", supernet)
    assert_talks(texts)
    ours = {utt: example.recognise(opened, about, wave) for utt, wave in waves(supernet).items()
            if wave.any()}  # fmt: skip
    assert sum(texts[utt] == text for utt, text in ours.items()) >= len(ours) - 1

    shutil.copy(supernet.parent / "audio07.wav", folder / "some.wav")
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", (folder / "README.md").read_text(), re.S))
    shown = subprocess.run(
        [sys.executable, "-c", blocks["python"]], cwd=folder, capture_output=True, text=True
    )
    assert shown.stdout.strip() == texts["audio07"], shown.stderr
    program, *options = blocks["sh"].splitlines()[-1].split()
    program = shutil.which(program, path=Path(sys.executable).parent) or shutil.which(program)
    if program:  # of a package of its own, sherpa-onnx-bin
        shown = subprocess.run([program, *options], cwd=folder, capture_output=True, text=True)
        assert f'"text": "{texts["audio07"]}"' in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"frontend_conf": {"fs": 8000, "n_fft": 400, "hop_length": 160, "n_mels": 16}}, {},
         "fs: 8000: sherpa-onnx resamples all audio to 16000 Hz"),
        ({"token_type": "phn"}, {}, "token_type: phn"),
        ({"token_list": [*TOKENS[:-1], "A B"]}, {}, "token_list: sherpa-onnx cannot read"),
        ({}, {"source": "features"}, "source: features: sherpa-onnx needs waveform"),
        ({}, {"output": Path("model.onnx")}, "must be a folder for sherpa-onnx"),
        ({}, {"runtime": "sherpa"}, "runtime: 'sherpa' must be one of"),
    ],
)  # fmt: skip
def test_what_it_cannot_run_is_said(supernet, tmp_path, changes, options, says):
    config = with_changes(supernet, tmp_path, **changes)
    given = {"output": tmp_path / "out", "size": 5, "runtime": "sherpa-onnx"} | options
    with pytest.raises(ConfigError, match=says):
        export_onnx(config, supernet / MODEL, **given)
    assert [f.name for f in tmp_path.iterdir()] == ["config.yaml"]


def test_a_folder_of_something_else_is_left_alone(supernet, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        export_onnx(
            supernet / "config.yaml", supernet / MODEL, tmp_path, 5, runtime="sherpa-onnx"
        )
    assert [f.name for f in tmp_path.iterdir()] == ["README.md"]


def test_the_benchmark_of_runtimes(supernet, tmp_path, capsys):
    data = tmp_path / "some_audio"
    data.mkdir()
    lines = (supernet.parent / "audio.scp").read_text().splitlines()
    (data / "wav.scp").write_text("\n".join(lines[::3]) + "\n")
    (data / "text").write_text("".join(f"{line.split()[0]} AB C\n" for line in lines))
    rows = benchmark_runtimes(
        supernet / "config.yaml", supernet / MODEL, [data], tmp_path / "out", [5]
    )
    assert [(row.runtime, row.as_onnx) for row in rows] == [
        ("PyTorch", None),
        ("onnxruntime, float32", None), ("sherpa-onnx, float32", 1.0),
        ("onnxruntime, int8", None), ("sherpa-onnx, int8", 1.0),
    ]  # fmt: skip
    assert [row.as_pytorch for row in rows[:3]] == [1.0] * 3
    assert all(row.size == 5 and row.rtf > 0 and row.wer > 0 for row in rows)
    assert (tmp_path / "out/benchmark_runtimes.md").read_text() in capsys.readouterr().out
    saved = json.loads((tmp_path / "out/benchmark_runtimes.json").read_text())["rows"]
    assert saved == [row._asdict() for row in rows]
    assert not list((tmp_path / "out").glob("*models*"))


def test_two_folders_of_one_name_are_refused(supernet, tmp_path):
    for folder in (tmp_path / "a/test", tmp_path / "b/test"):
        folder.mkdir(parents=True)
        (folder / "wav.scp").write_text((supernet.parent / "audio.scp").read_text())
        utts = [line.split()[0] for line in (folder / "wav.scp").read_text().splitlines()]
        (folder / "text").write_text("".join(f"{utt} A\n" for utt in utts))
    with pytest.raises(ConfigError, match="data: test is the name of two of the folders"):
        benchmark_runtimes(
            supernet / "config.yaml", supernet / MODEL,
            [tmp_path / "a/test", tmp_path / "b/test"], tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
