"""Best-path decoding of audio files: inputs, token times, odd audio, exit codes."""

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2.asr.frontend.default import DefaultFrontend
from espnet_des.bin import decode_best_path as command
from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from espnet_des.inference.best_path import BestPathDecoder, Run
from espnet_des.inference.decode_best_path import decode_best_path
from espnet_des.inference.loading import load_model
from espnet_des.inference.transcribe import decode_files, in_processes, transcribe
from espnet_des.nn.waveforms import sampling_rate
from espnet_des.utils.audio import AudioError, find_audio
from tests.conftest import TOKENS, make_model
from tests.train import ROOT, let_it_talk, make_data, train_here

RATE = 8000


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """A trained CTC supernet of sizes 3, 5 and 8; its experiment folder."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    exp = train_here(
        folder, folder, max_epoch=3, encoder_conf__conv_norm="batch_norm",
        normalize="utterance_mvn",
    )  # fmt: skip
    let_it_talk(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth")
    return exp


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine wavs of different lengths in folders below; and no audio."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(1)
    for i in range(9):
        path = folder / f"part{i % 2}/u{i}.{'flac' if i % 3 else 'wav'}"
        path.parent.mkdir(exist_ok=True)
        # Louder and softer, so that the models have something to tell apart.
        samples = rng.standard_normal(int(rng.integers(6000, 20000)))
        samples *= 0.02 * np.exp(2 * np.sin(np.arange(len(samples)) / 700 + i))
        soundfile.write(path, samples.clip(-1, 1), RATE)
    (folder / "part0/notes.txt").write_text("no audio")
    (folder / "part0/._u0.wav").write_bytes(b"of macOS")
    return folder


def decode(exp, source, out, **options):
    return decode_best_path(
        exp / "config.yaml", exp / "valid.cer_ctc.ave.pth", source, out, **options
    )


def read(path):
    return dict(line.partition(" ")[::2] for line in path.read_text().splitlines())


@pytest.fixture(scope="module")
def decoder(exp):
    return BestPathDecoder(*load_model(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth"))


def test_every_kind_of_input_gives_the_same_text(exp, folder, tmp_path):
    paths = sorted(map(str, folder.rglob("u*.*")))
    order = paths[3:] + paths[:3]
    (tmp_path / "paths.txt").write_text("\n".join(order) + "\n\n")
    (tmp_path / "wav.scp").write_text("".join(f"{Path(p).stem}\t{p}\n" for p in order))
    assert decode(exp, folder, tmp_path / "folder") == {}
    texts = read(tmp_path / "folder/text")
    assert list(texts) == [Path(p).stem for p in paths]
    assert len(set(texts.values())) > 3
    for name in ("paths.txt", "wav.scp"):
        decode(exp, tmp_path / name, tmp_path / "out")
        assert list(read(tmp_path / "out/text").items()) == [
            (Path(p).stem, texts[Path(p).stem]) for p in order
        ]
    decode(exp, Path(paths[0]), tmp_path / "one")
    assert read(tmp_path / "one/text").items() <= texts.items()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"text"}


def test_a_batch_is_decoded_as_each_utterance_alone(decoder, folder):
    """To the frames; ESPnet's STFT mirrors the end of the longest one only."""
    waves = [torch.from_numpy(soundfile.read(p, dtype="float32")[0])
             for p in sorted(folder.rglob("u*.*"))]  # fmt: skip
    waves += [waves[0][:400], waves[0][:90], waves[0][:0], waves[1] * 0, waves[0][:-30]]
    for size in (3, 8):
        decoder.model.set_size(size)
        alone = [decoder.runs([wave])[0] for wave in waves]
        for number in (2, 7, len(waves)):
            for first in range(0, len(waves), number):
                together = decoder.runs(waves[first : first + number])
                for one, other in zip(alone[first : first + number], together):
                    assert [t[:3] for t in one] == [t[:3] for t in other]
                    assert [t[3] for t in one] == pytest.approx(
                        [t[3] for t in other], abs=1e-5
                    )
    assert [len(runs) > 0 for runs in alone] == [True] * 9 + [False] * 4 + [True]


def test_waves_of_several_channels_are_decoded_together(decoder):
    """ESPnet takes the first one."""
    decoder.model.set_size(8)
    waves = [0.1 * torch.randn(n, 2) for n in (9000, 7000)]
    alone = [decoder.runs([wave[:, 0]])[0] for wave in waves]
    together = decoder.runs(waves)
    assert [[t[:3] for t in runs] for runs in together] == [[t[:3] for t in r] for r in alone]
    assert all(alone)


def test_the_batch_size_changes_nothing(exp, folder, tmp_path):
    for size in (1, 7):
        decode(exp, folder, tmp_path / str(size), batch_size=size, size=5)
    assert read(tmp_path / "1/text") == read(tmp_path / "7/text")


def test_several_processes_change_nothing(exp, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("espnet_des.inference.transcribe.A_JOB", 4)
    files = exp / "config.yaml", exp / "valid.cer_ctc.ave.pth"
    extract_subnet(*files, 5, tmp_path / "size5")
    files = tmp_path / "size5/config.yaml", tmp_path / "size5/valid.cer_ctc.ave.pth"
    decoder, wavs = BestPathDecoder(*load_model(*files)), find_audio(folder)
    with in_processes(*files, 1, len(wavs)) as batches:
        assert batches is None
    with in_processes(*files, 8, len(wavs)) as batches:
        assert batches is not None
        texts = decode_files(decoder, wavs, 2, "test", batches)
    assert texts == decode_files(decoder, wavs, 2, "test") and any(texts.values())


def test_texts_are_those_of_the_models_own_best_path(decoder, folder):
    """Against ESPnet's encode and argmax, one utterance at a time."""
    decoder.model.set_size(8)
    wavs = find_audio(folder)
    texts = decode_files(decoder, wavs, 4, "test")
    for utt, path in wavs.items():
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        with torch.no_grad():
            encoded, _ = decoder.model.encode(wave[None], torch.tensor([len(wave)]))
            ids = decoder.model.ctc.argmax(encoded)[0].unique_consecutive().tolist()
        tokens = [decoder.converter.token_list[i] for i in ids if i]
        assert texts[utt] == decoder.tokenizer.tokens2text(tokens)


@pytest.mark.parametrize("size", [3, 5, 8])
def test_sizes_are_decoded_as_the_extracted_models(exp, folder, tmp_path, size):
    extract_subnet(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth", size, tmp_path / "part")
    decode(exp, folder, tmp_path / "whole_out", size=size, token_times=True)
    decode(tmp_path / "part", folder, tmp_path / "part_out", token_times=True)
    for name in ("text", "token.ctm"):
        one, other = (tmp_path / out / name for out in ("whole_out", "part_out"))
        assert one.read_text() == other.read_text() != ""


def test_stock_models_are_decoded(exp, folder, tmp_path):
    """Also one with intermediate CTC, whose encoder returns more."""
    import espnet2.tasks.asr as asr

    config = yaml.safe_load((exp / "config.yaml").read_text())
    config |= {"encoder": "conformer", "model": "espnet", "model_conf": {"ctc_weight": 1.0}}
    config["encoder_conf"] = {"output_size": 8, "attention_heads": 2, "linear_units": 8,
                              "num_blocks": 2, "interctc_layer_idx": [1]}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    model = asr.ASRTask.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), tmp_path / "valid.cer_ctc.ave.pth")
    assert decode(tmp_path, folder, tmp_path / "out", size=6, token_times=True) == {}
    assert len(read(tmp_path / "out/text")) == 9
    with pytest.raises(ConfigError, match="size: 5 .* of 6 layers only"):
        decode(tmp_path, folder, tmp_path / "out", size=5)


def test_token_times(exp, folder, tmp_path, decoder):
    decode(exp, folder, tmp_path, token_times=True)
    texts, wavs = read(tmp_path / "text"), find_audio(folder)
    rows = [line.split(" ") for line in (tmp_path / "token.ctm").read_text().splitlines()]
    assert all(len(row) == 6 and row[1] == "1" for row in rows)
    assert list(dict.fromkeys(row[0] for row in rows)) == [utt for utt in texts if texts[utt]]
    for utt, text in texts.items():
        mine = [row for row in rows if row[0] == utt]
        said = decoder.tokenizer.tokens2text([row[4] for row in mine])
        assert said.rstrip() == text  # which is written without a space at its end
        end = 0.0
        for start, duration, confidence in (
            [float(row[i]) for i in (2, 3, 5)] for row in mine
        ):
            assert start >= end - 1e-3 and duration > 0 and 0 < confidence <= 1
            end = start + duration
        assert end <= soundfile.info(wavs[utt]).duration + 1e-3
    # conv2d reduces four times, the hop is 80 samples of 8000 a second.
    assert decoder.samples_per_frame == 320
    assert all(round(float(row[2]) / 0.04, 3).is_integer() for row in rows)
    # An older file does not stay beside a newer text.
    decode(exp, folder, tmp_path)
    assert not (tmp_path / "token.ctm").exists()


@pytest.mark.parametrize(("factor", "upsampling"), [(4, 1), (8, 1), (8, 2)])
def test_seconds_of_a_frame_are_those_of_the_output(factor, upsampling):
    model = make_model(
        {
            "input_layer": "dw_striding",
            "subsampling_factor": factor,
            "upsampling_factor": upsampling,
        }
    )
    model.frontend = DefaultFrontend(fs=RATE, n_fft=128, hop_length=80, n_mels=12)
    args = argparse.Namespace(
        input_size=None, frontend_conf={"fs": RATE}, token_list=list(TOKENS),
        token_type="char", bpemodel=None,
    )  # fmt: skip
    assert BestPathDecoder(model, args).samples_per_frame == factor * 80 / upsampling


def test_runs_are_those_of_the_best_path(decoder):
    wave = 0.1 * torch.randn(24000)
    (runs,) = decoder.runs([wave])
    with torch.no_grad():
        encoded, lengths = decoder.model.encode(wave[None], torch.tensor([24000]))
        probs, ids = decoder.model.ctc.softmax(encoded)[0].max(-1)
    assert int(lengths[0]) == 74  # of 301 feature frames
    frames = ["<blank>"] * 74
    for token, first, count, confidence in runs:
        frames[first : first + count] = [token] * count
        assert confidence == pytest.approx(probs[first : first + count].mean().item())
    assert frames == [decoder.converter.token_list[i] for i in ids]
    (time,) = decoder.times([Run("A", 70, 9, 1.0)], 3.0)
    assert time == pytest.approx(("A", 2.8, 0.2, 1.0))  # cut at the end


def test_other_rates_and_channels_are_converted_with_one_notice(exp, folder, tmp_path, caplog):
    wavs = find_audio(folder)
    for number, (utt, path) in enumerate(wavs.items()):
        samples, _ = soundfile.read(path)
        if number < 3:
            up = np.repeat(samples, 2)
            soundfile.write(tmp_path / f"{utt}.wav", up, 2 * RATE)
        elif number < 5:
            both = np.stack([samples * 1.5, samples * 0.5], axis=1)
            soundfile.write(tmp_path / f"{utt}.wav", both, RATE, subtype="FLOAT")
        else:
            soundfile.write(tmp_path / f"{utt}.wav", samples, RATE, subtype="FLOAT")
    decode(exp, folder, tmp_path / "out/plain")
    caplog.clear()
    decode(exp, tmp_path, tmp_path / "out/converted", token_times=True)
    notices = [r.getMessage() for r in caplog.records if "files are" in r.getMessage()]
    assert notices == [
        "3 of 9 files are resampled to the model's 8000 Hz: 3 of 16000 Hz",
        "The channels of 2 of 9 files are averaged: 2 with 2 channels",
    ]
    plain, converted = (read(tmp_path / f"out/{name}/text") for name in ("plain", "converted"))
    utts = list(wavs)
    assert {u: plain[u] for u in utts[3:]} == {u: converted[u] for u in utts[3:]}
    # Seconds, not samples, of the resampled ones.
    for line in (tmp_path / "out/converted/token.ctm").read_text().splitlines():
        utt, _, start, duration, *_ = line.split()
        length = soundfile.info(tmp_path / f"{utt}.wav").duration
        assert float(start) + float(duration) <= length + 1e-3


@pytest.fixture
def odd(folder, tmp_path):
    """A list of two good files among odd ones; ids of those without text and failed."""

    def write(name, samples, **options):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, **options)

    write("none", np.zeros(0))
    write("one", np.ones(1))
    write("short", 0.1 * np.ones(300))
    write("zeros", np.zeros(9000))
    write("nan", np.where(np.arange(9000) == 5, np.nan, 0.1), subtype="FLOAT")
    write("infinite", np.full(9000, np.inf), subtype="FLOAT")
    (tmp_path / "text.wav").write_text("not audio at all\n")
    (tmp_path / "bytes.wav").write_bytes(b"")
    good = sorted(folder.rglob("u*.flac"))[:2]
    whole = good[0].read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    names = ["none", "one", "nan", "short", "zeros", "text", "bytes", "infinite", "absent"]
    paths = [tmp_path / f"{name}.wav" for name in names]
    listed = [good[0], *paths, tmp_path / "cut.flac", good[1]]
    (tmp_path / "paths").write_text("".join(f"{path}\n" for path in listed))
    return tmp_path / "paths", [p.stem for p in good]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_odd_files_leave_the_others_alone(exp, odd, tmp_path, caplog, batch_size):
    source, good = odd
    failed = decode(exp, source, tmp_path / "out", batch_size=batch_size, token_times=True)
    texts = read(tmp_path / "out/text")
    assert list(texts) == [good[0], "none", "one", "short", "zeros", good[1]]
    assert all(texts[utt] for utt in good)
    assert not any(texts[utt] for utt in ("none", "one", "short", "zeros"))
    reasons = {
        "nan": "1 of 9000 samples are NaN or infinite", "text": "cannot be read as audio",
        "bytes": "has 0 bytes", "infinite": "9000 of 9000 samples", "absent": "no such file",
        "cut": "cannot be read as audio",
    }  # fmt: skip
    assert list(failed) == list(reasons)
    for utt, why in reasons.items():
        assert why in failed[utt] and f"{utt}." in failed[utt]
    assert read(tmp_path / "out/failed") == failed
    (notice,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "6 of 12 files could not be decoded" in notice and all(u in notice for u in reasons)
    # Decoded again without them, nothing of it stays.
    Path(source).write_text(source.read_text().splitlines()[0] + "\n")
    assert decode(exp, source, tmp_path / "out") == {}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"text"}


def test_an_error_of_the_model_is_that_of_one_utterance(exp, folder, tmp_path):
    """As where the memory does not suffice for the longest one."""
    model, args = load_model(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth")
    encode, wavs = model.encode, find_audio(folder)
    longest = max(wavs, key=lambda utt: soundfile.info(wavs[utt]).frames)
    limit = soundfile.info(wavs[longest]).frames

    def short_of_memory(speech, lengths):
        if lengths.max() >= limit:
            raise torch.OutOfMemoryError("out of memory")
        return encode(speech, lengths)

    decoder = BestPathDecoder(model, args)
    assert decoder.samples_per_frame == 320
    model.encode = short_of_memory
    with pytest.raises(AudioError, match=f"utterance {longest}: .*out of memory"):
        decode_files(decoder, wavs, 4, "test")
    results = {t.utt: t for t in transcribe(decoder, wavs, 4, "test")}
    assert [utt for utt, t in results.items() if t.error] == [longest]


@pytest.mark.parametrize("name, content, says", [
    ("wav.scp", "u1 sox a.wav -t wav - |\n", "u1 sox a.wav .* is a command"),
    ("wav.scp", "u1 a.wav\nu2\n", "wav.scp:2: 'u2' must be 'utt path'"),
    ("wav.scp", "u1 a.wav\nu1 b.wav\n", "wav.scp:2: utterance u1 occurs twice"),
    ("list", "x/a.wav\ny/a.flac\n", "x/a.wav and y/a.flac would both be utterance a; give a wav"),
    ("list", "x/my file.wav\ny/my_file.wav\n", "would both be utterance my_file; give a wav"),
    ("list", "u1 {folder}/part0/u0.wav\n", "looks like 'utt path'; call the file .scp"),
    ("list", "\n\n", "is empty"),
    ("list", b"\xff\xfe\x00", "cannot be read as a list"),
    ("folder", None, "holds no audio file; looked for .*flac"),
    ("absent", None, "does not exist; give a folder"),
])  # fmt: skip
def test_inputs_that_name_no_audio_are_refused(folder, tmp_path, name, content, says):
    (tmp_path / "folder").mkdir()
    if isinstance(content, str):
        (tmp_path / name).write_text(content.replace("{folder}", str(folder)))
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=f"^input: .*{says}"):
        find_audio(tmp_path / name)


def test_what_cannot_start_writes_nothing(exp, folder, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken/text").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for name in ("text", "utt2spk"):
        (tmp_path / "data" / name).write_text("u0 REFERENCE\n")
    for says, error, options in (
        (r"size: 4 must be one of \[3, 5, 8\]", ConfigError, {"size": 4}),
        ("batch_size: 0", ConfigError, {"batch_size": 0}),
        ("device: 'cuda:99'", ConfigError, {"device": "cuda:99"}),
        ("device: 'typo'", ConfigError, {"device": "typo"}),
        ("output_dir: .*file/out cannot be written", OSError, {"out": tmp_path / "file/out"}),
        ("taken/text is a folder", OSError, {"out": tmp_path / "taken"}),
        ("output_dir: .*data has a utt2spk", ConfigError, {"out": tmp_path / "data"}),
        ("input: .*no such", AudioError, {"source": tmp_path / "no such"}),
    ):
        options = {"source": folder, "out": tmp_path / "out"} | options
        with pytest.raises(error, match=says):
            decode(exp, **options)
    assert not (tmp_path / "out").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"data", "file", "taken"}
    assert (tmp_path / "data/text").read_text() == "u0 REFERENCE\n"


def test_models_that_cannot_decode_audio_are_refused(exp):
    model, args = load_model(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth")
    args.input_size = 80
    with pytest.raises(
        ConfigError, match="input_size: 80 means that the model takes features"
    ):
        BestPathDecoder(model, args)
    model.ctc = None
    with pytest.raises(ConfigError, match="ctc_weight: 0.0: .* without a CTC output layer"):
        BestPathDecoder(model, args)
    args.input_size, args.frontend_conf = None, {"fs": "16k"}
    assert sampling_rate(args) == 16000
    args.frontend_conf = None
    assert sampling_rate(args) == 16000


def words(exp, tmp_path, *options):
    """Of the command that decodes."""
    return ["--asr_train_config", exp / "config.yaml",
            "--asr_model_file", exp / "valid.cer_ctc.ave.pth",
            "--output_dir", tmp_path / "out", *options]  # fmt: skip


def test_command_line(exp, odd, folder, tmp_path):
    source, good = odd

    def run(*options):
        return subprocess.run(
            [sys.executable, "-m", "espnet_des.bin.decode_best_path",
             *words(exp, tmp_path, *options)],
            text=True, capture_output=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    done = run("--input", folder, "--size", "5", "--token_times", "--batch_size", "2")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "9/9" in done.stderr  # the progress bar
    # In as large batches: a sum over another padding is rounded otherwise.
    decode(exp, folder, tmp_path / "here", size=5, token_times=True, batch_size=2)
    for name in ("text", "token.ctm"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "here" / name).read_text()
    done = run("--input", source, "--token_times", "false")
    assert done.returncode == 3
    assert "6 of 12 files could not be decoded" in done.stderr
    assert "absent.wav: no such file" in done.stderr
    assert list(read(tmp_path / "out/text"))[0] == good[0]
    assert not (tmp_path / "out/token.ctm").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options, code, says", [
    (["--input", ".", "--size", "4"], 1, "size: 4 must be one of [3, 5, 8]"),
    (["--input", "absent"], 1, "absent does not exist"),
    (["--input", ".", "--size", "many"], 2, "--size: 'many' must be a whole number"),
])  # fmt: skip
def test_the_command_says_what_it_refuses(
    exp, folder, tmp_path, options, code, says, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    line = ["decode_best_path", *words(exp, tmp_path, *options)]
    monkeypatch.setattr(sys, "argv", list(map(str, line)))
    try:
        assert command.main() == code
    except SystemExit as stopped:  # argparse's own
        assert stopped.code == code
    shown = capsys.readouterr().err
    assert says in shown and "Traceback" not in shown
