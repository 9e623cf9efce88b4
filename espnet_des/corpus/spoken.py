"""Spoken text in the directory layout of LibriSpeech.

Everything is synthesised from a fixed seed: a fresh process makes the same
corpus again (espeak-ng carries some state from one utterance to the next, so
two in one process differ in their noise). Speakers of the test sets occur
nowhere else; part of the training set, and one test set, are noisy.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_des.corpus.espeak import Speaker, Synthesizer, add_noise
from espnet_des.corpus.kaldi import check_ours
from espnet_des.corpus.text import Text
from espnet_des.utils.progress import progress

SAMPLE_RATE = 16000
DONE = ".done"  # says of what a corpus is


@dataclass(frozen=True)
class Part:
    """One set of the corpus.

    Attributes:
        name: of its folder.
        speakers: number of its speakers, all its own.
        utterances: per speaker.
        noisy: share of the utterances with noise.
        snr_db: lowest and highest signal-to-noise ratio.
    """

    name: str
    speakers: int
    utterances: int
    noisy: float = 0.0
    snr_db: tuple[float, float] = (10.0, 35.0)


@dataclass(frozen=True)
class Corpus:
    """What a generated corpus consists of.

    Attributes:
        text: what is said.
        parts: its sets.
    """

    text: Text
    parts: tuple[Part, ...]


def speak(out: Path, corpus: Corpus, seed: int = 0, scale: float = 1.0) -> None:
    """Generate a corpus, or do nothing where it is complete.

    Args:
        out: its folder; gets ``LibriSpeech/<part>/<speaker>/<chapter>/...``.
        corpus: what to speak.
        seed: same seed, same corpus.
        scale: of the number of speakers, to make a smaller one for tests.

    Raises:
        DataError: where the folder holds something else. It is not touched.
    """
    done = out / DONE
    wanted = f"seed {seed}, scale {scale}, {corpus}\n"
    if done.exists() and done.read_text() == wanted:
        print(f"{out} is there already")
        return
    check_ours(out, DONE)
    synthesizer = Synthesizer()
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_corpus(partial / "LibriSpeech", corpus, seed, scale, synthesizer)
    # As LibriSpeech tells its books; data directories look at it.
    (partial / "LibriSpeech" / "BOOKS.TXT").write_text(f"; {wanted}")
    (partial / DONE).write_text(wanted)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def write_corpus(
    root: Path, corpus: Corpus, seed: int, scale: float, synthesizer: Synthesizer
) -> None:
    """Write ``<part>/<speaker>/<chapter>/...`` and the tables of LibriSpeech."""
    root.mkdir(parents=True)
    speaker_lines, chapter_lines = [], []
    number = 0
    for index, part in enumerate(corpus.parts):
        speakers = max(1, round(part.speakers * scale))
        bar = progress(
            total=speakers * part.utterances, desc=f"speaking {part.name}", unit="utt"
        )
        for _ in range(speakers):
            number += 1
            rng = np.random.default_rng([seed, index, number])
            speaker, chapter = Speaker.draw(rng, synthesizer.variants), 1000 + number
            folder = root / part.name / str(number) / str(chapter)
            folder.mkdir(parents=True)
            lines = []
            for u in range(part.utterances):
                text = corpus.text.draw(rng, part.name)
                wave = synthesizer.say(text.lower(), speaker, SAMPLE_RATE)
                if rng.random() < part.noisy:
                    wave = add_noise(wave, rng.uniform(*part.snr_db), rng)
                utt = f"{number}-{chapter}-{u:04d}"
                soundfile.write(folder / f"{utt}.flac", wave, SAMPLE_RATE)
                lines.append(f"{utt} {text}\n")
                bar.update()
            (folder / f"{number}-{chapter}.trans.txt").write_text("".join(lines))
            sex = "F" if speaker.pitch > 50 else "M"
            speaker_lines.append(
                f"{number} | {sex} | {part.name} | 1.00 | {speaker.accent}+{speaker.variant}\n"
            )
            chapter_lines.append(
                f"{chapter} | {number} | 1.00 | {part.name} | 0 | 0 | spoken | spoken\n"
            )
        bar.close()
    heads = {"SPEAKERS": "ID | SEX | SUBSET | MINUTES | NAME",
             "CHAPTERS": "ID | READER | MINUTES | SUBSET | ..."}  # fmt: skip
    for (name, head), lines in zip(heads.items(), (speaker_lines, chapter_lines)):
        (root / f"{name}.TXT").write_text(f"; {head}\n" + "".join(lines))
    (root / "LICENSE.TXT").write_text("Synthesised speech; no rights are reserved.\n")
