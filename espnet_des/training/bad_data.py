"""Bad data: refused at the start where the tables show it, named where it spoils an update."""

from collections.abc import Collection, Sequence

import humanfriendly
import torch

from espnet2.fileio.sound_scp import SoundScpReader
from espnet2.train.dataset import AbsDataset, ESPnetDataset
from espnet_des.errors import HOW_TO_GO_ON, ConfigError
from espnet_des.utils.audio import AudioError, read_header
from espnet_des.utils.ranks import warn_of_data


def check_ids(dataset: AbsDataset, utts: Collection[str] | None, name: str) -> None:
    """Refuse tables that lack utterances of the batches.

    Args:
        dataset: of a training.
        utts: ids that the batches are made of.
        name: of the set, ``train`` or ``valid``.

    Raises:
        ConfigError: naming the table and an utterance that it lacks.
    """
    if utts is None or not isinstance(dataset, ESPnetDataset):
        return
    for key, loader in dataset.loader_dict.items():
        lacking = sorted(set(utts) - set(loader.keys()))
        if lacking:
            raise ConfigError(
                f"{name}_data_path_and_name_and_type: {dataset.debug_info[key][0]} has no line "
                f"for {len(lacking)} of the {len(utts)} utterances of {name}_shape_file, such "
                f"as {lacking[0]!r}; give tables of the same utterances"
            )


def check_rate(dataset: AbsDataset, fs, name: str) -> None:
    """Refuse audio whose rate is not the front end's, by its first file.

    Args:
        dataset: of a training.
        fs: of ``frontend_conf``, as ESPnet takes it.
        name: of the set, ``train`` or ``valid``.

    Raises:
        ConfigError: naming the file, its rate and the front end's.
    """
    if not isinstance(dataset, ESPnetDataset):
        return
    for key, loader in dataset.loader_dict.items():
        reader = getattr(loader, "loader", None)
        if not isinstance(reader, SoundScpReader) or reader.multi_columns:
            continue
        utt = next(iter(reader))
        try:
            found = read_header(reader.get_path(utt)).rate
        except AudioError:
            continue  # ESPnet names it when it comes to it
        rate = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
        if found != rate:
            raise ConfigError(
                f"frontend_conf: fs: {fs!r} must be the rate of the audio: {utt} of "
                f"{dataset.debug_info[key][0]} ({name}) has {found} Hz. Set fs, or resample"
            )


NAMED_PER_EPOCH = 10  # a training that lost its way would fill the log


def check_weights(model: torch.nn.Module) -> None:
    """Refuse to go on with weights that a finite, but far too large step has spoilt.

    Raises:
        RuntimeError: naming them; no checkpoint has them yet.
    """
    statistics = [(k, v) for k, v in model.named_buffers() if "running_" in k]
    spoilt = [k for k, v in [*model.named_parameters(), *statistics] if not v.isfinite().all()]
    if spoilt:
        raise RuntimeError(
            f"{len(spoilt)} weights are not finite any more: {', '.join(spoilt[:3])} "
            f"{'... ' if spoilt[3:] else ''}(the learning rate, or model_conf: "
            f"score_lr_factor, is too high). This epoch was not saved. {HOW_TO_GO_ON}"
        )


class SkippedUpdates:
    """Counts them without looking at a gradient: batches came, the counter stood still.

    ESPnet skips the step where the norm of the gradients is not finite, and so does AMP
    where its scale was too large. A few of them are harmless; a long row of them means
    that nothing is learned any more.

    Args:
        limit: so many in a row end the training.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.accum_grad, self.batches, self.updates, self.in_a_row = 1, 0, 0, 0
        self.start_epoch(1, 0)

    def start_epoch(self, accum_grad: int, updates: int) -> None:
        """Count anew; a row of them goes on.

        Args:
            accum_grad: batches per update.
            updates: of the training so far.
        """
        self._look_back(updates)
        self.accum_grad, self.first, self.updates = accum_grad, updates, updates
        self.batches = self.told = 0

    def total(self, updates: int) -> int:
        """How many of this epoch were skipped so far."""
        return self.batches // self.accum_grad - (updates - self.first)

    def before_batch(self, updates: int, utterances: Sequence[str] = ()) -> None:
        """Note a batch; says which utterances the last update had, if it was skipped.

        Args:
            updates: of the training so far.
            utterances: ids of this batch.

        Raises:
            RuntimeError: where too many were skipped in a row.
        """
        self._look_back(updates)
        if self.batches % self.accum_grad == 0:
            self.utterances: list[str] = []
        self.batches += 1
        self.utterances += utterances

    def _look_back(self, updates: int) -> None:
        """Did the last batches make an update?"""
        if self.batches == 0 or self.batches % self.accum_grad:
            return
        self.in_a_row = 0 if updates > self.updates else self.in_a_row + 1
        self.updates = updates
        if self.in_a_row and self.told < NAMED_PER_EPOCH:
            self.told += 1
            warn_of_data(
                f"Update {updates} was skipped: its gradients were not finite. "
                f"Utterances: {' '.join(self.utterances)}"
            )
        if self.in_a_row >= self.limit:
            raise RuntimeError(
                f"{self.in_a_row} updates in a row were skipped, because their gradients were "
                f"not finite (model_conf: max_skipped_updates: {self.limit}); the last "
                f"utterances were {' '.join(self.utterances)}. {HOW_TO_GO_ON}"
            )
