"""Bad utterances in a training: it goes on without them, or says at once which one it is."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import espnet2.bin.asr_train as asr_train
from espnet_des.errors import ConfigError
from espnet_des.nn.batch_norm import FiniteBatchNorm1d
from tests.train import arguments, assert_same, load, make_data, train_here

RATE = 8000
NOISE = 0.1 * np.random.default_rng(5).standard_normal(4000)
UPDATES = "encoder.selection.updates"
HYBRID = {
    "model_conf__ctc_weight": 0.3, "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
}  # fmt: skip
BATCH_NORM = {"encoder_conf__conv_norm": "batch_norm"}
ONE_BY_ONE = {"batch_size": 1}


def train(folder: Path, damage, **conf):
    """Four epochs of six utterances, the first of which is damaged; the last state."""
    make_data(folder, 6)
    damage(folder)
    exp = train_here(folder, folder, **{"max_epoch": 4, "accum_grad": 1} | conf)
    return load(exp / "4epoch.pth")


def wave(samples, name="00", rate=RATE, **options):
    return lambda folder: soundfile.write(folder / f"{name}.wav", samples, rate, **options)


def line(file, new):
    """Another first line of a table; None for none."""

    def change(folder):
        lines = (folder / file).read_bytes().splitlines(keepends=True)
        if new is None:
            del lines[0]
        else:
            lines[0] = new.replace(b"FOLDER", str(folder).encode()) + b"\n"
        (folder / file).write_bytes(b"".join(lines))

    return change


def edited(file, change):
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes()))


def told(caplog, words):
    return [m for m in (r.getMessage() for r in caplog.records) if words in m]


# Samples of u00, and the config; each epoch's update with it is skipped, 8 of 12 are left.
NO_NUMBERS = [
    ("NaN", np.where(np.arange(4000) == 7, np.nan, NOISE), {}),
    ("NaN and BatchNorm", np.where(np.arange(4000) == 7, np.nan, NOISE), BATCH_NORM),
    ("infinite", np.full(4000, np.inf), BATCH_NORM | {"normalize": "utterance_mvn"}),
    ("beyond float32's squares", 1e30 * NOISE, HYBRID),
]


@pytest.mark.parametrize("name, samples, conf", NO_NUMBERS, ids=[c[0] for c in NO_NUMBERS])
def test_the_update_of_what_is_no_number_is_skipped(tmp_path, caplog, name, samples, conf):
    caplog.set_level(logging.INFO)
    state = train(tmp_path, wave(samples, subtype="FLOAT"), **conf)
    assert state[UPDATES] == 8
    assert [k for k, v in state.items() if not v.isfinite().all()] == []
    assert len(told(caplog, "Skipping updating the model")) == 4
    losses = load(tmp_path / "exp/checkpoint.pth")["reporter"]["stats"]
    assert all(np.isfinite(losses[epoch]["valid"]["loss"]) for epoch in losses)


def all_kinds_of_short(folder):
    """0 samples; 1; fewer than the STFT mirrors; two frames; too few for the subsampling."""
    for number, samples in enumerate((0, 1, 60, 80, 300)):
        wave(NOISE[:samples], f"{number:02d}")(folder)


SHORT = [
    ("conv2d", {}),
    ("vgg with SpecAugment", {
        "encoder_conf__input_layer": "vgg", "specaug": "specaug",
        "specaug_conf": {"apply_time_warp": True, "time_warp_window": 5, "freq_mask_width_range":
                         [0, 4], "time_mask_width_ratio_range": [0, 0.5]}}),
    ("dw_striding", {"encoder_conf__input_layer": "dw_striding",
                     "encoder_conf__subsampling_channels": 6}),
    ("BatchNorm", BATCH_NORM | {"normalize": "utterance_mvn"}),
    ("hybrid", HYBRID),
]  # fmt: skip


@pytest.mark.parametrize("name, conf", SHORT, ids=[c[0] for c in SHORT])
def test_audio_too_short_for_a_frame_is_named_and_does_no_harm(tmp_path, caplog, name, conf):
    """In batches of their own, where ESPnet's subsampling would end the training."""
    state = train(tmp_path, all_kinds_of_short, **ONE_BY_ONE, **conf)
    assert state[UPDATES] == 4 * 6
    assert [k for k, v in state.items() if not v.isfinite().all()] == []
    named = [m.split()[1] for m in told(caplog, "teaches CTC nothing")]
    assert sorted(named) == ["u00", "u01", "u02", "u03", "u04"]  # each once
    assert re.search(r"takes \d frames of the encoder, its audio has [01]", caplog.text)


# Damage, config, and what is told (None: nothing).
SURVIVED = [
    ("too much text", line("text", b"u00 " + 50 * b"ABC"), {},
     "u00 teaches CTC nothing: its text takes 150 frames of the encoder, its audio has 15."),
    ("repetitions that just fit", line("text", b"u00 AAAAAAAA"), {}, None),
    ("one more than fits", line("text", b"u00 AAAAAAAAA"), {}, "its text takes 17 frames"),
    ("unknown tokens", line("text", b"u00 \xc3\x84X?"), {}, None),
    ("no text", line("text", b"u00"), ONE_BY_ONE, None),
    ("spaces for text", line("text", b"u00     "), HYBRID | ONE_BY_ONE, None),
    ("silence", wave(np.zeros(4000)), BATCH_NORM, None),
    ("clipping", wave(np.sign(NOISE)), {}, None),
    ("all in stereo", lambda folder: [wave(np.stack([NOISE, -NOISE], 1), f"{i:02d}")(folder)
                                      for i in range(6)], {}, None),
    ("not in the shape file", line("speech_shape", None), ONE_BY_ONE, None),
]  # fmt: skip


@pytest.mark.parametrize("name, damage, conf, says", SURVIVED, ids=[c[0] for c in SURVIVED])
def test_a_training_goes_on(tmp_path, caplog, name, damage, conf, says):
    state = train(tmp_path, damage, **conf)
    per_epoch = 6 if conf.get("batch_size") == 1 else 3
    assert state[UPDATES] == 4 * (per_epoch - (name == "not in the shape file"))
    assert [k for k, v in state.items() if not v.isfinite().all()] == []
    assert len(told(caplog, says or "teaches CTC nothing")) == (says is not None)


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undamaged"), lambda folder: None, max_epoch=4)


def rename(folder):
    (folder / "00.wav").rename(folder / "a good one.wav")
    line("wav.scp", b"u00 FOLDER/a good one.wav")(folder)


HARMLESS = [
    ("a path with spaces", rename, {}),
    ("lines of Windows", edited("text", lambda b: b.replace(b"\n", b"\r\n")), {}),
    ("more audio than is used", edited("wav.scp", lambda b: b + b"other /nowhere.wav\n"), {}),
    ("the rate in words", lambda folder: None, {"frontend_conf__fs": "8k"}),
]


@pytest.mark.parametrize("name, damage, conf", HARMLESS, ids=[c[0] for c in HARMLESS])
def test_harmless_oddities_change_nothing(undamaged, tmp_path, name, damage, conf):
    assert_same(undamaged, train(tmp_path, damage, **conf))


def cut_off(folder):
    soundfile.write(folder / "00.flac", NOISE, RATE)
    (folder / "00.flac").write_bytes((folder / "00.flac").read_bytes()[:3000])
    line("wav.scp", b"u00 FOLDER/00.flac")(folder)


def as_folder(folder):
    (folder / "00.wav").unlink()
    (folder / "00.wav").mkdir()


UNLIKE = r"of the 6 utterances of train_shape_file, such as 'u00'; give tables of the same"
# Damage, what is raised and said, and what is logged of it.
REFUSED = [
    ("another rate", wave(NOISE, rate=16000), ConfigError,
     r"^frontend_conf: fs: 8000 must be the rate of the audio: u00 of .*wav.scp .* 16000 Hz", ""),
    ("another rate later", wave(NOISE, "03", rate=16000), RuntimeError,
     "Sampling rates are mismatched: 8000 != 16000", r"wav.scp, type=sound, id=u03"),
    ("stereo among mono", wave(np.stack([NOISE, NOISE], 1)), RuntimeError,
     r"expanded size of the tensor \(2\) must match", ""),
    ("text for audio", edited("00.wav", lambda _: b"no audio\n"), RuntimeError,
     "Error opening '.*00.wav': Format not recognised", "wav.scp, type=sound, id=u00"),
    ("a file that was cut off", cut_off, RuntimeError, "failed", "type=sound, id=u00"),
    ("no file", lambda folder: (folder / "00.wav").unlink(), RuntimeError,
     "Error opening '.*00.wav'", "wav.scp, type=sound, id=u00"),
    ("a folder", as_folder, RuntimeError, "Error opening '.*00.wav'", "type=sound, id=u00"),
    ("a command", line("wav.scp", b"u00 cat 00.wav |"), RuntimeError,
     "Error opening 'cat 00.wav |'", "type=sound, id=u00"),
    ("no path", line("wav.scp", b"u00"), RuntimeError, "Error opening ''", "id=u00"),
    ("an id twice", line("wav.scp", b"u01 x.wav"), RuntimeError,
     r"u01 is duplicated \(.*wav.scp:2\)", "wav.scp"),
    ("a text twice", line("text", b"u01 A"), RuntimeError, r"u01 is duplicated \(.*text:2\)", ""),
    ("no audio", line("wav.scp", None), ConfigError, f"wav.scp has no line for 1 {UNLIKE}", ""),
    ("no text", line("text", None), ConfigError, f"text has no line for 1 {UNLIKE}", ""),
    ("a mark before the first id", edited("text", lambda b: b"\xef\xbb\xbf" + b), ConfigError,
     f"^train_data_path_and_name_and_type: .*text has no line for 1 {UNLIKE}", ""),
    ("other ids", edited("text", lambda b: re.sub(b"u(0[12])", rb"v\1", b)), ConfigError,
     "text has no line for 2 of the 6 utterances of train_shape_file, such as 'u01'", ""),
    ("an empty list", edited("wav.scp", lambda _: b""), RuntimeError, "scp has no samples", ""),
    ("an empty line", edited("wav.scp", lambda b: b"\n" + b), ValueError, "", "wav.scp"),
    ("a path not in UTF-8", line("wav.scp", b"u00 /caf\xe9.wav"), UnicodeDecodeError, "utf-8",
     "An error happened with .*wav.scp"),
    ("text not in UTF-8", line("text", b"u00 A\xff"), UnicodeDecodeError, "utf-8",
     "An error happened with .*text"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=[c[0] for c in REFUSED])
def test_a_training_stops_and_says_where(tmp_path, caplog, case):
    _, damage, error, says, logged = case
    with pytest.raises(error, match=says):
        train(tmp_path, damage)
    assert re.search(logged, caplog.text)
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_validation_and_training_are_told_apart(tmp_path):
    make_data(tmp_path, 6)
    (tmp_path / "valid").mkdir()
    make_data(tmp_path / "valid", 6)
    line("text", None)(tmp_path / "valid")
    command = arguments(tmp_path, tmp_path, max_epoch=3)
    option = command.index("--valid_data_path_and_name_and_type")
    rest = [a.replace(str(tmp_path), str(tmp_path / "valid")) for a in command[option:]]
    with pytest.raises(ConfigError, match="^valid_data_path_and_name_and_type: .*valid/text"):
        asr_train.main(cmd=[*command[:option], *rest])


def test_one_frame_in_all_is_normalised_by_the_running_statistics():
    norm, stock = FiniteBatchNorm1d(3), torch.nn.BatchNorm1d(3)
    x = torch.randn(2, 3, 5)
    assert torch.equal(norm(x), stock(x))  # and so in every other case
    assert torch.equal(norm.running_var, stock.running_var)
    one = torch.randn(1, 3, 1)
    torch.testing.assert_close(norm(one), stock.eval()(one))
    before = norm.running_mean.clone()
    x[0, 1, 2] = float("nan")
    norm(x)
    assert torch.equal(norm.running_mean[1], before[1]) and norm.running_var.isfinite().all()
