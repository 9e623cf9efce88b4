"""The check of generated speech: which utterances, and the numbers that it tells."""

import sys

import numpy as np
import pytest

from espnet_des.errors import ConfigError
from espnet_des.measure.voices import (
    check_voices,
    cosines,
    equal_error_rate,
    recognised,
    some_of_each_speaker,
)


def test_four_utterances_of_the_first_speakers():
    speakers = {f"{s}-{u}": s for s in "cab" for u in range(6)}
    chosen = some_of_each_speaker(speakers, 6)
    assert list(chosen) == ["a-0", "a-1", "a-2", "a-3", "b-0", "b-1"]
    assert chosen["b-1"] == "b"


def test_pairs_within_and_between_speakers():
    at = {"a1": (1, 0), "a2": (2, 0), "b1": (0, 3)}
    embeddings = {utt: np.array(v, float) for utt, v in at.items()}
    same, other = cosines(embeddings, {utt: utt[0] for utt in at})
    assert same.tolist() == [1.0] and other.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("same, other, rate", [
    ([0.9, 0.8], [0.1, 0.2], 0.0),
    ([0.1, 0.2], [0.8, 0.9], 1.0),
    ([0.1, 0.6, 0.7, 0.8], [0.2, 0.3, 0.4, 0.9], 0.25),
])  # fmt: skip
def test_the_equal_error_rate(same, other, rate):
    assert equal_error_rate(np.array(same), np.array(other)) == pytest.approx(rate)


def test_samples_are_given_as_16_bits():
    class Recogniser:
        def start_utt(self):
            self.given = []

        def process_raw(self, data, full_utt):
            self.given.append(np.frombuffer(data, np.int16).tolist())

        def end_utt(self):
            pass

        def hyp(self):
            return None

    recogniser = Recogniser()
    assert recognised(recogniser, np.array([0.0, 1.0, -0.5], np.float32)) == ""
    assert recogniser.given == [[0, 32767, -16383]]


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ConfigError, match=r"espnet_des\[check-voices\]"):
        check_voices([tmp_path])
