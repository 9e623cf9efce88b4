"""OrthoSoftmax: rows of a score matrix choose one layer each, one matrix for all sizes.

Source: Xu et al., arXiv 2501.18895, and its public code (docs/method.md, "OrthoSoftmax").
"""

from typing import Any

import torch

from espnet_des.method.selection import Schedule, Selector, ZeroOuts, count_fitting


class OrthoSoftmax(Selector):
    """Softmax rows, taken in order until they cost as much as a size that is drawn.

    A row chooses a layer: its softmax gets sharper while the temperature falls, and a
    penalty keeps rows from choosing the same one. The small pass runs all layers, each
    gate the sum of the rows that are taken.

    Args:
        temperature_final: what the temperature falls to, from 1, until stage 1 ends.
        orthogonality_weight: what the weight of the penalty grows to, from 0, until then.
        **costs: see :class:`Selector`.
    """

    title = "OrthoSoftmax"
    draws_size = True
    penalty_name = "loss_orthogonality"
    # [DEVIATION] from 0, where equal rows have equal gradients, and only the noise of a
    # GPU's sums tells them apart.
    INITIAL_SPREAD = 0.01

    def __init__(
        self, temperature_final: float = 0.165, orthogonality_weight: float = 1.0, **costs: Any
    ):
        super().__init__(**costs)
        self.temperature_final = temperature_final
        self.orthogonality_weight = orthogonality_weight

    def score_shape(self, num_layers: int) -> tuple[int, ...]:
        return (num_layers, num_layers)

    def start(self, scores: torch.Tensor) -> None:
        torch.nn.init.normal_(scores, std=self.INITIAL_SPREAD)

    def temperature(self, schedule: Schedule, t: int) -> float:
        """Of update t: from 1 it falls by the same factor in each update."""
        return self.temperature_final ** min(1.0, t / schedule.last_update)

    def rows(self, scores: torch.Tensor, temperature: float) -> torch.Tensor:
        """What each row chooses, ``(num_layers, num_layers)``; a row sums to 1."""
        return (scores / temperature - self.log_costs(scores)).softmax(dim=1)

    def taken(self, rows: torch.Tensor, size: float) -> torch.Tensor:
        """The first rows, whose costs together are nearest to a size; the others are 0."""
        each = rows if self.costs is None else rows * self.costs_like(rows)
        last = (each.sum(1).cumsum(0) - size).abs().argmin()
        # By a mask: the number of rows need not be known on the CPU.
        return rows * (torch.arange(len(rows), device=rows.device) <= last)[:, None]

    def num_kept(self, schedule: Schedule, t: int, num_layers: int) -> int:
        """The smallest size; what is drawn lies between it and the full one."""
        return num_layers - schedule.zeroed[-1]

    def gates(self, scores, schedule, t, now=None, size=None):
        assert size is not None, "the size is drawn"
        rows = self.rows(scores, self.temperature(schedule, t))
        return self.taken(rows, size).sum(0)

    def penalty(
        self, scores: torch.Tensor, schedule: Schedule, t: int, size: int | None = None
    ) -> torch.Tensor:
        """How far the taken rows are from orthogonal ones of length 1."""
        assert size is not None, "the size is drawn"
        with torch.autocast(scores.device.type, enabled=False):
            return self._penalty(self.rows(scores, self.temperature(schedule, t)), size)

    def _penalty(self, rows: torch.Tensor, size: float) -> torch.Tensor:
        taken = self.taken(rows, size)
        products = taken @ taken.T
        lengths = products.diagonal()
        is_taken = (taken.detach().sum(1) > 0).to(rows)
        square = products.triu(1).square().sum() + ((lengths - 1).square() * is_taken).sum()
        return (square + torch.finfo(rows.dtype).tiny).sqrt()  # its slope at 0 is infinite

    def penalty_weight(self, schedule: Schedule, t: int) -> float:
        return self.orthogonality_weight * min(1.0, t / schedule.last_update)

    def of_layers(self, scores: torch.Tensor) -> torch.Tensor:
        """How much the rows want a layer; the first ones count most."""
        rows = self.rows(scores, self.temperature_final)
        return rows.cumsum(0).mean(0)

    def importance(self, scores: torch.Tensor) -> torch.Tensor:
        """Of what :meth:`of_layers` gives, in which the costs are already."""
        return scores

    def outside(self, scores: torch.Tensor, schedule: Schedule, t: int) -> list[int]:
        """Those that the smallest size would not keep."""
        order = self._order(scores)
        size = self.num_kept(schedule, t, self.total(scores))
        return sorted(order[count_fitting(order, self.costs, size) :].tolist())

    def ranking(self, scores: torch.Tensor, record: ZeroOuts) -> torch.Tensor:
        return self._order(scores)

    def _order(self, scores: torch.Tensor) -> torch.Tensor:
        """The layers in the order of the rows that choose them.

        [DEVIATION] Where a row wants what an earlier one has, it takes the best that is
        left: a size has what its budget allows. The published sets lose these rows.
        """
        wanted = scores.detach().double() / self.temperature_final
        wanted = wanted - self.log_costs(wanted)
        order = []
        for row in wanted:
            order.append(row.argmax())
            wanted[:, order[-1]] = -torch.inf
        return torch.stack(order)
