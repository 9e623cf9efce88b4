"""Word error rate, counted over a whole test set as sclite does."""

from typing import Dict, NamedTuple

import jiwer


class WordErrors(NamedTuple):
    """Counts over a test set."""

    words: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def wer(self) -> float:
        """Errors per hundred reference words."""
        errors = self.substitutions + self.deletions + self.insertions
        return 100.0 * errors / self.words if self.words else float("nan")


def count_errors(references: Dict[str, str], hypotheses: Dict[str, str]) -> WordErrors:
    """Align every reference with its hypothesis.

    Raises:
        KeyError: where an utterance was not decoded.
    """
    words = subs = dels = ins = 0
    for utt, reference in references.items():
        hypothesis = hypotheses[utt].split()
        if not reference.split():  # jiwer refuses an empty reference
            ins += len(hypothesis)
            continue
        out = jiwer.process_words(reference, " ".join(hypothesis))
        words += out.hits + out.substitutions + out.deletions
        subs, dels, ins = subs + out.substitutions, dels + out.deletions, ins + out.insertions
    return WordErrors(words, subs, dels, ins)
