"""Which layers a small encoder keeps: Simple-Top-k and Iterative-Zero-Out.

Everything here is a pure function of the update counter ``t`` (0-based), the
layer scores and, for Iterative-Zero-Out, a per-layer record of zero-outs.
Nothing is stored; the state lives in :mod:`espnet_des.method.state`.

A size is an amount of layers. Where layers have costs, these add up to the number of
layers, so a size of 8 is as much as 8 average layers cost, and keeps as many as fit.

Source: Xu et al., "Dynamic Encoder Size Based on Data-Driven Layer-wise
Pruning for Speech Recognition", Interspeech 2024, sections 3.1 and 3.2.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

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
    mask[best_first(scores.detach())[:k]] = 1.0  # the order of the soft mask, too
    # (soft - soft) is exactly 0, so the value stays exactly 0 or 1.
    return mask + (soft - soft.detach())


def best_first(scores: torch.Tensor) -> torch.Tensor:
    """Layers from the highest score to the lowest; of equals the earlier first."""
    return scores.argsort(descending=True, stable=True)


# Of a sum of costs, which are float32: rounding must not leave the last layer out.
ROUNDING = 1e-4


def count_fitting(order: torch.Tensor, costs: torch.Tensor | None, size: float) -> int:
    """How many of the first layers fit into a size, at least one.

    Args:
        order: layers, most important first, ``(num_layers,)``, on the CPU.
        costs: of the layers, ``(num_layers,)``; None where each costs 1.
        size: what they may cost.
    """
    if costs is None:
        return int(size)
    spent = costs[order].cumsum(0)
    return max(1, int((spent <= size + ROUNDING).sum()))


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


class Travel(NamedTuple):
    """How far scores must be able to move.

    Attributes:
        distance: in scores.
        updates: in so many updates.
        else_what: would happen.
    """

    distance: float
    updates: int
    else_what: str


class Selector:
    """How a method reads the scores: the parts that all methods share.

    Args:
        costs: of the layers, ``(num_layers,)``, float64 on the CPU; None where each costs 1.
        per_cost: order the layers by what they give for their cost.
    """

    title: str
    #: What all scores start from.
    initial_score = 0.5
    #: Whether the scores take part.
    learns = True
    #: How many iterations stage 1 has by default, about.
    num_iterations = 8
    #: Whether the size of stage 1's small pass is drawn for each update.
    draws_size = False
    #: What the method's own loss is called, where it has one.
    penalty_name: str | None = None

    def __init__(self, costs: torch.Tensor | None = None, per_cost: bool = False):
        self.costs, self.per_cost = costs, per_cost

    def start(self, scores: torch.Tensor) -> None:
        """Set the scores, in place, to what training starts from."""
        scores.fill_(self.initial_score)

    def score_shape(self, num_layers: int) -> tuple[int, ...]:
        return (num_layers,)

    def of_layers(self, scores: torch.Tensor) -> torch.Tensor:
        """One number per layer, for logs and pictures, ``(num_layers,)``."""
        return scores

    def importance(self, scores: torch.Tensor) -> torch.Tensor:
        """What the layers are ordered by, ``(num_layers,)``, in logarithms."""
        return scores - self.log_costs(scores)

    def costs_like(self, other: torch.Tensor) -> torch.Tensor:
        """The costs on the device of another tensor, in its dtype; nothing waits for it."""
        assert self.costs is not None, "each layer costs 1"
        return self.costs.to(other, non_blocking=True)

    def log_costs(self, like: torch.Tensor) -> torch.Tensor | float:
        """Logarithms of the costs, on the device of ``like``; 0 where they do not count."""
        if not self.per_cost or self.costs is None:
            return 0.0
        return self.costs.log().to(like, non_blocking=True)

    def travel(self, schedule: Schedule, num_layers: int) -> Travel | None:
        """How far the scores must be able to move; None where only their order counts.

        Where they are weighed against costs: until the dearest layer can pass the cheapest.
        """
        if not self.per_cost or self.costs is None:
            return None
        logs = self.costs.log()
        distance, updates = float(logs.max() - logs.min()), schedule.last_update + 1
        return Travel(distance, updates, "the cheapest layers would always come first")

    def num_kept(self, schedule: Schedule, t: int, num_layers: int) -> int:
        """Size of the small pass."""
        raise NotImplementedError

    def penalty(
        self, scores: torch.Tensor, schedule: Schedule, t: int, size: int | None = None
    ) -> torch.Tensor | None:
        """The method's own loss in update t of stage 1, if it has one, ``()``.

        Args:
            size: of the small pass, where it is drawn.
        """
        return None

    def penalty_weight(self, schedule: Schedule, t: int) -> float:
        """Weight of :meth:`penalty` in the sum."""
        return 1.0

    def zero_out(
        self, scores: torch.Tensor, record: ZeroOuts, schedule: Schedule, t: int
    ) -> tuple[torch.Tensor, ZeroOuts] | None:
        """New scores and record after update t, where the method changes them itself."""
        return None

    def gates(
        self,
        scores: torch.Tensor,
        schedule: Schedule,
        t: int,
        now: torch.Tensor | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Multipliers of the layers in the small pass, ``(num_layers,)``.

        Args:
            scores: the supernet's.
            now: the same on the CPU, by which it is decided; by default the scores.
            size: of the small pass, where it is drawn.
        """
        raise NotImplementedError

    def closed(self, scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        """Layers whose gate is exactly 0, ascending: where there are such, all others are 1."""
        return []

    def fixed_units(self, schedule: Schedule, t: int) -> list[int] | None:
        """What the small pass of update t keeps, ascending, where no score decides it."""
        return None

    def outside(self, scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        """Layers that get stochastic depth p1 in the full pass, ascending."""
        order, k = self._kept(scores, schedule, t)
        return sorted(order[k:].tolist())

    def ranking(self, scores: torch.Tensor, record: ZeroOuts) -> torch.Tensor:
        """All layers, most important first; a size keeps the first of them."""
        raise NotImplementedError

    def total(self, scores: torch.Tensor) -> int:
        """What all layers cost: their number."""
        return len(scores) if self.costs is None else round(float(self.costs.sum()))

    def _kept(
        self, scores: torch.Tensor, schedule: Schedule, t: int
    ) -> tuple[torch.Tensor, int]:
        """The layers, most important first, and how many of them the small pass has."""
        order = best_first(self.importance(scores.detach()))
        size = self.num_kept(schedule, t, self.total(scores))
        return order, count_fitting(order, self.costs, size)


class SimpleTopK(Selector):
    """Straight-through relaxed top-k whose k anneals to the smallest size.

    Args:
        hard: gates of 0 and 1.
        **costs: see :class:`Selector`.
    """

    title = "Simple-Top-k"

    def __init__(self, hard: bool = True, **costs: Any):
        super().__init__(**costs)
        self.hard = hard

    @staticmethod
    def iteration(schedule: Schedule, t: int) -> int:
        """Iteration of update t: the first ends just before update c_0."""
        return min(bisect_right(schedule.ends, t), len(schedule.ends) - 1)

    def num_kept(self, schedule: Schedule, t: int, num_layers: int) -> int:
        """k(t), the size of the small pass."""
        return num_layers - schedule.zeroed[self.iteration(schedule, t)]

    def gates(self, scores, schedule, t, now=None, size=None):
        _, k = self._kept(scores if now is None else now, schedule, t)
        return relaxed_topk(self.importance(scores), k, self.hard)

    def closed(self, scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        """Layers whose gate is exactly 0: hard ones of all but the k best scores."""
        return self.outside(scores, schedule, t) if self.hard else []

    def ranking(self, scores: torch.Tensor, record: ZeroOuts) -> torch.Tensor:
        return best_first(self.importance(scores))


class IterativeZeroOut(Selector):
    """Sigmoid gates under a sparsity loss; the lowest are set down in steps.

    Args:
        published_ranking: order the layers as the published LibriSpeech code
            does, by their scores just before the last zero-out, instead of by
            the zero-out at which each of them left. Layers that left
            earlier then differ only by their drift from -5.
        sparsity_weight: of :meth:`penalty`.
        **costs: see :class:`Selector`.
    """

    title = "Iterative-Zero-Out"
    initial_score = 10.0
    zeroed_score = -5.0
    # As published for LibriSpeech; with 8, as for TED-LIUM, the smallest size was worse in the
    # mean of two seeds of spoken words, and on the digits (docs/earlier_results.md).
    num_iterations = 16
    penalty_name = "loss_sparsity"

    def __init__(
        self, published_ranking: bool = False, sparsity_weight: float = 5.0, **costs: Any
    ):
        super().__init__(**costs)
        self.published_ranking, self.sparsity_weight = published_ranking, sparsity_weight

    @staticmethod
    def iteration(schedule: Schedule, t: int) -> int:
        """Iteration of update t: the smallest i with t <= c_i."""
        return min(bisect_left(schedule.ends, t), len(schedule.ends) - 1)

    def num_kept(self, schedule: Schedule, t: int, num_layers: int) -> int:
        """Size of what was not set down by the last zero-out."""
        i = self.iteration(schedule, t)
        return num_layers - (schedule.zeroed[i - 1] if i else 0)

    def importance(self, scores: torch.Tensor) -> torch.Tensor:
        if not self.per_cost or self.costs is None:
            return scores
        return torch.nn.functional.logsigmoid(scores) - self.log_costs(scores)

    def gates(self, scores, schedule, t, now=None, size=None):
        return scores.sigmoid()

    def penalty(
        self, scores: torch.Tensor, schedule: Schedule, t: int, size: int | None = None
    ) -> torch.Tensor:
        """Absolute difference of the open gates and those asked for, as a share of the layers."""
        asked = schedule.zeroed[self.iteration(schedule, t)] / self.total(scores)
        gates = scores.sigmoid()
        if self.costs is None:
            return (1.0 - gates.mean() - asked).abs()
        costs = self.costs_like(gates)
        return (1.0 - (costs * gates).sum() / costs.sum() - asked).abs()

    def penalty_weight(self, schedule: Schedule, t: int) -> float:
        return self.sparsity_weight

    def travel(self, schedule: Schedule, num_layers: int) -> Travel:
        """From 10, where a gate hardly moves, to the first iteration's sparsity."""
        open_share = 1.0 - schedule.zeroed[0] / num_layers
        asked = math.log(open_share / (1.0 - open_share))
        distance, updates = self.initial_score - asked, schedule.ends[0] + 1
        return Travel(distance, updates, "the zero-outs would cut noise")

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
        order = best_first(self.importance(scores))
        stay = count_fitting(order, self.costs, self.total(scores) - schedule.zeroed[done])
        out = torch.zeros_like(scores, dtype=torch.bool)
        out[order[stay:]] = True
        # A layer that left earlier and is still out keeps its place in the record.
        leaves = out & (record.at == 0)
        at = torch.where(leaves, done + 1, record.at) * out
        # One dear layer may be all that two zero-outs take out: it left with the last of them.
        at = torch.where(at == at.max(), done + 1, at)
        noted = out if self.published_ranking else leaves
        score = torch.where(noted, scores.to(record.score.dtype), record.score) * out
        return scores.masked_fill(out, self.zeroed_score), ZeroOuts(at, score)

    def ranking(self, scores: torch.Tensor, record: ZeroOuts) -> torch.Tensor:
        out = record.at > 0
        of_all = torch.where(out, record.score.to(scores.dtype), scores)
        order = best_first(self.importance(of_all))
        if self.published_ranking:
            return order
        # Stable: layers that left at the same zero-out stay in order of score.
        left = torch.where(out, record.at, float("inf"))
        return order[best_first(left[order])]
