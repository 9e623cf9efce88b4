"""TED-LIUM release 2 as distributed, to Kaldi-style data directories.

    TEDLIUM_release2/<set>/sph/<talk>.sph
    TEDLIUM_release2/<set>/stm/<talk>.stm

Text, ids and padding follow ESPnet's recipe (egs2/tedlium2/asr1/local), so that
results can be compared.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from espnet_des.corpus.checks import Skipped, audio_problem, numbered_lines
from espnet_des.corpus.kaldi import (
    DataError,
    Utterance,
    check_path,
    is_made,
    origin,
    write_data_dirs,
)
from espnet_des.utils.progress import progress

URL = "https://www.openslr.org/19"
SETS = ("train", "dev", "test")
IGNORED = "ignore_time_segment_in_scoring"
# As Kaldi's extract-segments: what ends later than this after the audio is wrong,
# what ends earlier is cut at its end.
OVERSHOOT_SECONDS = 0.5


@dataclass(frozen=True)
class Segment:
    """A usable line of an STM file.

    Attributes:
        place: file and number of the line, for messages.
        talk: name of the recording, without a suffix.
        begin: seconds into it.
        end: seconds into it.
        text: words separated by one space.
    """

    place: str
    talk: str
    begin: float
    end: float
    text: str

    @property
    def utt(self) -> str:
        """Id: talk, begin and end in hundredths of a second.

        Cut off as by the awk of ESPnet's recipe, so that its data and models know the same
        ids: 1.15 s is 114 there, because the binary fraction is a little less.
        """
        return f"{self.talk}-{int(self.begin * 100):07d}-{int(self.end * 100):07d}"


def prepare_tedlium2(
    corpus: Path,
    data: Path,
    sample_rate: int = 16000,
    train_padding: tuple[float, float] = (0.15, 0.1),
) -> None:
    """Make ``data/train``, ``data/dev`` and ``data/test``.

    A talk is a recording and a speaker. Ids carry the times of the STM file.

    Args:
        corpus: folder ``TEDLIUM_release2``, or the one that holds it.
        data: where the directories go.
        sample_rate: that every file must have, in Hz.
        train_padding: seconds by which training segments begin earlier and end
            later, as far as their neighbours allow: they are cut too close.

    Raises:
        DataError: where the corpus is not complete; nothing is written then.
    """
    inner = corpus / "TEDLIUM_release2"
    root = Path(check_path(os.path.abspath(inner if inner.is_dir() else corpus)))
    parts = [f"{name}/{kind}" for name in SETS for kind in ("sph", "stm")]
    missing = [part for part in parts if not (root / part).is_dir()]
    if missing:
        raise DataError(
            f"{root} lacks {', '.join(missing)}. Get TED-LIUM release 2 from {URL}, unpack "
            "it, and give the folder that holds TEDLIUM_release2/ as TEDLIUM2 in db.sh"
        )
    made_of = {data / name: origin(root, [name]) for name in SETS}
    there = [name for name in SETS if is_made(data / name, made_of[data / name])]
    if there:
        print(f"{data}: {', '.join(there)} are there already")
    found = {}
    for name in [name for name in SETS if name not in there]:
        padding = train_padding if name == "train" else (0.0, 0.0)
        found[data / name] = _read_set(root / name, sample_rate, padding)
    counts = write_data_dirs(found, made_of)
    for folder, count in counts.items():
        print(f"{folder}: {count} utterances")


def clean_text(words: str) -> str:
    """Words of an STM line as ESPnet's recipe wants them.

    Pronunciation marks, pauses and an utterance name at the end go, noises
    are put in square brackets, clitics join their word; ``<unk>`` stays.

    >>> clean_text("<sil> it 's read(2) {NOISE} <unk> (Talk-1.00-2.00)")
    "it's read [NOISE] <unk>"
    """
    words = re.sub(r"\([0-9]\)", "", words).replace("<sil>", "")
    words = re.sub(r"\(\S*\)$", "", words.strip())
    words = words.replace("{", "[").replace("}", "]")
    return " ".join(words.split()).replace(" '", "'")


def _read_set(folder: Path, sample_rate: int, padding: tuple[float, float]) -> list[Utterance]:
    files = sorted((folder / "stm").glob("*.stm"))
    if not files:
        raise DataError(f"{folder}/stm holds no .stm file: is it unpacked? See {URL}")
    skipped = Skipped(folder)
    talks: dict[str, list[Segment]] = {}
    for path in files:
        for segment in _read_stm(path, skipped):
            talks.setdefault(segment.talk, []).append(segment)
    for audio in sorted((folder / "sph").glob("*.sph")):
        if audio.stem not in talks and not (folder / "stm" / f"{audio.stem}.stm").exists():
            skipped.add(f"{audio}: stm/{audio.stem}.stm is missing", utterances=0)
    utterances: list[Utterance] = []
    for talk, segments in progress(talks.items(), desc=f"reading {folder.name}", unit="talk"):
        audio = folder / "sph" / f"{talk}.sph"
        problem = audio_problem(audio, sample_rate)
        if problem:
            skipped.add(f"{audio}: {problem}: {len(segments)} utterances", len(segments))
            continue
        seconds = soundfile.info(audio).frames * 100 // sample_rate / 100
        inside = _inside(segments, seconds, skipped)
        for s, (begin, end) in zip(inside, _padded(inside, seconds, padding)):
            if end <= begin:
                skipped.add(f"{s.place}: less than 0.01 s is left of {s.begin} to {s.end} s")
                continue
            utterances.append(Utterance(s.utt, talk, s.text, audio, begin, end))
    skipped.report(kept=len(utterances))
    return utterances


def _read_stm(path: Path, skipped: Skipped) -> list[Segment]:
    segments = []
    for number, line, problem in numbered_lines(path):
        if not line.strip() or line.startswith(";;") or IGNORED in line.lower():
            continue
        place = f"{path}:{number}"
        try:
            if problem:
                raise ValueError(problem)
            segments.append(_parse(place, line))
        except ValueError as error:
            skipped.add(f"{place}: {error}")
    return segments


def _parse(place: str, line: str) -> Segment:
    """A line of an STM file; ValueError says what is wrong with it."""
    fields = line.split(maxsplit=6)
    if len(fields) < 6:
        raise ValueError(
            f"{len(fields)} fields, not `file channel speaker begin end <label> words`"
        )
    if "/" in fields[0]:
        raise ValueError(f"{fields[0]!r} is no name of a recording in sph/")
    begin, end = (_seconds(text) for text in fields[3:5])
    if end <= begin:
        raise ValueError(f"the end, {end} s, is not after the begin, {begin} s")
    if not re.fullmatch(r"<\S+>", fields[5]):
        raise ValueError(f"{fields[5]!r} is no label like <o,f0,male>")
    words = fields[6].strip() if len(fields) > 6 else ""
    text = clean_text(words)
    if not text:
        raise ValueError(f"no words in {words!r}")
    return Segment(place, fields[0], begin, end, text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{text!r} is no time in seconds")
    return value


def _inside(segments: Sequence[Segment], seconds: float, skipped: Skipped) -> list[Segment]:
    """Segments that the audio holds, each once, in the order of their middle."""
    inside: dict[str, Segment] = {}
    for s in segments:
        if s.end > seconds + OVERSHOOT_SECONDS or s.begin >= seconds:
            skipped.add(
                f"{s.place}: {s.begin} to {s.end} s, but the audio ends at {seconds} s"
            )
        elif s.utt in inside:
            skipped.add(f"{s.place}: {s.utt} repeats {inside[s.utt].place}")
        else:
            inside[s.utt] = s
    return sorted(inside.values(), key=lambda s: s.begin + s.end)


def _padded(
    segments: Sequence[Segment], seconds: float, padding: tuple[float, float]
) -> list[list[float]]:
    """Begin and end of each segment in seconds, to 0.01 s, longer by the padding.

    Neighbours that would overlap by it meet in the middle, as Kaldi's
    extend_segment_times.py has it.
    """
    before, after = padding
    times = [[max(0.0, s.begin - before), min(seconds, s.end + after)] for s in segments]
    if before or after:
        for one, two in zip(times, times[1:]):
            if one[1] > two[0]:
                one[1] = two[0] = (one[1] + two[0]) / 2
    return [[round(begin, 2), round(end, 2)] for begin, end in times]
