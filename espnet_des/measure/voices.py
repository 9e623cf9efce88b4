"""Whether generated speech is intelligible, and whether its speakers differ."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_des.corpus.kaldi import read_table
from espnet_des.deploy.onnx.recognise import transcriptions
from espnet_des.errors import ConfigError
from espnet_des.inference.scoring import count_errors
from espnet_des.utils.audio import find_audio, read_mono
from espnet_des.utils.progress import progress

RATE = 16000
PER_SPEAKER = 4  # utterances


class Voices(NamedTuple):
    """What was found of a data set.

    Attributes:
        utterances: number of them.
        speakers: number of them.
        wer: percent, of pocketsphinx with the acoustic and the language model that it brings.
        same: mean cosine of the embeddings of two utterances of a speaker.
        other: of two speakers.
        eer: percent, the equal error rate of telling these apart.
    """

    utterances: int
    speakers: int
    wer: float
    same: float
    other: float
    eer: float


def check_voices(data: Sequence[Path], utterances: int = 200) -> dict[str, Voices]:
    """Recognise some of the speech with another recogniser, and compare its speakers.

    Args:
        data: folders with ``wav.scp``, ``text`` and ``utt2spk``.
        utterances: of each folder, four a speaker; the first ones.

    Raises:
        ConfigError: where pocketsphinx or Resemblyzer, which neither ESPnet nor this project
            needs otherwise, are not installed, or a folder has too few speakers.
    """
    try:
        import pocketsphinx
        from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError as error:
        raise ConfigError(
            f"{error}: pip install '/path/to/espnet_des[check-voices]', best in an environment of "
            "its own"
        ) from error
    recogniser = pocketsphinx.Decoder(loglevel="ERROR")
    encoder, found = VoiceEncoder("cpu", verbose=False), {}
    for folder in data:
        chosen = some_of_each_speaker(read_table(folder / "utt2spk"), utterances)
        wavs = {
            utt: path for utt, path in find_audio(folder / "wav.scp").items() if utt in chosen
        }
        texts = transcriptions(wavs, folder / "wav.scp", folder / "text")
        heard, embeddings = {}, {}
        for utt in progress(chosen, desc=folder.name, unit="utt"):
            wave = read_mono(wavs[utt], RATE)
            heard[utt] = recognised(recogniser, wave)
            embeddings[utt] = encoder.embed_utterance(preprocess_wav(wave, RATE))
        same, other = cosines(embeddings, chosen)
        if not (len(same) and len(other)):
            raise ConfigError(f"data: {folder}: two speakers of two utterances are the least")
        found[folder.name] = row = Voices(
            len(chosen), len(set(chosen.values())),
            count_errors(texts, heard).rate,
            float(same.mean()), float(other.mean()), 100 * equal_error_rate(same, other),
        )  # fmt: skip
        print(
            f"{folder.name}: {row.utterances} utterances of {row.speakers} speakers; WER of "
            f"pocketsphinx {row.wer:.1f}%; cosine within speakers {row.same:.2f}, between them "
            f"{row.other:.2f}, equal error rate {row.eer:.1f}%"
        )
    return found


def some_of_each_speaker(speakers: dict[str, str], utterances: int) -> dict[str, str]:
    """Utterance to speaker, of the first speakers and their first utterances."""
    counts: dict[str, int] = {}
    chosen = {}
    for utt, speaker in sorted(speakers.items()):
        counts[speaker] = counts.get(speaker, 0) + 1
        if counts[speaker] <= PER_SPEAKER:
            chosen[utt] = speaker
    return dict(itertools.islice(chosen.items(), utterances))


def recognised(recogniser, wave: np.ndarray) -> str:
    """The text of samples ``(num_samples,)`` in -1 to 1."""
    recogniser.start_utt()
    recogniser.process_raw((wave * 32767).astype(np.int16).tobytes(), full_utt=True)
    recogniser.end_utt()
    best = recogniser.hyp()
    return best.hypstr if best else ""


def cosines(
    embeddings: dict[str, np.ndarray], speakers: dict[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Of all pairs of utterances of a speaker, and of all pairs of others."""
    of_one: tuple[list[float], list[float]] = ([], [])
    for one, two in itertools.combinations(embeddings, 2):
        a, b = embeddings[one], embeddings[two]
        cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        of_one[speakers[one] != speakers[two]].append(cosine)
    return np.array(of_one[0]), np.array(of_one[1])


def equal_error_rate(same: np.ndarray, other: np.ndarray) -> float:
    """Where as large a share of ``same`` is below a threshold as of ``other`` is above it.

    >>> equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2]))
    0.0
    """
    thresholds = np.sort(np.concatenate([same, other]))
    missed = np.searchsorted(np.sort(same), thresholds, "left") / len(same)
    let_in = 1 - np.searchsorted(np.sort(other), thresholds, "left") / len(other)
    at = int(np.argmin(np.abs(missed - let_in)))
    return float((missed[at] + let_in[at]) / 2)
