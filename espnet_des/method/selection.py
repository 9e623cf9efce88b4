"""Which layers a small encoder keeps: Simple-Top-k, Iterative-Zero-Out, or a given order.

Everything here is a pure function of the update counter ``t`` (0-based), the
layer scores and, for Iterative-Zero-Out, a per-layer record of zero-outs.
Nothing is stored; the state lives in :mod:`espnet_des.method.state`.

Source: Xu et al., "Dynamic Encoder Size Based on Data-Driven Layer-wise
Pruning for Speech Recognition", Interspeech 2024, sections 3.1 and 3.2.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch


def relaxed_topk(scores: torch.Tensor, k: int, hard: bool = True) -> torch.Tensor:
    """Choose ``k`` of the layers in a way that the scores can learn from.

    A softmax is drawn k times; what it has taken already is pushed down before
    the next draw. Their sum is close to a 0/1 mask of the k highest scores.

    Args:
        scores: one score per layer, ``(num_layers,)``.
        k: number of layers to choose, 1 to num_layers.
        hard: True gives exact 0/1 values with the gradient of the soft mask
            (straight-through); False gives the soft mask itself.

    Returns:
        The mask ``(num_layers,)``, in the dtype of ``scores``.
    """
    if scores.dim() != 1 or not 1 <= k <= scores.numel():
        raise ValueError(
            f"relaxed_topk: k={k} with scores of shape {tuple(scores.shape)}; "
            "scores must be (num_layers,) and k from 1 to num_layers"
        )
    tiny = torch.finfo(scores.dtype).tiny
    logits, soft = scores, torch.zeros_like(scores)
    taken = torch.zeros_like(scores)
    for _ in range(k):
        logits = logits + (1.0 - taken).clamp(min=tiny).log()
        taken = logits.softmax(dim=0)
        soft = soft + taken
    if not hard:
        return soft
    mask = torch.zeros_like(soft)
    mask[rank(scores.detach())[:k]] = 1.0  # the order of the soft mask, too
    # (soft - soft) is exactly 0, so the value stays exactly 0 or 1.
    return mask + (soft - soft.detach())


def rank(scores: torch.Tensor) -> torch.Tensor:
    """Layers from the highest score to the lowest; of equals the earlier first."""
    return scores.argsort(descending=True, stable=True)


@dataclass(frozen=True)
class Schedule:
    """Stage 1, resolved to optimizer updates.

    >>> s = Schedule(updates=(10, 10), zeroed=(4, 8))
    >>> s.last_update           # stage 2 begins after it
    20

    Attributes:
        updates: number of updates of each iteration.
        zeroed: number of layers that the small pass does without at each
            iteration, strictly increasing.
    """

    updates: tuple[int, ...]
    zeroed: tuple[int, ...]

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """c_i, the update at which iteration i ends."""
        return tuple(accumulate(self.updates))

    @property
    def last_update(self) -> int:
        """E, the last update of stage 1, inclusive."""
        return self.ends[-1]


class ZeroOuts(NamedTuple):
    """Per-layer record of Iterative-Zero-Out, all ``(num_layers,)``.

    Attributes:
        at: 1-based number of the zero-out at which the layer left and since
            which it has not come back; 0 while it is in.
        score: its score just before that zero-out (published ranking: just
            before the latest one); 0 while it is in.
    """

    at: torch.Tensor
    score: torch.Tensor


class SimpleTopK:
    """Straight-through relaxed top-k whose k anneals to the smallest size."""

    title = "Simple-Top-k"
    initial_score = 0.5
    learns = True
    # Scores are ordinary parameters here: only their order counts.
    needs_travel = False

    def __init__(self, hard: bool = True):
        self.hard = hard

    @staticmethod
    def iteration(schedule: Schedule, t: int) -> int:
        """Iteration of update t: the first ends just before update c_0."""
        return min(bisect_right(schedule.ends, t), len(schedule.ends) - 1)

    def num_kept(self, schedule: Schedule, t: int, num_layers: int) -> int:
        """k(t), the number of layers in the small pass."""
        return num_layers - schedule.zeroed[self.iteration(schedule, t)]

    def gates(self, scores: torch.Tensor, schedule: Schedule, t: int) -> torch.Tensor:
        """Multipliers of the layers in the small pass, ``(num_layers,)``."""
        k = self.num_kept(schedule, t, scores.numel())
        return relaxed_topk(scores, k, self.hard)

    def closed(self, scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        """Layers whose gate is exactly 0: hard ones of all but the k best scores."""
        return self.outside(scores, schedule, t) if self.hard else []

    def outside(self, scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        """Layers that get stochastic depth p1 in the full pass."""
        k = self.num_kept(schedule, t, scores.numel())
        return sorted(rank(scores)[k:].tolist())

    @staticmethod
    def sparsity_gap(scores, schedule: Schedule, t: int) -> torch.Tensor | None:
        return None

    @staticmethod
    def zero_out(
        scores: torch.Tensor, record: ZeroOuts, schedule: Schedule, t: int
    ) -> tuple[torch.Tensor, ZeroOuts] | None:
        return None

    def ranking(self, scores: torch.Tensor, record: ZeroOuts) -> torch.Tensor:
        """All layers, most important first; a size keeps the first of them."""
        return rank(scores)


class IterativeZeroOut:
    """Sigmoid gates under a sparsity loss; the lowest are set down in steps.

    Args:
        published_ranking: order the layers as the published LibriSpeech code
            does, by their scores just before the last zero-out, instead of by
            the zero-out at which each of them left. Layers that left
            earlier then differ only by their drift from -5.
    """

    title = "Iterative-Zero-Out"
    initial_score = 10.0
    learns = True
    zeroed_score = -5.0
    # From 10 a sigmoid gate closes only if the score travels a long way.
    needs_travel = True

    def __init__(self, published_ranking: bool = False):
        self.published_ranking = published_ranking

    @staticmethod
    def iteration(schedule: Schedule, t: int) -> int:
        """Iteration of update t: the smallest i with t <= c_i."""
        return min(bisect_left(schedule.ends, t), len(schedule.ends) - 1)

    def num_kept(self, schedule: Schedule, t: int, num_layers: int) -> int:
        """Number of layers that were not set down by the last zero-out."""
        i = self.iteration(schedule, t)
        return num_layers - (schedule.zeroed[i - 1] if i else 0)

    def gates(self, scores: torch.Tensor, schedule: Schedule, t: int) -> torch.Tensor:
        return scores.sigmoid()

    @staticmethod
    def closed(scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        """None: a sigmoid is never 0."""
        return []

    def outside(self, scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        kept = self.num_kept(schedule, t, scores.numel())
        return sorted(rank(scores)[kept:].tolist())

    def sparsity_gap(
        self, scores: torch.Tensor, schedule: Schedule, t: int
    ) -> torch.Tensor | None:
        """Absolute difference of the open gates and those asked for, as a share of the layers."""
        asked = schedule.zeroed[self.iteration(schedule, t)] / scores.numel()
        return (1.0 - scores.sigmoid().mean() - asked).abs()

    def zero_out(
        self, scores: torch.Tensor, record: ZeroOuts, schedule: Schedule, t: int
    ) -> tuple[torch.Tensor, ZeroOuts] | None:
        """Apply the next zero-out if it is due after update t.

        Returns:
            New scores and record, or None when nothing is due.
        """
        done = int(record.at.max())
        if done >= len(schedule.ends) or t < schedule.ends[done]:
            return None
        lowest = rank(scores)[scores.numel() - schedule.zeroed[done] :]
        out = torch.zeros_like(scores, dtype=torch.bool)
        out[lowest] = True
        # A layer that left earlier and is still out keeps its place in the record.
        leaves = out & (record.at == 0)
        at = torch.where(leaves, done + 1, record.at) * out
        noted = out if self.published_ranking else leaves
        score = torch.where(noted, scores.to(record.score.dtype), record.score) * out
        return scores.masked_fill(out, self.zeroed_score), ZeroOuts(at, score)

    def ranking(self, scores: torch.Tensor, record: ZeroOuts) -> torch.Tensor:
        """All layers, most important first; a size keeps the first of them."""
        out = record.at > 0
        order = rank(torch.where(out, record.score.to(scores.dtype), scores))
        if self.published_ranking:
            return order
        # Stable: layers that left at the same zero-out stay in order of score.
        left = torch.where(out, record.at, float("inf"))
        return order[rank(left[order])]


class FixedRanking(SimpleTopK):
    """An order of the layers that is given: the control of a learned one.

    The small pass shrinks as in Simple-Top-k, but the scores take no part.

    Args:
        order: all layers, most important first.
    """

    title = "given order"
    learns = False

    def __init__(self, order: Sequence[int]):
        super().__init__()
        self.order = torch.tensor(list(order))

    def small_pass(self, schedule: Schedule, t: int) -> list[int]:
        """Layers of the small pass of update t, ascending."""
        return sorted(self.order[: self.num_kept(schedule, t, self.order.numel())].tolist())

    def outside(self, scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        return sorted(set(self.order.tolist()) - set(self.small_pass(schedule, t)))

    def ranking(self, scores: torch.Tensor, record: ZeroOuts) -> torch.Tensor:
        return self.order


METHODS: dict[str, type[SimpleTopK] | type[IterativeZeroOut]] = {
    "simple_top_k": SimpleTopK,
    "iterative_zero_out": IterativeZeroOut,
    "fixed": FixedRanking,
}
LEARNED = tuple(name for name, method in METHODS.items() if method.learns)
