"""Audio at decoding: what can be recognised is, the rest is named, and nothing else is lost."""

import contextlib
import os
import re
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

import espnet_des
from espnet_des.deploy.onnx import example
from espnet_des.deploy.onnx.export import export_onnx
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.inference.decode_best_path import decode_best_path
from espnet_des.inference.loading import load_model
from espnet_des.utils.audio import AudioError, find_audio, read_header, read_mono
from espnet_des.utils.machine import memory, reset_peak_memory
from tests.bad_input.conftest import train

RATE = 8000
SECOND = 0.1 * np.random.default_rng(0).standard_normal(RATE)
SECOND *= np.exp(np.sin(np.arange(RATE) / 700))


def write(path: Path, samples, rate=RATE, **options) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def read(path: Path):
    return dict(line.partition(" ")[::2] for line in path.read_text().splitlines())


def decode(model, source: Path, out: Path, **options):
    failed = decode_best_path(*model, source, out, **{"size": 5} | options)
    return read(out / "text"), failed


@pytest.fixture(scope="module")
def text(supernet, tmp_path_factory):
    """What is recognised in the good second."""
    folder = tmp_path_factory.mktemp("good")
    good = write(folder / "good.wav", SECOND, subtype="FLOAT")
    found, _ = decode(supernet, good, folder / "out")
    assert found["good"]
    return found["good"]


@pytest.fixture(scope="module")
def recognisers(supernet):
    """What takes waveforms in Python: a function of one."""
    model, args = load_model(*supernet)
    model.set_size(5)
    decoder = BestPathDecoder(model, args)
    search = espnet_des.Speech2Text(*supernet, ctc_weight=1.0, beam_size=2)
    return {"best path": lambda wave: decoder([wave])[0], "search": lambda w: search(w)[0][0]}


# Name, samples and options of the file; the text or the reason.
ODD = [
    ("as it is", SECOND, {}, "the good text"),
    ("in both channels", np.stack([SECOND, SECOND], 1), {}, "the good text"),
    ("in opposite phase", np.stack([SECOND, -SECOND], 1), {}, ""),
    ("an offset alone", np.full(RATE, 0.5), {}, "a text"),
    ("clipped", (8 * SECOND).clip(-1, 1), {}, "a text"),
    ("all samples at the limits", np.sign(SECOND), {}, "a text"),
    ("far beyond full scale", 1e6 * SECOND, {}, "a text"),
    ("beyond float32's squares", 1e30 * SECOND, {}, "8000 of 8000 samples are NaN or infinite"),
    ("one of them infinite", np.where(np.arange(RATE) == 9, -np.inf, SECOND), {},
     "1 of 8000 samples are NaN or infinite"),
    ("one channel NaN", np.stack([SECOND, np.full(RATE, np.nan)], 1), {},
     "8000 of 16000 samples are NaN"),
    ("a rate of 1 Hz", SECOND, {"rate": 1}, "has a rate of 1 Hz; speech takes 1000 at least"),
    ("a rate of 1 MHz", np.repeat(SECOND, 125), {"rate": 1000000}, "a text"),
    ("64 samples", SECOND[:64], {}, ""),
    ("65 samples", SECOND[:65], {}, ""),
    ("one frame short", SECOND[:479], {}, ""),
]  # fmt: skip


@pytest.mark.parametrize("name, samples, options, expected", ODD, ids=[o[0] for o in ODD])
def test_odd_samples(supernet, text, recognisers, tmp_path, name, samples, options, expected):
    """Beside a good file."""
    odd = write(tmp_path / "odd.wav", samples, **{"subtype": "FLOAT"} | options)
    good = write(tmp_path / "good.wav", SECOND, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text(f"odd {odd}\ngood {good}\n")
    texts, failed = decode(supernet, tmp_path / "wav.scp", tmp_path / "out")
    assert texts["good"] == text
    if expected == "a text":  # that of the samples, whatever they are
        if "rate" in options:  # as little of it as is left at the model's rate
            samples = soxr.resample(samples.astype(np.float32), options["rate"], RATE)
        expected = recognisers["best path"](torch.from_numpy(samples).float())
        assert failed == {} and texts["odd"] == expected.rstrip()
    elif expected in ("", "the good text"):
        assert failed == {} and texts["odd"] == (text if expected else "")
    else:
        assert failed["odd"].startswith(f"{odd}: {expected}") and list(texts) == ["good"]


@pytest.mark.parametrize("part, says", [
    (0.5, "samples that its header tells of; it was cut off, copy it again"),
    (0.9, "samples that its header tells of"),
    (1.0, None),
])  # fmt: skip
def test_an_mp3_that_was_cut_off(tmp_path, part, says):
    """Its decoder ends without an error where the file does."""
    whole = write(tmp_path / "whole.mp3", np.tile(SECOND, 5))
    content = whole.read_bytes()
    cut = tmp_path / "cut.mp3"
    cut.write_bytes(content[: round(part * len(content))])
    assert len(read_mono(str(cut), RATE, 0, RATE)) == RATE  # what is there can be read
    if says is None:
        return
    with pytest.raises(AudioError, match=says):
        read_mono(str(cut), RATE)


WAVS = {
    "16 bits": {}, "floats": {"subtype": "FLOAT"}, "24 bits": {"subtype": "PCM_24"},
    "compressed": {"subtype": "IMA_ADPCM"}, "of telephones": {"subtype": "ULAW"},
    "extensible": {"format": "WAVEX"}, "big-endian": {"endian": "BIG"},
}  # fmt: skip


@pytest.mark.parametrize("name", WAVS)
@pytest.mark.parametrize("part", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_a_wav_that_was_cut_off(tmp_path, name, part):
    """libsndfile reads what is there as if it were the whole."""
    whole = write(tmp_path / "whole.wav", np.tile(SECOND, 3), **WAVS[name])
    content = whole.read_bytes()
    header = content.index(b"data") + 8
    cut = tmp_path / "cut.wav"
    cut.write_bytes(content[: header + round(part * (len(content) - header))])
    if part >= 0.99:  # within what other formats are allowed
        assert len(read_mono(str(cut), RATE)) >= 0.98 * 3 * RATE
        return
    with pytest.raises(AudioError, match="samples that its header tells of; it was cut off"):
        read_mono(str(cut), RATE)
    if part:  # what is there can be read
        assert len(read_mono(str(cut), RATE, 0, RATE)) == RATE


def test_a_wav_that_was_cut_off_is_named_beside_a_good_one(supernet, text, tmp_path):
    write(tmp_path / "good.wav", SECOND, subtype="FLOAT")
    cut = write(tmp_path / "cut.wav", np.tile(SECOND, 3))
    cut.write_bytes(cut.read_bytes()[:30044])
    texts, failed = decode(supernet, tmp_path, tmp_path / "out")
    assert texts == {"good": text}
    assert failed == {
        "cut": f"{cut}: holds 15000 of the 24000 samples that its header tells of; it was cut "
        "off, copy it again"
    }


@pytest.mark.parametrize("told", [0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("of_whole", [0, 36, None])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_of_a_pipe_is_read_whole(tmp_path, told, of_whole, subtype):
    """Its writer, ffmpeg or sox for example, could not go back and write the length."""
    whole = write(tmp_path / "whole.wav", SECOND, subtype=subtype)
    content = bytearray(whole.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", told)
    content[4:8] = struct.pack("<I", told if of_whole is None else of_whole)
    piped = tmp_path / "piped.wav"
    piped.write_bytes(content)
    assert read_header(str(piped)) == read_header(str(whole))
    for first, last in ((0, None), (100, 5000)):
        one, other = (read_mono(str(p), RATE, first, last) for p in (piped, whole))
        assert np.array_equal(one, other) and len(one)


def test_a_wav_without_samples_has_none(tmp_path):
    """What follows an empty data chunk is no sound."""
    empty = write(tmp_path / "empty.wav", SECOND[:0])
    content = empty.read_bytes() + b"LIST" + struct.pack("<I", 400) + bytes(range(200)) * 2
    content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    empty.write_bytes(content)
    assert read_header(str(empty)).frames == 0 and not len(read_mono(str(empty), RATE))


@pytest.mark.parametrize("content", [
    b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEdata", b"RIFF\0\0\0\0AVI ",
    b"RIFF\0\0\0\0WAVEdata\0\0\0\0\0\0", b"RIFF\0\0\0\0WAVEfmt \2\0\0\0\0\0data\5\0\0\0",
    b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\xff\0",
])  # fmt: skip
def test_a_wav_header_without_sense_is_no_audio(tmp_path, content):
    (tmp_path / "odd.wav").write_bytes(content)
    with pytest.raises(AudioError, match="odd.wav: cannot be read as audio"):
        read_header(str(tmp_path / "odd.wav"))


def test_a_folder_that_cannot_be_searched_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    write(tmp_path / "good.wav", SECOND)
    scandir = os.scandir

    def refuse(path):  # root may read everything
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(AudioError, match="secret cannot be searched .Permission denied"):
        find_audio(tmp_path)


def test_what_is_no_file_is_named_as_what_it_is(supernet, text, tmp_path):
    """Above all a pipe, which would be waited for."""
    good = write(tmp_path / "good.wav", SECOND, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/null")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "broken.wav").symlink_to("moved.wav")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket.wav")  # a whole path could be too long for one
    reasons = {
        "folder": "is a folder, not a file", "pipe": "is a pipe, not a file",
        "device": "is a device, not a file", "socket": "is a socket, not a file",
        "loop": "is a link that leads to itself", "broken": "is a link to what is not there",
        "zero\0byte": "no such file", "absent": "no such file",
    }  # fmt: skip
    paths = [good] + [tmp_path / f"{name}.wav" for name in reasons]
    (tmp_path / "paths").write_text("".join(f"{path}\n" for path in paths))
    texts, failed = decode(supernet, tmp_path / "paths", tmp_path / "out")
    assert texts == {"good": text}
    assert {utt: why.rsplit(": ", 1)[1] for utt, why in failed.items()} == reasons
    found = find_audio(tmp_path)  # as a folder
    assert {"pipe", "loop", "broken", "device", "socket"} < set(
        found
    ) and "folder" not in found
    with pytest.raises(
        AudioError, match="^input: .*pipe.wav is a pipe, not a file; give a fold"
    ):
        find_audio(tmp_path / "pipe.wav")
    for name in ("pipe", "folder"):
        with pytest.raises(AudioError, match=reasons[name]):
            read_mono(str(tmp_path / f"{name}.wav"), RATE)


def test_white_space_in_a_name_is_another_character_in_the_id(
    supernet, text, tmp_path, caplog
):
    folder = tmp_path / "two\nlines"
    folder.mkdir()
    write(folder / "my  good\u3000talk.wav", SECOND, subtype="FLOAT")
    (folder / "my bad\ttalk.wav").write_text("no audio")
    texts, failed = decode(supernet, folder, tmp_path / "out")
    assert texts == {"my__good_talk": text} and list(failed) == ["my_bad_talk"]
    assert list(read(tmp_path / "out/failed")) == ["my_bad_talk"]
    (notice,) = [r.getMessage() for r in caplog.records if "white space" in r.getMessage()]
    assert "2 files have white space in their names" in notice
    (folder / "my_bad_talk.wav").write_text("no audio")
    with pytest.raises(
        AudioError, match="would both be utterance my_bad_talk; give a wav.scp"
    ):
        find_audio(folder)


# Name of the input, its content, and the ids found or what is said; {good} is a file.
TABLES = [
    ("wav.scp", "u1 {good}\r\nu2 {good}\r\n", ["u1", "u2"]),
    ("wav.scp", "\ufeffu1 {good}\n", ["u1"]),
    ("wav.scp", "\n\n  u1   {good}  \n\n", ["u1"]),
    ("wav.scp", "u1 {spaced}\n", ["u1"]),
    ("wav.scp", b"u1 /data/caf\xe9.wav\n", "cannot be read as a list .*UTF-8"),
    ("wav.scp", "", "is empty; it must name at least one audio file"),
    ("wav.scp", "u1\n", "wav.scp:1: 'u1' must be 'utt path'"),
    ("wav.scp", "u1 {good}\nu1 {good}\n", "wav.scp:2: utterance u1 occurs twice"),
    ("list", ".\n", "'.' must be the path of an audio file"),
    ("list", "/\n", "'/' must be the path of an audio file"),
    ("list", "\ufeff{good}\n", ["good"]),
    ("list", "a.wav\nb/a.wav\n", "would both be utterance a; give a wav.scp"),
]


@pytest.mark.parametrize("name, content, expected", TABLES)
def test_lists_of_files(tmp_path, name, content, expected):
    good = write(tmp_path / "good.wav", SECOND)
    spaced = write(tmp_path / "a good one.wav", SECOND)
    if isinstance(content, str):
        content = content.replace("{good}", str(good)).replace("{spaced}", str(spaced))
        content = content.encode()
    (tmp_path / name).write_bytes(content)
    if isinstance(expected, str):
        with pytest.raises(AudioError, match=f"^input: .*{expected}"):
            find_audio(tmp_path / name)
    else:
        found = find_audio(tmp_path / name)
        assert list(found) == expected and all(map(os.path.isfile, found.values()))


def test_a_name_that_is_not_utf8_is_refused_before_decoding(tmp_path):
    """The transcripts could not be written: UTF-8 is what ESPnet reads."""
    write(tmp_path / "good.wav", SECOND)
    os.rename(tmp_path / "good.wav", os.fsencode(tmp_path) + b"/caf\xe9.wav")
    with pytest.raises(AudioError, match=r"^input: .*caf\\udce9.wav' is not UTF-8 .*; rename"):
        find_audio(tmp_path)


WAVE = torch.from_numpy(SECOND).float()
# Samples, and the text or what is said of them.
WAVES = [
    (WAVE[None], r"its shape is \(1, 8000\), but audio must be \(samples,\); of several"),
    (WAVE[None, None], r"its shape is \(1, 1, 8000\), but audio must be"),
    (torch.tensor(0.5), r"its shape is \(\), but audio must be"),
    (WAVE.double() * 1e30, "8000 of 8000 samples are NaN or infinite"),
    (WAVE[:0], ""),
    (torch.zeros(0, 2), ""),
    (WAVE[:1], ""),
    (0 * WAVE, ""),
]


@pytest.mark.parametrize("name", ["best path", "search"])
@pytest.mark.parametrize("wave, expected", WAVES, ids=lambda x: str(getattr(x, "shape", "")))
def test_waveforms_in_python(recognisers, name, wave, expected):
    if expected:
        with pytest.raises(AudioError, match=expected):
            recognisers[name](wave)
    else:
        assert recognisers[name](wave) == ""


def test_an_hour_is_decoded_in_bounded_memory(data, tmp_path):
    """By a model with few frames a second: attention takes their square."""
    model = train(
        data, tmp_path, encoder_conf__output_size=4,
        frontend_conf={"fs": RATE, "n_fft": 512, "hop_length": 1600, "n_mels": 16},
        encoder_conf__input_layer="conv2d",
    )  # fmt: skip
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", RATE, 1) as f:
        for _ in range(3600):
            f.write(SECOND)
    hour = find_audio(tmp_path / "hour.wav")
    reset_peak_memory()
    before = memory("VmRSS")
    texts, failed = decode(model, tmp_path / "hour.wav", tmp_path / "out", size=3)
    assert failed == {} and list(texts) == list(hour)
    # The samples, what resampling and the spectrum take of them, and attention.
    assert memory("VmHWM") - before < 25 * 4 * 3600 * RATE


def test_what_takes_too_much_memory_is_named_beside_what_does_not(
    supernet, text, tmp_path, monkeypatch
):
    decode_some = BestPathDecoder.runs

    def runs(self, waves):
        if max(map(len, waves)) > 2 * RATE:  # in torch's words
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return decode_some(self, waves)

    monkeypatch.setattr(BestPathDecoder, "runs", runs)
    write(tmp_path / "good.wav", SECOND, subtype="FLOAT")
    write(tmp_path / "long.wav", np.tile(SECOND, 3))
    texts, failed = decode(supernet, tmp_path, tmp_path / "out")
    assert texts == {"good": text}
    assert "long.wav: 3 s need too much memory, give it in pieces (Run" in failed["long"]


@pytest.fixture(scope="module")
def exported(part, tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "part.onnx"
    return export_onnx(*part, file).path


# Samples, options of the file, and the text or what the program ends with.
OF_ONNX = [
    (SECOND, {}, ".+"),
    (np.stack([SECOND, SECOND], 1), {}, ".+"),
    (SECOND[:0], {}, ""),
    (SECOND[:1], {}, ""),
    (SECOND[:300], {}, ""),
    (SECOND, {"rate": 16000}, "odd.wav has 16000 Hz; the model needs 8000 Hz"),
    (np.where(np.arange(RATE) == 9, np.nan, SECOND), {}, "odd.wav has samples that are NaN"),
]


@pytest.mark.parametrize("samples, options, expected", OF_ONNX, ids=range(len(OF_ONNX)))
def test_audio_for_the_exported_model(exported, tmp_path, capsys, samples, options, expected):
    odd = write(tmp_path / "odd.wav", samples, **{"subtype": "FLOAT"} | options)
    if expected.startswith("odd"):
        with pytest.raises(SystemExit, match=expected):
            example.main(str(exported), str(odd))
    else:
        example.main(str(exported), str(odd))
        assert re.fullmatch(f"{odd} {expected}\n", capsys.readouterr().out)


@pytest.mark.parametrize("name, content, says", [
    ("wav.scp", "good {odd}\n", "odd.wav: cannot be read as audio"),
    ("wav.scp", "good {nan}\n", "nan.wav: 8000 of 8000 samples are NaN"),
    ("text", b"u00 A\xff\n", "text is not UTF-8"),
    ("text", "other A\n", "text: .* has no line for 1 utterances of .*, such as good"),
    ("text", "good A\ngood B\n", "text:2: the key is repeated"),
])  # fmt: skip
def test_data_for_the_export(part, tmp_path, name, content, says):
    """Nothing is left of a file that could not be checked."""
    (tmp_path / "odd.wav").write_text("not audio")
    write(tmp_path / "nan.wav", np.full(RATE, np.nan), subtype="FLOAT")
    good = write(tmp_path / "good.wav", SECOND)
    (tmp_path / "wav.scp").write_text(f"good {good}\n")
    (tmp_path / "text").write_text("good A\n")
    if isinstance(content, str):
        names = {"{odd}": "odd.wav", "{nan}": "nan.wav"}
        for key, value in names.items():
            content = content.replace(key, str(tmp_path / value))
        content = content.encode()
    (tmp_path / name).write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((ValueError, RuntimeError), match=says):
        export_onnx(*part, tmp_path / "part.onnx", wav_scp=tmp_path / "wav.scp",
                    text=tmp_path / "text")  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == before
