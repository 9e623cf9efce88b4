"""LibriSpeech as distributed, to Kaldi-style data directories.

LibriSpeech/<set>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac
LibriSpeech/<set>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt
"""

from collections.abc import Sequence
from pathlib import Path

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

URL = "https://www.openslr.org/12"


def prepare_librispeech(
    corpus: Path,
    data: Path,
    sets: Sequence[str],
    joined: dict[str, Sequence[str]] | None = None,
    sample_rate: int = 16000,
) -> None:
    """Make one data directory per set, and those that join several.

    Args:
        corpus: folder ``LibriSpeech``, or the one that holds it.
        data: where the directories go; ``train-clean-100`` becomes
            ``train_clean_100``.
        sets: their names in the corpus.
        joined: name of a joined directory to the sets that it joins.
        sample_rate: that every file must have, in Hz.

    Raises:
        DataError: where the corpus is not complete; nothing is written then.
    """
    joined = joined or {}
    root = corpus / "LibriSpeech" if (corpus / "LibriSpeech").is_dir() else corpus
    check_path(str(root.resolve()))
    wanted = {_dir_name(s): [s] for s in sets} | {k: list(v) for k, v in joined.items()}
    missing = [s for s in _needed(wanted) if not (root / s).is_dir()]
    if missing:
        raise DataError(
            f"{root} lacks {', '.join(missing)}. Get LibriSpeech from {URL}, unpack it, "
            "and give the folder that holds LibriSpeech/ as LIBRISPEECH in db.sh"
        )
    made_of = {data / name: origin(root, parts) for name, parts in wanted.items()}
    there = [name for name in wanted if is_made(data / name, made_of[data / name])]
    if there:
        print(f"{data}: {', '.join(there)} are there already")
    lacking = {name: parts for name, parts in wanted.items() if name not in there}
    genders = _genders(root)
    found = {s: _read_set(root / s, genders, sample_rate) for s in _needed(lacking)}
    counts = write_data_dirs(
        {data / name: [u for s in parts for u in found[s]] for name, parts in lacking.items()},
        made_of,
    )
    for folder, count in counts.items():
        print(f"{folder}: {count} utterances")


def _needed(folders: dict[str, list[str]]) -> list[str]:
    """Sets of the corpus that these directories are made of."""
    return list(dict.fromkeys(s for parts in folders.values() for s in parts))


def _dir_name(name: str) -> str:
    return name.replace("-", "_")


def _genders(root: Path) -> dict[str, str]:
    path = root / "SPEAKERS.TXT"
    if not path.exists():
        return {}
    # Names of readers follow; what is wrong in them is of no concern.
    content = path.read_text(encoding="utf-8", errors="replace")
    lines = [[field.strip() for field in line.split("|")] for line in content.splitlines()]
    sexes = {f[0]: f[1].lower() for f in lines if len(f) > 2 and f[0].isdigit()}
    return {speaker: sex for speaker, sex in sexes.items() if sex in ("m", "f")}


def _read_set(folder: Path, genders: dict[str, str], sample_rate: int) -> list[Utterance]:
    files = sorted(folder.glob("*/*/*.trans.txt"))
    if not files:
        raise DataError(f"{folder} holds no */*/*.trans.txt: is it unpacked? See {URL}")
    utterances, skipped = [], Skipped(folder)
    for path in progress(files, desc=f"reading {folder.name}", unit="chapter"):
        for place, utt, text, problem in _read_transcript(path):
            audio = path.parent / f"{utt}.flac"
            problem = problem or audio_problem(audio, sample_rate)
            if problem:
                shown = utt if utt.isprintable() and len(utt) < 80 else f"{utt[:80]!r}"
                skipped.add(f"{place}: {shown}: {problem}")
                continue
            speaker, chapter, _ = utt.split("-")
            # A chapter is a speaker of its own, as in Kaldi's recipe.
            utterances.append(
                Utterance(
                    utt,
                    f"{speaker}-{chapter}",
                    text,
                    audio.resolve(),
                    gender=genders.get(speaker),
                )  # fmt: skip
            )
    skipped.report(kept=len(utterances))
    return utterances


def _read_transcript(path: Path) -> list[tuple[str, str, str, str | None]]:
    """Lines of a transcript: file and number, id, words, and what is wrong or None."""
    stem = path.name.removesuffix(".trans.txt")
    lines = []
    for number, line, problem in numbered_lines(path):
        if not line.strip():
            continue
        utt, _, text = line.partition(" ")
        text = " ".join(text.split())
        if not utt.startswith(f"{stem}-") or len(utt.split("-")) != 3:
            problem = problem or f"the id does not belong to {stem}"
        elif not text:
            problem = problem or "the transcript is empty"
        lines.append((f"{path}:{number}", utt, text, problem))
    return lines
