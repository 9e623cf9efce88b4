"""Spoken text in the directory layout of LibriSpeech.

Everything is synthesised from a fixed seed: a fresh process makes the same
corpus again (espeak-ng carries some state from one utterance to the next, so
two in one process differ in their noise). Speakers of the test sets occur
nowhere else; part of the training set, and one test set, are noisy.

Voices whose speakers do not depend on each other are spoken by several
processes; stopped at any point, the same call goes on where it stopped.
"""

import functools
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from espnet_des.corpus import espeak, kokoro
from espnet_des.corpus.kaldi import DataError, check_ours
from espnet_des.corpus.noise import add_noise
from espnet_des.corpus.text import Text
from espnet_des.utils.files import write_atomically
from espnet_des.utils.progress import progress

SAMPLE_RATE = 16000
DONE = ".done"  # says of what a corpus is


class Synthesizer(Protocol):
    """Voices.

    Attributes:
        INDEPENDENT: whether what is said does not depend on what was said before.
    """

    INDEPENDENT: bool

    def draw(self, rng: np.random.Generator, part: str) -> Any:
        """A speaker of a set, with a ``sex``, whose text is its name."""

    def say(self, text: str, speaker: Any, sample_rate: int) -> np.ndarray:
        """Samples ``(num_samples,)``."""


# By name; a folder keeps what they need.
VOICES: dict[str, Callable[[Path], Synthesizer]] = {
    "espeak": lambda folder: espeak.Synthesizer(),
    "kokoro": kokoro.Synthesizer,
}


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
        voices: whose voices say it, of :data:`VOICES`.
    """

    text: Text
    parts: tuple[Part, ...]
    voices: str = "espeak"


@dataclass(frozen=True)
class Task:
    """A speaker who is to speak.

    Attributes:
        seed: of the corpus.
        index: of the set.
        part: the set.
        number: of the speaker.
    """

    seed: int
    index: int
    part: Part
    number: int

    @property
    def chapter(self) -> int:
        return 1000 + self.number


def speak(
    out: Path, corpus: Corpus, seed: int = 0, scale: float = 1.0, jobs: int | None = None
) -> None:
    """Generate a corpus, or do nothing where it is complete.

    Args:
        out: its folder; gets ``LibriSpeech/<part>/<speaker>/<chapter>/...``.
        corpus: what to speak.
        seed: same seed, same corpus.
        scale: of the number of speakers, to make a smaller one for tests.
        jobs: processes, where the voices can be spoken by several; all processors by default.

    Raises:
        DataError: where the folder holds something else or another corpus, which is not
            touched, or what the voices need is missing.
    """
    if jobs is not None and jobs < 1:
        raise DataError(f"jobs: {jobs} must be at least 1; left out it is the processors")
    done = out / DONE
    wanted = f"seed {seed}, scale {scale}, {corpus}\n"
    if done.exists():
        check_same_corpus(out, done.read_text(), wanted)
        print(f"{out} is there already")
        return
    check_ours(out, DONE)
    make = functools.partial(VOICES[corpus.voices], out.with_name(f"{corpus.voices}.files"))
    synthesizer = make()
    partial = out.with_name(out.name + ".partial")
    books = partial / "LibriSpeech" / "BOOKS.TXT"
    if synthesizer.INDEPENDENT and books.exists():
        check_same_corpus(partial, books.read_text().removeprefix("; "), wanted)
    else:
        shutil.rmtree(partial, ignore_errors=True)
        books.parent.mkdir(parents=True)
        # As LibriSpeech tells its books; data directories look at it.
        books.write_text(f"; {wanted}")
    tasks = tasks_of(corpus, seed, scale)
    write_tables(books.parent, tasks, synthesizer)
    left = [task for task in tasks if not transcript(books.parent, task).exists()]
    jobs = min(jobs or os.cpu_count() or 1, len(left)) if synthesizer.INDEPENDENT else 1
    total, missing = (sum(t.part.utterances for t in some) for some in (tasks, left))
    with progress(total=total, initial=total - missing, desc="speaking", unit="utt") as bar:
        for task in all_spoken(left, books.parent, corpus.text, make, synthesizer, jobs):
            bar.set_postfix_str(task.part.name, refresh=False)
            bar.update(task.part.utterances)
    (partial / DONE).write_text(wanted)
    shutil.rmtree(out, ignore_errors=True)  # at most an empty one
    partial.rename(out)


def check_same_corpus(folder: Path, found: str, wanted: str) -> None:
    """Refuse to replace hours of work by another corpus, or by a smaller one."""
    if found != wanted:
        raise DataError(
            f"{folder} holds another corpus ({found.strip()}) than the one asked for "
            f"({wanted.strip()}): give another --out, or remove it"
        )


def tasks_of(corpus: Corpus, seed: int, scale: float) -> list[Task]:
    """All speakers, numbered from 1 through all sets."""
    parts = [
        (index, part)
        for index, part in enumerate(corpus.parts)
        for _ in range(max(1, round(part.speakers * scale)))
    ]
    return [Task(seed, index, part, n) for n, (index, part) in enumerate(parts, start=1)]


def transcript(root: Path, task: Task) -> Path:
    """Written when the speaker has finished."""
    folder = root / task.part.name / str(task.number) / str(task.chapter)
    return folder / f"{task.number}-{task.chapter}.trans.txt"


def draw_speaker(task: Task, synthesizer: Synthesizer) -> tuple[Any, np.random.Generator]:
    """The speaker, and what draws its words and noise."""
    rng = np.random.default_rng([task.seed, task.index, task.number])
    return synthesizer.draw(rng, task.part.name), rng


def all_spoken(
    tasks: list[Task], root: Path, text: Text, make: Callable[[], Synthesizer],
    synthesizer: Synthesizer, jobs: int,
) -> Iterator[Task]:  # fmt: skip
    """Let them speak, here or in several processes; each task once its speaker has finished."""
    if jobs <= 1:
        for task in tasks:
            speak_one(root, text, synthesizer, task)
            yield task
        return
    # onnxruntime has threads, which a fork breaks.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, _make_here, (make,)) as pool:
        finished: Iterable[Task] = pool.map(_speak_there, [(root, text, t) for t in tasks])
        yield from finished


_here: list[Synthesizer] = []  # of a process of the pool


def _make_here(make: Callable[[], Synthesizer]) -> None:
    _here.append(make())


def _speak_there(arguments: tuple[Path, Text, Task]) -> Task:
    root, text, task = arguments
    speak_one(root, text, _here[0], task)
    return task


def speak_one(root: Path, text: Text, synthesizer: Synthesizer, task: Task) -> None:
    """Write the audio of a speaker, then the transcript."""
    speaker, rng = draw_speaker(task, synthesizer)
    file, lines = transcript(root, task), []
    file.parent.mkdir(parents=True, exist_ok=True)
    for u in range(task.part.utterances):
        words = text.draw(rng, task.part.name)
        wave = synthesizer.say(words.lower(), speaker, SAMPLE_RATE)
        if rng.random() < task.part.noisy:
            wave = add_noise(wave, rng.uniform(*task.part.snr_db), rng)
        utt = f"{task.number}-{task.chapter}-{u:04d}"
        soundfile.write(file.parent / f"{utt}.flac", wave, SAMPLE_RATE)
        lines.append(f"{utt} {words}\n")
    write_atomically(file, lambda p: p.write_text("".join(lines)))


def write_tables(root: Path, tasks: list[Task], synthesizer: Synthesizer) -> None:
    """The tables of LibriSpeech."""
    speaker_lines, chapter_lines = [], []
    for task in tasks:
        speaker, _ = draw_speaker(task, synthesizer)
        speaker_lines.append(
            f"{task.number} | {speaker.sex} | {task.part.name} | 1.00 | {speaker}\n"
        )
        chapter_lines.append(
            f"{task.chapter} | {task.number} | 1.00 | {task.part.name} | 0 | 0 | spoken | "
            "spoken\n"
        )
    heads = {"SPEAKERS": "ID | SEX | SUBSET | MINUTES | NAME",
             "CHAPTERS": "ID | READER | MINUTES | SUBSET | ..."}  # fmt: skip
    for (name, head), lines in zip(heads.items(), (speaker_lines, chapter_lines)):
        (root / f"{name}.TXT").write_text(f"; {head}\n" + "".join(lines))
    (root / "LICENSE.TXT").write_text("Synthesised speech; no rights are reserved.\n")
