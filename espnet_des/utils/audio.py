"""Audio files: which ones are meant, and their samples at a model's rate."""

import collections
import contextlib
import errno
import io
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from espnet_des.utils.ark import NoSoundError, find_place, read_sound
from espnet_des.utils.riff import WithLength, find_sound

# Names by which a folder's audio files are known: of what libsndfile reads.
SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au",
            ".snd", ".caf", ".sph", ".nist", ".w64", ".rf64"}  # fmt: skip
# Full scale is 1; what is louder than this overflows in float32 as soon as it is squared.
LOUDEST = 1e12
LOWEST_RATE = 1000  # samples per second
LENGTH_TOLERANCE = 0.1  # seconds: some encoders count their padding
# What Kaldi's tables may hold besides paths.
COMMAND, IN_ARCHIVE = re.compile(r"\|$|^\|"), re.compile(r"\.ark:\d+")
MISSING = "no such file"
# What a name can stand for besides a file.
KINDS = ((stat.S_ISDIR, "is a folder"), (stat.S_ISFIFO, "is a pipe"),
         (stat.S_ISCHR, "is a device"), (stat.S_ISBLK, "is a device"),
         (stat.S_ISSOCK, "is a socket"))  # fmt: skip


class AudioError(ValueError):
    """Audio that cannot be used: says which, and what would be right."""


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        frames: samples of each channel.
        rate: samples per second.
        channels: their number.
    """

    frames: int
    rate: int
    channels: int


def find_audio(source: Path) -> dict[str, str]:
    """Utterance id to path, in the order of the source.

    Args:
        source: a folder, searched at any depth (links to folders are not
            followed) for files of the formats that soundfile reads; a Kaldi
            table with a name in ``.scp`` (``utt path`` lines, also with
            ``data.ark:123``, a sound in an archive, for a path); any other text
            file is a list of paths; or an audio file.
            Paths are relative to the working directory, as Kaldi's are. Where
            no ids are given, the id is the file's name without its suffix;
            white space in it becomes ``_``, with one notice, because ids
            cannot have it: ``my talk.wav`` is utterance ``my_talk``.

    Raises:
        AudioError: where the source names no audio, or an id twice.
    """
    source = Path(source)
    if source.is_dir():
        return _with_ids(_search(source), source)
    if why := no_file(source):
        why = "does not exist" if why == MISSING else why
        raise AudioError(
            f"input: {source} {why}; give a folder of audio files, a wav.scp or a list of paths"
        )
    if source.suffix.lower() in SUFFIXES:
        return _with_ids([str(source)], source)
    try:
        # Editors of Windows begin a file with a mark that is no part of the first id.
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(
            f"input: {source} cannot be read as a list ({error}); give a text file (UTF-8) "
            "with one path a line, a wav.scp, or a folder of audio files"
        ) from error
    is_table = source.suffix == ".scp"
    found = (
        _table_lines(lines, source) if is_table
        else _with_ids(_list_lines(lines, source).values(), source)
    )  # fmt: skip
    if not found:
        raise AudioError(f"input: {source} is empty; it must name at least one audio file")
    return found


def _search(folder: Path) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise AudioError(f"input: {error.filename} cannot be searched ({error.strerror})")

    found = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, onerror=refuse)
        for name in names
        # Hidden ones are leavings of other programs (._name.wav of macOS).
        if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise AudioError(
            f"input: {folder} holds no audio file; looked for {', '.join(sorted(SUFFIXES))}"
        )
    return sorted(found)


def _with_ids(paths: Iterable[str], source: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    spaced = []
    for path in paths:
        stem = Path(path).stem
        utt = re.sub(r"\s", "_", stem)
        if utt != stem:
            spaced.append(path)
        if not utt:
            raise AudioError(f"input: {source}: {path!r} must be the path of an audio file")
        if re.search("[\ud800-\udfff]", path):
            raise AudioError(
                f"input: {source}: {path!r} is not UTF-8 in its name, which transcripts are "
                "written in; rename it"
            )
        if utt in found:
            raise AudioError(
                f"input: {source}: {found[utt]} and {path} would both be utterance {utt}; "
                "give a wav.scp ('utt path' lines) with an id for each file"
            )
        found[utt] = path
    if spaced:
        logging.warning(
            f"input: {source}: {len(spaced)} files have white space in their names, which an "
            f"utterance id cannot have: it is _ in their ids, as for {spaced[0]!r}; give a "
            "wav.scp for ids of your own"
        )
    return found


def _table_lines(lines: Iterable[str], source: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in _numbered(lines, source):
        utt, *rest = line.split(maxsplit=1)
        if not rest:
            raise AudioError(
                f"input: {source}:{number}: {line!r} must be 'utt path'; a list of paths "
                "alone must not be called .scp"
            )
        if IN_ARCHIVE.search(rest[0]) and find_place(rest[0]) is None:
            raise AudioError(
                f"input: {source}:{number}: {rest[0]!r}: only whole sounds of archives are read, "
                "such as data.ark:123"
            )
        if utt in found:
            raise AudioError(
                f"input: {source}:{number}: utterance {utt} occurs twice; give each line "
                "an id of its own"
            )
        found[utt] = rest[0]
    return found


def _list_lines(lines: Iterable[str], source: Path) -> dict[int, str]:
    found = dict(_numbered(lines, source))
    for number, line in found.items():
        if IN_ARCHIVE.search(line):
            raise AudioError(
                f"input: {source}:{number}: {line!r} is a place in an archive, which has no "
                "name: give 'utt place' lines, in a file called .scp"
            )
        rest = line.split(maxsplit=1)[1:]
        if rest and not os.path.exists(line) and os.path.exists(rest[0]):
            raise AudioError(
                f"input: {source}:{number}: {line!r} looks like 'utt path'; call the file "
                ".scp if it is a Kaldi table"
            )
    return found


def _numbered(lines: Iterable[str], source: Path):
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if COMMAND.search(line):
            raise AudioError(
                f"input: {source}:{number}: {line!r} is a command; only audio is read: run it "
                "once, and list the files that it makes"
            )
        if line:
            yield number, line


def read_header(path: str) -> Header:
    """Length, rate and channels of a file, without reading its samples.

    Raises:
        AudioError: where it is no audio file that soundfile reads.
    """
    with _opened(path) as (f, _):
        found = Header(f.frames, f.samplerate, f.channels)
    if found.rate < LOWEST_RATE:  # resampled it would be enormous
        raise AudioError(
            f"{path}: has a rate of {found.rate} Hz; speech takes {LOWEST_RATE} at least"
        )
    return found


def read_mono(path: str, rate: int, first: int = 0, last: int | None = None) -> np.ndarray:
    """The samples of a file: channels averaged, resampled to ``rate``.

    Args:
        path: of the file, or a place in an archive (``data.ark:123``).
        rate: samples per second of the result.
        first: sample of the file with which to begin, from 0.
        last: before which to end; what the file lacks of it is left out.

    Returns:
        ``(samples,)``, float32, full scale is 1.

    Raises:
        AudioError: where the file is damaged, or has samples that are no numbers.
    """
    with _opened(path) as (f, told):
        end = told if last is None else min(last, told)
        count = max(0, end - first)
        if first:
            f.seek(min(first, f.frames))
        samples, own_rate = f.read(count, "float32", always_2d=True), f.samplerate
    # Of MP3 and WAV the rest is just not there.
    if count - len(samples) > LENGTH_TOLERANCE * own_rate:
        raise AudioError(
            f"{path}: holds {len(samples)} of the {count} samples that its header tells of; it "
            "was cut off, copy it again"
        )
    check_finite(samples, path)
    mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if own_rate != rate and len(mono):
        mono = soxr.resample(mono, own_rate, rate)
    return np.ascontiguousarray(mono)


def write_audio(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write samples ``(samples,)`` in the format of the file's suffix.

    Raises:
        AudioError: where they cannot be written, a full disk included.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be written ({error})") from error


def check_shape(wave, name: str) -> None:
    """Raise AudioError where a waveform is not ``(samples,)``, nor ``(samples, channels)``."""
    shape = tuple(wave.shape)
    if len(shape) not in (1, 2) or (len(shape) == 2 and 0 < shape[0] < shape[1]):
        raise AudioError(
            f"{name}: its shape is {shape}, but audio must be (samples,); of several channels "
            "take one, or their mean"
        )


def check_finite(samples: np.ndarray, name: str) -> None:
    """Raise AudioError where samples are NaN or infinite, or as good as that."""
    bad = int(np.size(samples) - (np.abs(samples) <= LOUDEST).sum())
    if bad:
        raise AudioError(
            f"{name}: {bad} of {np.size(samples)} samples are NaN or infinite (above "
            f"{LOUDEST:.0e}); audio must be finite numbers, with full scale at 1"
        )


def tell_conversions(headers: Iterable[Header], rate: int) -> None:
    """One notice on the files that are resampled, one on those with more channels."""
    headers = list(headers)
    rates = collections.Counter(h.rate for h in headers if h.rate != rate)
    several = collections.Counter(h.channels for h in headers if h.channels > 1)
    if rates:
        counts = ", ".join(f"{n} of {r} Hz" for r, n in sorted(rates.items()))
        logging.warning(
            f"{sum(rates.values())} of {len(headers)} files are resampled to the model's "
            f"{rate} Hz: {counts}"
        )
    if several:
        counts = ", ".join(f"{n} with {c} channels" for c, n in sorted(several.items()))
        logging.warning(
            f"The channels of {sum(several.values())} of {len(headers)} files are averaged: "
            f"{counts}"
        )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[soundfile.SoundFile, int]]:
    """A file, and the samples of each channel that its header tells of.

    Raises:
        AudioError: in the block, too, where it cannot be read as audio.
    """
    place = find_place(path)
    if why := no_file(path if place is None else place.archive):  # a pipe would wait
        raise AudioError(f"{path}: {why}")
    try:
        sound = find_sound(path) if place is None else None
        with contextlib.ExitStack() as stack:
            source: str | WithLength | io.BytesIO = path
            if place is not None:
                source = read_sound(place)
            elif sound is not None and sound.is_untold:
                source = stack.enter_context(WithLength(path, sound))
            f = stack.enter_context(soundfile.SoundFile(source))
            missing = 0.0 if sound is None else sound.missing_seconds
            yield f, f.frames + round(missing * f.samplerate)
    except NoSoundError as error:
        raise AudioError(f"{path}: {error}") from error
    except (soundfile.SoundFileError, OSError) as error:
        if os.path.isfile(path) and not os.path.getsize(path):
            raise AudioError(f"{path}: has 0 bytes") from error
        why = getattr(error, "strerror", None) or str(error).rsplit(": ", 1)[-1]
        raise AudioError(f"{path}: cannot be read as audio ({why})") from error


def no_file(path: str | Path) -> str | None:
    """Why a path is none of a file; None where it is."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a zero byte in it
        return MISSING
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            broken = os.path.islink(path)
            return "is a link to what is not there" if broken else MISSING
        if error.errno == errno.ELOOP:
            return "is a link that leads to itself"
        return f"cannot be read ({error.strerror})"
    return next((kind + ", not a file" for is_of, kind in KINDS if is_of(mode)), None)
