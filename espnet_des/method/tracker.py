"""What happens to the selection between two updates, and what is told of it."""

from typing import NamedTuple

import numpy
import torch

from espnet_des.errors import HOW_TO_GO_ON
from espnet_des.method.options import SelectionOptions
from espnet_des.method.selection import ZeroOuts
from espnet_des.method.state import SelectionState
from espnet_des.utils.ranks import as_the_first_has_it


class History(NamedTuple):
    """Scores over a training.

    Attributes:
        updates: numbers of updates done, ascending, ``(points,)``.
        scores: the scores then, ``(points, num_units)``.
    """

    updates: numpy.ndarray
    scores: numpy.ndarray


class SelectionTracker:
    """Advances the selection of a supernet, and counts how it changes.

    The state and the scores hold all that training needs. The counts here are for the log
    only, and begin anew every epoch.

    Args:
        state: of the supernet.
        selector: how scores are read, see :class:`Selector`.
        options: of the method.
    """

    def __init__(self, state: SelectionState, selector, options: SelectionOptions):
        self.state, self.selector, self.options = state, selector, options
        self.swaps = 0
        self._chosen: set[int] = set()

    def start_epoch(self, scores: torch.Tensor) -> None:
        """Count the changes of the selection anew.

        Args:
            scores: the supernet's, as in all methods here.
        """
        ranking = self.state.current_ranking(scores, self.selector)
        self.swaps, self._chosen = 0, self._smallest(ranking)

    def _smallest(self, ranking) -> set[int]:
        return set(self.state.smallest_of(ranking))

    @torch.no_grad()
    def after_step(self, scores: torch.Tensor) -> None:
        """Advance counter and selection; the optimizer's post-step hook.

        In update t = c_i the lowest scores are zeroed; with the last update of
        stage 1 the ranking of the layers becomes final. Of several processes the first
        decides both, for all: two kinds of GPUs may differ in a score's last bit.

        Args:
            scores: are changed in place where they are zeroed.

        Raises:
            RuntimeError: where scores are not finite, which cannot be ranked.
        """
        state, t = self.state, int(self.state.updates)
        if not state.is_frozen:
            self._choose(scores, t)
        state.updates += 1

    def _choose(self, scores: torch.Tensor, t: int) -> None:
        state, schedule = self.state, self.state.get_schedule()
        assert schedule is not None, "nothing is trained without a schedule"
        now = scores.detach().cpu()
        if not now.isfinite().all():
            raise RuntimeError(
                f"the scores of the layers are not finite after update {t + 1}: {now}. "
                "The learning rate, or model_conf: score_lr_factor, is too high. "
                f"{HOW_TO_GO_ON}"
            )
        changed = self.selector.zero_out(now, state.record, schedule, t)
        if changed is not None:
            now, *record = as_the_first_has_it(changed[0], *changed[1])
            scores.copy_(now)
            state.record = ZeroOuts(*record)
        if self.options.is_averaged(schedule, t):
            state.score_sum += now
            now = state.score_sum  # only their order counts from here on
        ranking = self.selector.ranking(now, state.record)
        if t >= schedule.last_update:
            (ranking,) = as_the_first_has_it(ranking)
            state.freeze(ranking)
        chosen = self._smallest(ranking.tolist())
        self.swaps += len(chosen - self._chosen)
        self._chosen = chosen

    def score_margin(self, scores: torch.Tensor) -> float:
        """Gap between the smallest size's lowest score and the next below it, per cost if asked."""
        final = self.selector.importance(self.final_scores(scores))
        ranking = self.state.current_ranking(scores, self.selector)
        kept = self.state.smallest_of(ranking)
        return float(final[kept].min() - final[ranking[len(kept)]])

    def score_spread(self, scores: torch.Tensor) -> float:
        """Highest less lowest score: 0 would mean that nothing was learned."""
        final = self.final_scores(scores)
        return float(final.max() - final.min())

    def final_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``(num_units,)``; of a zeroed one that before it left.

        Where the last iterations are averaged, and these have begun: their mean.
        """
        state = self.state
        final = self.selector.of_layers(scores.detach().cpu().double())
        record = state.record
        if state.score_sum.any():
            schedule, done = state.get_schedule(), int(state.updates)
            assert schedule is not None, "nothing is summed without a schedule"
            final = state.score_sum / self.options.count_averaged(schedule, done)
        return torch.where(record.at > 0, record.score, final)
