"""ESPnet's Reporter, for which only whole stage-2 epochs can be the best."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy
import torch

from espnet2.train.reporter import ReportedValue, Reporter, SubReporter, WeightedAverage
from espnet_des.espnet_api import epoch_file
from espnet_des.nn.model import DESModel

# What ESPnet's Trainer reports of an epoch's updates, beside the model's own.
OF_UPDATES = {
    "iter_time", "forward_time", "backward_time", "optim_step_time", "train_time",
    "grad_norm", "clip", "loss_scale",
}  # fmt: skip
SKIPPED = "skipped_updates"


def reported_names(model: DESModel, optimizer: torch.optim.Optimizer) -> dict[str, set[str]]:
    """Names of what a training reports by numbers, known before its first epoch.

    Returns:
        Names of ``train`` and of ``valid``; by each of them epochs can be ranked.
    """
    rates = {f"optim0_lr{number}" for number, _ in enumerate(optimizer.param_groups)}
    return {
        "train": model.names_of_stats(training=True) | OF_UPDATES | rates,
        "valid": model.names_of_stats(training=False) | {*model.selection_stats(), SKIPPED},
    }


def is_filled_in(value: ReportedValue) -> bool:
    """True of the NaN that ESPnet notes of a step in which a value does not exist.

    One that the model has computed has a weight, and tells of a training that diverges.
    """
    weighs = isinstance(value, WeightedAverage) and value.weight != 0
    return not weighs and bool(numpy.isnan(value.value))


class PresentReporter(SubReporter):
    """Tell of the latest updates what they have, and no NaN of what they have not.

    An update of stage 1 has no loss of a middle size, one of stage 2 that of a single one.
    """

    stats: dict[str, list[ReportedValue]]

    @contextlib.contextmanager
    def _only_present(self, start: int | None, end: int | None = None) -> Iterator[None]:
        everything = self.stats
        present = {k: v for k, v in everything.items()
                   if not all(map(is_filled_in, v[start:end]))}  # fmt: skip
        self.stats = present
        try:
            yield
        finally:
            self.stats = everything

    def log_message(self, start: int | None = None, end: int | None = None) -> str:
        with self._only_present(start, end):
            return super().log_message(start, end)

    def tensorboard_add_scalar(self, summary_writer, start: int | None = None) -> None:
        with self._only_present(start):
            super().tensorboard_add_scalar(summary_writer, start)

    def wandb_log(self, start: int | None = None) -> None:
        with self._only_present(start):
            super().wandb_log(start)


class StageReporter(Reporter):
    """Rank, average and stop by epochs that trained the chosen sizes throughout.

    Before, the encoder of a small size is not yet what it will be: a stage-1
    epoch with a good full size must not be picked, or averaged with later ones.
    Epochs without the value, or with one that is not finite, are not ranked.

    Args:
        best_model_criterion: ESPnet's option: phase, key and mode of each.
    """

    def __init__(self, best_model_criterion: Sequence[Sequence[str]] = ()):
        super().__init__()
        self.criteria = [tuple(criterion) for criterion in best_model_criterion]
        self.lost: set[int] = set()

    def start_epoch(self, key: str, epoch: int | None = None) -> SubReporter:
        started = super().start_epoch(key, epoch)
        return PresentReporter(key, started.epoch, started.total_count)

    def kept_epochs(self, nbest: int) -> set[int]:
        """Those that are among the n best of a criterion."""
        return {
            epoch for phase, key, mode in self.criteria
            for epoch, _ in self.sort_epochs_and_values(phase, key, mode)[:nbest]
        }  # fmt: skip

    def best_epochs(self) -> dict[str, int]:
        """``valid.cer_ctc`` and so on to the epoch that its link points to."""
        found = {f"{p}.{k}": self.sort_epochs_and_values(p, k, m) for p, k, m in self.criteria}
        return {name: epochs[0][0] for name, epochs in found.items() if epochs}

    def find_lost(self, folder: Path) -> None:
        """Leave out of the n best models the earlier epochs whose files are not there.

        ESPnet removes those that are not among the best. After a fall back to the checkpoint
        before the last, or with more to keep than before, it would miss them in averaging.
        """
        self.lost = {
            epoch for epoch in self.stats
            if epoch != self.epoch and not (folder / epoch_file(epoch)).exists()
        }  # fmt: skip

    def is_ranked(self, epoch: int) -> bool:
        """True where every update of the epoch was one of stage 2."""
        # A mean of 1 and 2; over 7 or 14 ranks one of 2 alone is not exactly 2.
        return self.stats[epoch].get("train", {}).get("stage", 0.0) > 2.0 - 1e-6

    def sort_epochs_and_values(
        self, key: str, key2: str, mode: str
    ) -> list[tuple[int, float]]:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must min or max: {mode}")
        lost = self.lost if (key, key2, mode) in self.criteria else ()
        found = [
            (epoch, stats[key][key2])
            for epoch, stats in self.stats.items()
            if self.is_ranked(epoch) and epoch not in lost and key2 in stats.get(key, {})
        ]
        finite = [pair for pair in found if numpy.isfinite(pair[1])]
        return sorted(finite, key=lambda pair: pair[1], reverse=mode == "max")

    def has(self, key: str, key2: str, epoch: int | None = None) -> bool:
        """True where ESPnet may ask for the best epoch by this value.

        The current epoch may lack it: without a middle size, for one, in all of its updates.
        """
        return bool(self.sort_epochs_and_values(key, key2, "min"))

    def get_value(self, key: str, key2: str, epoch: int | None = None):
        """The value itself, which schedulers need in every epoch; NaN where there is none."""
        epoch = self.get_epoch() if epoch is None else epoch
        if key not in self.stats.get(epoch, {}):
            raise KeyError(f"{key}.{key2} is not found in stats: {self.get_all_keys()}")
        return self.stats[epoch][key].get(key2, float("nan"))

    def check_early_stopping(
        self, patience: int, key1: str, key2: str, mode: str, *args, **kwargs
    ) -> bool:
        """Patience counts from the first whole stage-2 epoch."""
        if not self.sort_epochs_and_values(key1, key2, mode):
            return False
        return super().check_early_stopping(patience, key1, key2, mode, *args, **kwargs)
