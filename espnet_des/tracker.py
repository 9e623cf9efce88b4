"""What happens to the selection between two updates, and what is told of it."""

import torch

from espnet_des.encoder import DESConformerEncoder
from espnet_des.options import SelectionOptions
from espnet_des.skipped import HOW_TO_GO_ON


class SelectionTracker:
    """Advances the selection of a supernet, and counts how it changes.

    Args:
        encoder: the supernet; its state dict holds all that training needs.
            The counts here are for the log only, and begin anew every epoch.
        options: of the method.
    """

    def __init__(self, encoder: DESConformerEncoder, options: SelectionOptions):
        self.encoder, self.options = encoder, options
        self.start_epoch()

    def start_epoch(self) -> None:
        """Count the changes of the selection anew."""
        self.swaps = 0
        self._chosen = set(self.encoder.kept_layers(self.encoder.sizes[0]))

    @torch.no_grad()
    def after_step(self) -> None:
        """Advance counter and selection; the optimizer's post-step hook.

        In update t = c_i the lowest scores are zeroed; with the last update of
        stage 1 the ranking of the layers becomes final.

        Raises:
            RuntimeError: where scores are not finite, which cannot be ranked.
        """
        encoder, state = self.encoder, self.encoder.selection
        t = int(state.updates)
        if not state.is_frozen:
            schedule = state.get_schedule()
            scores = encoder.scores.detach().cpu()
            if not scores.isfinite().all():
                raise RuntimeError(
                    f"the scores of the layers are not finite after update {t + 1}: {scores}. "
                    "The learning rate, or model_conf: score_lr_factor, is too high. "
                    f"{HOW_TO_GO_ON}"
                )
            changed = encoder.selector.zero_out(scores, state.record, schedule, t)
            if changed is not None:
                scores, state.record = changed
                encoder.scores.copy_(scores)
            if self.options.is_averaged(schedule, t):
                state.score_sum += scores
                scores = state.score_sum  # only their order counts from here on
            ranking = encoder.selector.ranking(scores, state.record)
            chosen = set(ranking[: encoder.sizes[0]].tolist())
            self.swaps += len(chosen - self._chosen)
            self._chosen = chosen
            if t >= schedule.last_update:
                state.freeze(ranking)
        state.updates += 1

    def score_margin(self) -> float:
        """Gap between the smallest size's lowest score and the next below it."""
        scores, smallest = self.final_scores(), self.encoder.sizes[0]
        ranking = self.encoder.ranking()
        return float(scores[ranking[:smallest]].min() - scores[ranking[smallest]])

    def score_spread(self) -> float:
        """Highest less lowest score: 0 would mean that nothing was learned."""
        scores = self.final_scores()
        return float(scores.max() - scores.min())

    def final_scores(self) -> torch.Tensor:
        """Scores ``(num_layers,)``; of a zeroed layer that before it left.

        Where the last iterations are averaged, and these have begun: their mean.
        """
        encoder, state = self.encoder, self.encoder.selection
        scores, record = encoder.scores.detach().cpu().double(), state.record
        if state.score_sum.any():
            schedule = state.get_schedule()
            last = min(int(state.updates), schedule.last_update + 1)
            scores = state.score_sum / sum(
                self.options.is_averaged(schedule, t) for t in range(last)
            )
        return torch.where(record.at > 0, record.score, scores)
