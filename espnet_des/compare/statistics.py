"""Error rates with spreads, and paired differences with intervals.

All systems recognise the same utterances, and each is trained with the same seeds: a
difference is taken pair by pair, so what is hard for all cancels out.
"""

from typing import Dict, NamedTuple, Sequence

import numpy

REPLICATES = 10000


class Counts(NamedTuple):
    """Of one system at one size.

    Attributes:
        errors: by seed and speaker, ``(seeds, speakers)``.
        words: of the references, ``(speakers,)``.
        seeds: numbers of the seeds.
    """

    errors: numpy.ndarray
    words: numpy.ndarray
    seeds: Sequence[int]

    @property
    def rates(self) -> numpy.ndarray:
        """Errors per hundred words of each seed, ``(seeds,)``."""
        return 100.0 * self.errors.sum(1) / self.words.sum()

    def of_seeds(self, seeds: Sequence[int]) -> "Counts":
        rows = [list(self.seeds).index(seed) for seed in seeds]
        return Counts(self.errors[rows], self.words, list(seeds))


class Difference(NamedTuple):
    """Relative difference of two systems in percent; below 0 the first is better.

    Attributes:
        mean: over the seeds.
        low: end of the 95% interval.
        high: end of the 95% interval.
        seeds: how many.
    """

    mean: float
    low: float
    high: float
    seeds: int


def count(results: Dict[int, Dict], size: int, sets: Sequence[str]) -> Counts:
    """Sum the errors of every speaker over these test sets.

    Args:
        results: seed to what :func:`espnet_des.compare.run.execute` gave.
    """
    seeds = sorted(results)
    first = results[seeds[0]]
    speakers = [(name, s) for name in sets for s in first["sets"][name]["speakers"]]
    names = sorted(set(speakers))
    column = numpy.array([names.index(s) for s in speakers])

    def by_speaker(values) -> numpy.ndarray:
        return numpy.bincount(column, numpy.concatenate(values), len(names))

    words = by_speaker([first["sets"][name]["words"] for name in sets])
    errors = [
        by_speaker([results[seed]["sizes"][str(size)]["errors"][name] for name in sets])
        for seed in seeds
    ]
    return Counts(numpy.stack(errors), words, seeds)


def difference(one: Counts, other: Counts, seed: int = 0) -> Difference:
    """Paired over seeds and speakers, with a bootstrap interval.

    Speakers are drawn, not utterances: those of one speaker are alike. Of n seeds
    n - 1 are drawn, which gives the variance of their mean without bias (Rao and Wu, 1988);
    one seed alone says nothing about the spread over seeds.

    Args:
        seed: of the bootstrap.
    """
    common = [s for s in one.seeds if s in other.seeds]
    a, b = (counts.of_seeds(common).errors for counts in (one, other))
    rng, (seeds, speakers) = numpy.random.default_rng(seed), a.shape
    drawn = rng.multinomial(speakers, numpy.full(speakers, 1 / speakers), REPLICATES)
    chosen = numpy.ones((REPLICATES, 1))
    if seeds > 1:
        chosen = rng.multinomial(seeds - 1, numpy.full(seeds, 1 / seeds), REPLICATES)
    sums = [numpy.einsum("rs,rs->r", drawn @ errors.T, chosen) for errors in (a, b)]
    relative = 100.0 * (sums[0] / sums[1] - 1.0)
    low, high = numpy.percentile(relative, [2.5, 97.5])
    return Difference(100.0 * (a.sum() / b.sum() - 1.0), low, high, seeds)
