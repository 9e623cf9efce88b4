"""Sounds in Kaldi's archives, written as ESPnet's recipes write them."""

import io

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet_des.utils.audio import AudioError, find_audio, read_header, read_mono

RATE = 8000
SPEECH = 0.1 * np.random.default_rng(0).standard_normal((3, 4000))


@pytest.fixture(params=["flac", "wav"])
def table(request, tmp_path):
    """``wav.scp`` of an archive as of asr.sh --audio_format flac.ark and wav.ark."""
    with open(tmp_path / "data_wav.ark", "wb") as ark, open(tmp_path / "wav.scp", "w") as scp:
        for number, wave in enumerate(SPEECH):
            kaldiio.save_ark(
                ark, {f"u{number}": (wave, RATE)}, scp=scp, append=True,
                write_function="soundfile", write_kwargs={"format": request.param},
            )  # fmt: skip
    return tmp_path / "wav.scp"


def test_sounds_of_an_archive_are_those_that_espnet_reads(table):
    stock = kaldiio.load_scp(str(table))
    found = find_audio(table)
    assert list(found) == ["u0", "u1", "u2"]
    for utt, place in found.items():
        rate, wave = stock[utt]
        assert read_header(place) == (len(wave), rate, 1)
        assert np.array_equal(read_mono(place, rate), wave.astype(np.float32))
        part = read_mono(place, rate, 1000, 1500)
        assert np.array_equal(part, wave[1000:1500].astype(np.float32))


def test_kaldis_own_archives_of_wav_files_are_read(tmp_path):
    """RIFF files one after the other, as wav-copy writes them."""
    content, offsets = b"", []
    for number, wave in enumerate(SPEECH):
        file = io.BytesIO()
        soundfile.write(file, wave, RATE, "PCM_16", format="WAV")
        content += f"u{number} ".encode()
        offsets.append(len(content))
        content += file.getvalue()
    (tmp_path / "a.ark").write_bytes(content)
    for wave, offset in zip(SPEECH, offsets):
        got = read_mono(f"{tmp_path}/a.ark:{offset}", RATE)
        assert np.allclose(got, wave, atol=1 / 2**15)


def test_places_without_a_sound_are_named(table, tmp_path):
    place = find_audio(table)["u1"]
    offset = int(place.rpartition(":")[2])
    ark = tmp_path / "data_wav.ark"
    kaldiio.save_ark(str(tmp_path / "feats.ark"), {"u": np.zeros((3, 2))})
    for wrong, says in (
        (f"{ark}:{offset + 1}", "no sound begins at byte"),
        (f"{ark}:{10**9}", "no sound begins at byte"),
        (f"{ark}:{ark.stat().st_size}", "no sound begins"),
        (f"{tmp_path}/feats.ark:2", "no sound begins at byte 2"),
        (f"{tmp_path}/none.ark:3", "no such file"),
    ):
        with pytest.raises(AudioError, match=says):
            read_header(wrong)
    whole = ark.read_bytes()
    for left in (100, 20, 7, 6, 5):  # the length begins at 5
        ark.write_bytes(whole[: offset + left])
        with pytest.raises(AudioError, match="was cut off|cannot be read as audio"):
            read_mono(place, RATE)


@pytest.mark.parametrize("name, content, says", [
    ("wav.scp", "u1 {ark}[0:10]\n", "only whole sounds of archives are read"),
    ("wav.scp", "u1 cat {ark} |\n", "is a command"),
    ("list", "{ark}\n", "is a place in an archive, which has no name: give 'utt place' lines"),
])  # fmt: skip
def test_other_forms_of_kaldis_tables_are_refused(tmp_path, name, content, says):
    (tmp_path / name).write_text(content.replace("{ark}", "a.ark:3"))
    with pytest.raises(AudioError, match=says):
        find_audio(tmp_path / name)
