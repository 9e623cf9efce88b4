"""Kaldi-style data directories: written whole or not at all."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILES = ("wav.scp", "text", "utt2spk", "spk2utt", "segments", "spk2gender")
MADE_OF = "made_of"  # says of which corpus; a folder without it is not ours to replace


class DataError(RuntimeError):
    """Data that cannot be used: says which, and what to do."""


@dataclass(frozen=True)
class Utterance:
    """One transcribed stretch of speech.

    Attributes:
        utt: id; must begin with the speaker's.
        spk: id of the speaker.
        text: transcript, words separated by one space.
        audio: file that holds it.
        begin: seconds into the file; None where the file is the utterance.
        end: seconds into the file.
        gender: m, f or None.
    """

    utt: str
    spk: str
    text: str
    audio: Path
    begin: float | None = None
    end: float | None = None
    gender: str | None = None


def write_data_dir(folder: Path, utterances: Iterable[Utterance]) -> int:
    """Write ``wav.scp``, ``text``, ``utt2spk``, ``spk2utt`` (and ``segments``).

    Lines are sorted as Kaldi's tools want them (LC_ALL=C).

    Returns:
        Number of utterances.
    """
    return write_data_dirs({folder: utterances})[folder]


def write_data_dirs(
    folders: Mapping[Path, Iterable[Utterance]],
    made_of: Mapping[Path, str] | None = None,
) -> dict[Path, int]:
    """Write several directories; none of them if one is not in order.

    Args:
        folders: directory to its utterances.
        made_of: directory to what :func:`origin` says of it, which
            ``is_made`` looks at.

    Returns:
        Directory to its number of utterances.
    """
    for folder in folders:
        check_ours(folder, MADE_OF)
    tables = {folder: _tables(folder, list(utts)) for folder, utts in folders.items()}
    for folder, contents in tables.items():
        _write_tables(folder, contents, (made_of or {}).get(folder, ""))
    return {folder: len(contents["text"]) for folder, contents in tables.items()}


def check_ours(folder: Path, mark: str) -> None:
    """Refuse to replace a folder that does not hold this file, but others.

    Raises:
        DataError: and nothing is removed.
    """
    if folder.is_symlink() or folder.is_file():
        raise DataError(f"{folder} is no folder: remove it, or give another place")
    if folder.exists() and not (folder / mark).exists() and any(folder.iterdir()):
        raise DataError(
            f"{folder} is to be written, but holds something else ({len(list(folder.iterdir()))} "
            f"entries, none of them {mark}): give another place, or remove it"
        )


def origin(root: Path, sets: Sequence[str]) -> str:
    """What a data directory is made of: sets of a corpus, and which corpus this is.

    A corpus that is generated again has the same ids and places, but other words.
    """
    known = hashlib.sha256()
    for name in ("BOOKS.TXT", "SPEAKERS.TXT"):
        if (root / name).exists():
            known.update((root / name).read_bytes())
    return f"sets {' '.join(sets)}\ncorpus {root.resolve()}\nsha256 {known.hexdigest()}\n"


def is_made(folder: Path, made_of: str) -> bool:
    """Whether the directory is there, made of this, or complete and made by others.

    Raises:
        DataError: where another folder of this name is in the way.
    """
    note = folder / MADE_OF
    same = not note.exists() or note.read_text(encoding="utf-8") == made_of
    if same and (folder / "text").exists():
        return True
    check_ours(folder, MADE_OF)
    return False


def _tables(folder: Path, utterances: list[Utterance]) -> dict[str, dict[str, str]]:
    utts = sorted(utterances, key=lambda u: u.utt.encode())
    if not utts:
        raise DataError(f"{folder}: no utterance is left to write")
    tables: dict[str, dict[str, str]] = {name: {} for name in FILES}
    speakers: dict[str, list[str]] = {}
    previous = utts[0].spk
    for u in utts:
        if u.utt in tables["text"]:
            raise DataError(f"{folder}: utterance {u.utt} occurs twice ({u.audio})")
        if not u.utt.startswith(u.spk) or u.spk.encode() < previous.encode():
            raise DataError(
                f"{folder}: utterance {u.utt} of speaker {u.spk} is not sorted by speaker "
                f"(after {previous}). Kaldi's tools want ids that begin with the speaker's, "
                "and speakers whose names sort as their utterances do"
            )
        previous = u.spk
        tables["text"][u.utt] = u.text
        tables["utt2spk"][u.utt] = u.spk
        speakers.setdefault(u.spk, []).append(u.utt)
        recording = u.utt
        if u.begin is not None:
            recording = u.audio.stem
            tables["segments"][u.utt] = f"{recording} {u.begin:.2f} {u.end:.2f}"
        tables["wav.scp"][recording] = check_path(str(u.audio))
        if u.gender:
            tables["spk2gender"][u.spk] = u.gender
    tables["spk2utt"] = {spk: " ".join(ids) for spk, ids in speakers.items()}
    return tables


def check_path(path: str) -> str:
    """Return a path that a line of a table can hold, or say why it cannot."""
    if re.search("[\n\r\ud800-\udfff]", path):
        raise DataError(
            f"{path!r} cannot be written to wav.scp: it is not UTF-8, or has a line break; "
            "rename the file or folder"
        )
    return path


def _write_tables(folder: Path, tables: dict[str, dict[str, str]], made_of: str) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, table in tables.items():
        if table:
            write_table(partial / name, table)
    (partial / MADE_OF).write_text(made_of, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_table(path: Path, table: dict[str, str]) -> None:
    """Write ``key value`` lines, sorted by the bytes of the key."""
    keys = sorted(table, key=str.encode)
    path.write_text("".join(f"{k} {table[k]}\n" for k in keys), encoding="utf-8")


def read_table(path: Path) -> dict[str, str]:
    """Read ``key value`` lines; the value may be empty."""
    table: dict[str, str] = {}
    for number, (key, value) in enumerate(read_rows(path), 1):
        if key in table:
            raise DataError(f"{path}:{number}: the key is repeated")
        table[key] = value
    return table


def read_rows(path: Path) -> Iterator[tuple[str, str]]:
    """``key value`` lines one by one, of a table that need not fit into memory.

    Raises:
        DataError: where it is not there, not UTF-8, or a key is empty.
    """
    if not path.exists():
        raise DataError(f"{path} is missing: run the stage that makes it first")
    # Editors of Windows begin a file with a mark that is no part of the first key.
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, 1):
                key, *value = line.split(maxsplit=1) or [""]
                if not key:
                    raise DataError(f"{path}:{number}: the key is empty")
                yield key, "".join(value).strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 ({error}); convert it") from error
