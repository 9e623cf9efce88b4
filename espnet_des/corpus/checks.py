"""What the corpus readers have in common: checks of their input, and reports."""

import codecs
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import soundfile


def audio_problem(audio: Path, sample_rate: int) -> str | None:
    """Why an audio file cannot be used, or None.

    Reads the header and the last sample: a FLAC file that was cut off has the
    header of the whole one.

    Args:
        audio: any format that soundfile reads.
        sample_rate: that it must have, in Hz.
    """
    if not audio.exists():
        return f"{audio.name} is missing"
    try:
        with soundfile.SoundFile(audio) as f:
            rate, frames = f.samplerate, f.frames
            f.seek(max(0, frames - 1))
            is_whole = len(f.read(1)) == min(1, frames)
    except (soundfile.SoundFileError, RuntimeError) as error:
        return f"{audio.name} cannot be read ({error})"
    if rate != sample_rate:
        return f"{audio.name} has {rate} Hz, not {sample_rate}"
    if not frames:
        return f"{audio.name} is empty"
    return None if is_whole else f"{audio.name} is cut off before its end"


def numbered_lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Lines of a text file: number from 1, text, and what is wrong or None."""
    # Editors of Windows begin a file with a mark that is no part of the first id.
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    for number, raw in enumerate(content.splitlines(), 1):
        line = raw.decode("utf-8", errors="replace")
        if b"\0" in raw:  # where a disk was full, or the file is UTF-16
            yield number, line.replace("\0", "\ufffd"), "the line has bytes that are zero"
        elif line.encode("utf-8") != raw:
            yield number, line, "the line is not UTF-8"
        else:
            yield number, line, None


@dataclass
class Skipped:
    """What was left out of a set, to be told at its end.

    >>> skipped = Skipped(folder)
    >>> skipped.add("talk.stm:3: no words")
    >>> skipped.report(kept=41)
    """

    folder: Path
    reasons: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, reason: str, utterances: int = 1) -> None:
        """Note a reason, and how many utterances are lost by it."""
        self.reasons.append(reason)
        self.count += utterances

    def report(self, kept: int) -> None:
        """Name all of it on stderr, with the number of utterances."""
        for reason in self.reasons:
            print(f"skipped {reason}", file=sys.stderr)
        if self.reasons:
            print(f"{self.folder}: skipped {self.count} of {self.count + kept} "
                  "utterances, named above", file=sys.stderr)  # fmt: skip
