"""Tiny LibriSpeech and TED-LIUM 2, spoken by espeak-ng, in their exact layouts.

    python -m tests.make_corpora librispeech FOLDER
    python -m tests.make_corpora tedlium2 FOLDER

Some 40 utterances of 1 to 3 s for training and 8 in each other set, of few
words, so that about 30 BPE units can be trained. It takes a few seconds.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile

from espnet_des.corpus.espeak import Speaker, Synthesizer
from espnet_des.corpus.tedlium2 import SETS

WORDS = (
    "water house green paper morning people little under river garden seven table bread "
    "winter summer open letter window yellow mountain happy children music orange friend "
    "kitchen it's we're don't i'll"
).split()
SAMPLE_RATE = 16000
TRAIN_TALKS = 5
LIBRISPEECH_SETS = (
    "train-clean-100", "train-clean-360", "train-other-500",
    "dev-clean", "dev-other", "test-clean", "test-other",
)  # fmt: skip
# Two per set; sorted as text they come in another order than as numbers.
READERS = (7, 8, 19, 26, 103, 125, 1034, 1088, 84, 174, 61, 121, 367, 533)


class Voice:
    """One speaker who says random sentences."""

    def __init__(self, synthesizer: Synthesizer, seed: list[int]):
        self.rng = np.random.default_rng(seed)
        self.synthesizer = synthesizer
        self.speaker = Speaker.draw(self.rng, synthesizer.variants)
        self.is_male = self.speaker.pitch <= 50

    def say_something(self, must_have: str | None = None):
        """Text of 4 to 7 words in lower case, and ``(num_samples,)`` of speech."""
        words = [str(w) for w in self.rng.choice(WORDS, self.rng.integers(4, 8))]
        if must_have:
            words[int(self.rng.integers(len(words)))] = must_have
        text = " ".join(words)
        return text, self.synthesizer.say(text, self.speaker, SAMPLE_RATE)


def make_librispeech(
    folder: Path,
    utterances_per_speaker: int = 7,
    eval_utterances_per_speaker: int = 4,
    seed: int = 0,
) -> Path:
    """Generate all seven sets, two speakers of one chapter each.

    Args:
        folder: gets ``LibriSpeech/``.
        utterances_per_speaker: in the three training sets.
        eval_utterances_per_speaker: in the four others.

    Returns:
        The folder ``LibriSpeech``.
    """
    root = folder / "LibriSpeech"
    synthesizer = Synthesizer()
    speakers, chapters = [], []
    for index, name in enumerate(LIBRISPEECH_SETS):
        is_train = name.startswith("train")
        count = utterances_per_speaker if is_train else eval_utterances_per_speaker
        for reader in READERS[2 * index : 2 * index + 2]:
            chapter = 1000 + 7 * reader
            voice = Voice(synthesizer, [seed, 0, reader])
            place = root / name / str(reader) / str(chapter)
            place.mkdir(parents=True)
            seconds, lines = 0.0, []
            for u in range(count):
                text, wave = voice.say_something()
                utt = f"{reader}-{chapter}-{u:04d}"
                soundfile.write(place / f"{utt}.flac", wave, SAMPLE_RATE)
                lines.append(f"{utt} {text.upper()}\n")
                seconds += len(wave) / SAMPLE_RATE
            (place / f"{reader}-{chapter}.trans.txt").write_text("".join(lines))
            sex = "M" if voice.is_male else "F"
            minutes = f"{seconds / 60:.2f}"
            speakers.append(
                f"{reader:<4} | {sex} | {name:<16} | {minutes:<5} | Reader {reader}\n"
            )
            chapters.append(f"{chapter:<6} | {reader:<6} | {minutes:<5} | {name:<16} | 1    "
                            "| 1    | Chapter | Book\n")  # fmt: skip
    (root / "SPEAKERS.TXT").write_text(
        "; Synthetic readers\n;ID  |SEX| SUBSET           |MINUTES| NAME\n" + "".join(speakers)
    )
    (root / "CHAPTERS.TXT").write_text(
        ";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE\n"
        + "".join(chapters)
    )
    (root / "BOOKS.TXT").write_text(";ID   | AUTHOR | TITLE\n1    | nobody | Book\n")
    (root / "LICENSE.TXT").write_text("Synthesised speech; no rights are reserved.\n")
    (root / "README.TXT").write_text("A tiny synthetic corpus in the layout of LibriSpeech.\n")
    return root


def make_tedlium2(folder: Path, segments_per_talk: int = 8, seed: int = 0) -> Path:
    """Generate train (5 talks), dev and test (one talk each).

    Args:
        folder: gets ``TEDLIUM_release2/``.
        segments_per_talk: transcribed ones; a gap lies before each.

    Returns:
        The folder ``TEDLIUM_release2``.
    """
    root = folder / "TEDLIUM_release2"
    synthesizer = Synthesizer()
    for index, name in enumerate(SETS):
        for kind in ("sph", "stm"):
            (root / name / kind).mkdir(parents=True)
        for number in range(TRAIN_TALKS if name == "train" else 1):
            talk = f"{name.capitalize()}Speaker{'ABCDE'[number]}_2010"
            voice = Voice(synthesizer, [seed, 1, index, number])
            _write_talk(root / name, talk, voice, segments_per_talk, is_dev=name == "dev")
    # Spelt out: nothing reads the pronunciations.
    words = sorted({part for word in WORDS for part in _split(word).split()})
    (root / "TEDLIUM.152k.dic").write_text(
        "".join(f"{w} {' '.join(w.upper().strip(chr(39)))}\n" for w in words)
    )
    (root / "README").write_text("A tiny synthetic corpus in the layout of TED-LIUM 2.\n")
    return root


def _write_talk(folder: Path, talk: str, voice: Voice, segments: int, is_dev: bool) -> None:
    sex = "male" if voice.is_male else "female"
    # Release 2 labels its dev set otherwise than the other two.
    label = f"<F0_{sex[0].upper()}>" if is_dev else f"<o,f0,{sex}>"
    pieces, lines, now = [], [], 0.0
    for number in range(segments):
        text, speech = voice.say_something("it's" if number == 0 else None)
        gap = 0.001 * voice.rng.standard_normal(
            int(voice.rng.integers(5, 12)) * SAMPLE_RATE // 10
        )
        begin = now + len(gap) / SAMPLE_RATE
        # To the next 0.01 s, where the next gap begins.
        speech = np.pad(speech, (0, -len(speech) % (SAMPLE_RATE // 100)))
        end = begin + len(speech) / SAMPLE_RATE
        lines.append(f"{talk} 1 inter_segment_gap {now:.2f} {begin:.2f} <o,,unknown> "
                     "ignore_time_segment_in_scoring\n")  # fmt: skip
        lines.append(f"{talk} 1 {talk} {begin:.2f} {end:.2f} {label} {_split(text)}\n")
        pieces += [gap, speech]
        now = end
    wave = np.concatenate(pieces)
    soundfile.write(folder / "sph" / f"{talk}.sph", wave, SAMPLE_RATE, "PCM_16", format="NIST")
    (folder / "stm" / f"{talk}.stm").write_text("".join(lines))


def _split(text: str) -> str:
    """Clitics as words of their own, as in the STM files of release 2."""
    return text.replace("'", " '")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", choices=["librispeech", "tedlium2"])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    make = {"librispeech": make_librispeech, "tedlium2": make_tedlium2}[args.corpus]
    print(make(args.folder))


if __name__ == "__main__":
    main()
