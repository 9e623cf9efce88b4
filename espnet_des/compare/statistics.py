"""Error rates with spreads, and paired differences with intervals.

All systems recognise the same utterances, and each is trained with the same seeds: a
difference is taken pair by pair, so what is hard for all cancels out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy
import scipy.stats

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

    @property
    def spread(self) -> float:
        """Standard deviation of the rates; 0 of one seed."""
        return float(self.rates.std(ddof=1)) if len(self.rates) > 1 else 0.0

    def of_seeds(self, seeds: Sequence[int]) -> "Counts":
        rows = [list(self.seeds).index(seed) for seed in seeds]
        return Counts(self.errors[rows], self.words, list(seeds))


class Difference(NamedTuple):
    """Relative difference of two systems in percent; below 0 the first is better.

    Attributes:
        mean: over the seeds.
        low: end of the 95% interval; NaN where one seed says nothing about the spread.
        high: end of the 95% interval.
        seeds: how many.
    """

    mean: float
    low: float
    high: float
    seeds: int


def count(results: dict[int, dict], size: int, sets: Sequence[str]) -> Counts:
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


def difference(one: Counts, other: Counts, seed: int = 0) -> Difference | None:
    """Relative difference over the seeds that both have; None where they share none.

    The logarithm of the ratio has two sources of error, whose variances are added: the
    trainings (from its spread over seeds, paired) and the test sets (from a bootstrap of
    speakers, not of utterances: those of one speaker are alike). The interval is Student's,
    with the degrees of freedom of Welch and Satterthwaite: a bootstrap of two or three
    seeds would be far too narrow. It is a little too wide, since what speakers have in common
    with one seed only is in both variances; but of two seeds, which can agree by chance, it
    holds in 88% of cases and not in 95%.

    Args:
        seed: of the bootstrap.
    """
    common = [s for s in one.seeds if s in other.seeds]
    if not common:
        return None
    a, b = (counts.of_seeds(common).errors for counts in (one, other))
    mean = a.sum() / b.sum() if b.sum() else float("nan")
    if len(common) < 2 or not (a.sum(1).all() and b.sum(1).all()):
        return Difference(100.0 * (mean - 1.0), float("nan"), float("nan"), len(common))
    of_seeds = numpy.log(a.sum(1) / b.sum(1)).var(ddof=1) / len(common)
    number = a.shape[1]
    drawn = numpy.random.default_rng(seed).multinomial(
        number, numpy.full(number, 1 / number), REPLICATES
    )
    of_speakers = numpy.log(drawn @ a.sum(0) / (drawn @ b.sum(0))).var(ddof=1)
    variance = of_seeds + of_speakers
    half = 0.0
    if variance:
        freedom = variance**2 / (
            of_seeds**2 / (len(common) - 1) + of_speakers**2 / max(1, number - 1)
        )
        half = scipy.stats.t.ppf(0.975, freedom) * variance**0.5
    low, high = mean * numpy.exp([-half, half])
    middle, lowest, highest = (100.0 * (x - 1.0) for x in (mean, low, high))
    return Difference(middle, lowest, highest, len(common))
