"""A given order of the layers in place of a learned one."""

from collections.abc import Sequence

import torch

from espnet_des.method.selection import Schedule, SimpleTopK, ZeroOuts, count_fitting


class FixedRanking(SimpleTopK):
    """An order of the layers that is given: the control of a learned one.

    The small pass shrinks as in Simple-Top-k, but the scores take no part.

    Args:
        order: all layers, most important first.
        costs: of the layers, see :class:`Selector`.
    """

    title = "given order"
    learns = False

    def __init__(self, order: Sequence[int], costs: torch.Tensor | None = None):
        super().__init__(costs=costs)
        self.given = torch.tensor(list(order))

    def fixed_units(self, schedule: Schedule, t: int) -> list[int]:
        order, k = self._kept(self.given, schedule, t)
        return sorted(order[:k].tolist())

    def _kept(self, scores: torch.Tensor, schedule: Schedule, t: int):
        size = self.num_kept(schedule, t, self.total(self.given))
        return self.given, count_fitting(self.given, self.costs, size)

    def ranking(self, scores: torch.Tensor, record: ZeroOuts) -> torch.Tensor:
        return self.given
