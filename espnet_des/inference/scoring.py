"""Word (character, token) error rates, by sclite or with its counts.

Where NIST's sclite is installed (Debian: sctk) it scores. Elsewhere rapidfuzz
aligns with sclite's costs: 4 for a substitution, 3 for a deletion or insertion.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

DEBIAN_SCLITE = Path("/usr/lib/sctk/bin/sclite")  # the package keeps it off the PATH


class Errors(NamedTuple):
    """Counts over a test set; ``wrong`` are utterances with an error."""

    utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int
    wrong: int

    @property
    def rate(self) -> float:
        """Errors per hundred reference words."""
        errors = self.substitutions + self.deletions + self.insertions
        return 100.0 * errors / self.words if self.words else float("nan")


def text_cleaner(name: str) -> Callable[[str], str]:
    """ESPnet's text cleaner of that name; of "none" the text as it is.

    Raises:
        RuntimeError: where ESPnet has none of that name, or what it needs is not installed.
    """
    if name in ("none", ""):
        return lambda text: text
    from espnet2.text.cleaner import TextCleaner

    cleaner = TextCleaner(name)
    cleaner("A")  # it looks for what it needs only now
    return cleaner


def count_errors(references: dict[str, str], hypotheses: dict[str, str]) -> Errors:
    """Align every reference with its hypothesis; words are split at spaces.

    As in sclite, upper and lower case are the same.

    Raises:
        KeyError: where an utterance was not decoded.
    """
    words = subs = dels = ins = wrong = 0
    for utt, reference in references.items():
        ref, hyp = reference.lower().split(), hypotheses[utt].lower().split()
        s, d, i = _align(ref, hyp)
        words, wrong = words + len(ref), wrong + (s + d + i > 0)
        subs, dels, ins = subs + s, dels + d, ins + i
    return Errors(len(references), words, subs, dels, ins, wrong)


def _align(ref: list[str], hyp: list[str]) -> tuple[int, int, int]:
    """Substitutions, deletions and insertions of the alignment that costs least.

    Of alignments with equal costs sclite takes the one with fewest errors. One
    weighted distance tells both: cost in the upper digits, errors in the lower.
    """
    unit = len(ref) + len(hyp) + 1
    distance = Levenshtein.distance(
        ref, hyp, weights=(3 * unit + 1, 3 * unit + 1, 4 * unit + 1)
    )
    cost, errors = divmod(distance, unit)
    substitutions = cost - 3 * errors
    others = errors - substitutions
    deletions = (others + len(ref) - len(hyp)) // 2
    return substitutions, deletions, others - deletions


def find_sclite() -> str | None:
    found = shutil.which("sclite")
    return found or (str(DEBIAN_SCLITE) if DEBIAN_SCLITE.exists() else None)


def write_scores(
    folder: Path,
    references: dict[str, str],
    hypotheses: dict[str, str],
    speakers: dict[str, str],
) -> Errors:
    """Write ``ref.trn``, ``hyp.trn`` and ``result.txt`` as asr.sh's stage 13 does.

    Args:
        folder: such as ``.../test_clean/score_wer``.
        references: utterance to units, separated by spaces.
        hypotheses: the same.
        speakers: utterance to speaker.

    Raises:
        RuntimeError: where sclite fails.
    """
    errors = count_errors(references, hypotheses)
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("ref", references), ("hyp", hypotheses)):
        lines = [f"{texts[utt]}\t({speakers[utt]}-{utt})\n" for utt in references]
        (folder / f"{name}.trn").write_text("".join(lines), encoding="utf-8")
    result = folder / "result.txt"
    sclite = find_sclite()
    if sclite is None:
        result.write_text(_summary(errors))
        return errors
    with result.open("w") as out:
        code = subprocess.call(
            [sclite, "-r", str(folder / "ref.trn"), "trn", "-h", str(folder / "hyp.trn"), "trn",
             "-i", "rm", "-o", "all", "stdout"],
            stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if code:
        raise RuntimeError(f"sclite failed (exit {code}): see {result}")
    return read_counts(folder) or errors


def _summary(e: Errors) -> str:
    """The lines of sclite's report that ESPnet reads."""
    share = [
        100.0 * n / max(1, e.words)
        for n in (
            e.words - e.substitutions - e.deletions,
            e.substitutions,
            e.deletions,
            e.insertions,
        )
    ]
    numbers = "  ".join(f"{value:5.1f}" for value in (*share, e.rate))
    wrong = 100.0 * e.wrong / max(1, e.utterances)
    return (
        "Counted by rapidfuzz with sclite's costs.\n"
        "| SPKR    | # Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |\n"
        f"| Sum/Avg | {e.utterances:5d} {e.words:5d} | {numbers}  {wrong:5.1f} |\n"
    )


def read_counts(folder: Path) -> Errors | None:
    """Raw counts of sclite's report, which its rounded rates are made of."""
    for line in (folder / "result.txt").read_text(errors="replace").splitlines():
        fields = line.replace("|", " ").split()
        if fields[:1] == ["Sum"] and len(fields) == 9:
            snt, wrd, _, sub, dele, ins, _, wrong = (int(float(f)) for f in fields[1:])
            return Errors(snt, wrd, sub, dele, ins, wrong)
    return None
