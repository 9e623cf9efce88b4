"""What a supernet must remember besides its weights.

All of it is in the state dict, so that a resume, an average of epochs or an
inference run sees the same sets of layers as the training that made them.
"""

from collections.abc import Sequence

import torch

from espnet_des.errors import OtherTrainingError
from espnet_des.method.layers import ORDERS
from espnet_des.method.methods import METHODS
from espnet_des.method.selection import Schedule, Selector, ZeroOuts, count_fitting
from espnet_des.method.sizes import BUDGETS

METHOD_NAMES = tuple(METHODS)


class SelectionState(torch.nn.Module):
    """Update counter, schedule, record of zero-outs and the frozen ranking.

    ESPnet's n-best averaging averages float tensors, but sums integers and
    turns booleans into floats. So every value here is a whole number (or a
    float32 score) held as float64: equal values average to themselves, exactly.

    The buffers stay on the CPU in float64, whatever the model is moved to:
    reading them must not synchronise with an accelerator, and half precision
    would lose updates. DDP is told to leave them alone (see ``DESModel``).

    What is ranked are units: the layers, or components of them.

    Args:
        sizes: ascending, the last one is the number of layers.
        layer_order: name of the order in which the layers are numbered.
        costs: of the units, ``(num_units,)``, which add up to the number of layers; None
            where the units are the layers, and each costs 1.
    """

    # What checkpoints of older versions do not have: they load without it.
    ADDED_LATER = ("seed", "costs", "budget")

    # The buffers.
    updates: torch.Tensor
    score_lr_factor: torch.Tensor
    method: torch.Tensor
    budget: torch.Tensor
    seed: torch.Tensor
    layer_order: torch.Tensor
    sizes: torch.Tensor
    costs: torch.Tensor
    schedule: torch.Tensor
    zeroed_at: torch.Tensor
    zeroed_score: torch.Tensor
    score_sum: torch.Tensor
    ranking: torch.Tensor

    def __init__(self, sizes: list[int], layer_order: str, costs: torch.Tensor | None = None):
        super().__init__()
        num_layers = sizes[-1]
        costs = torch.ones(num_layers) if costs is None else costs
        num_units = len(costs)

        def buffer(name: str, value) -> None:
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float64))

        buffer("updates", 0.0)
        buffer("score_lr_factor", 1.0)
        buffer("method", -1.0)
        # What the costs are of; older versions counted layers.
        buffer("budget", 0.0)
        # Of the middle sizes' draws; -1 where an older version trained, which had none.
        buffer("seed", -1.0)
        buffer("layer_order", ORDERS.index(layer_order))
        buffer("sizes", sizes)
        buffer("costs", costs)
        # One row an iteration (updates, layers zeroed). Zeroed counts increase,
        # so there are never more iterations than layers.
        buffer("schedule", torch.zeros(num_layers, 2))
        buffer("zeroed_at", torch.zeros(num_units))
        buffer("zeroed_score", torch.zeros(num_units))
        # Over the updates whose scores are averaged for the final choice.
        buffer("score_sum", torch.zeros(num_units))
        # Layers, most important first; all 0 until stage 1 has ended.
        buffer("ranking", torch.zeros(num_units))

    def _apply(self, fn, recurse=True):
        return self  # stays on the CPU in float64

    @property
    def num_units(self) -> int:
        return self.ranking.numel()

    def first_of(self, ranking: Sequence[int], size: int) -> list[int]:
        """The units of a size: as many of the first as it has room for.

        Args:
            ranking: all units, most important first.
            size: what they may cost, in layers.
        """
        if size == self.sizes[-1]:
            return list(ranking)
        return list(ranking[: count_fitting(torch.as_tensor(ranking), self.costs, size)])

    def smallest_of(self, ranking: Sequence[int]) -> list[int]:
        """The units of the smallest size."""
        return self.first_of(ranking, int(self.sizes[0]))

    @property
    def is_frozen(self) -> bool:
        """True in stage 2: the ranking is final."""
        return bool(self.ranking.any())

    def frozen_ranking(self) -> list[int]:
        return self.ranking.long().tolist()

    def current_ranking(self, scores: torch.Tensor, selector: Selector) -> list[int]:
        """All units, most important first: final in stage 2, before that of the scores.

        Args:
            scores: the supernet's.
            selector: how they are read.
        """
        if self.is_frozen:
            return self.frozen_ranking()
        # Where the last iterations are averaged, their mean will decide.
        scores = self.score_sum if self.score_sum.any() else scores.detach().cpu()
        return selector.ranking(scores, self.record).tolist()

    def freeze(self, ranking: torch.Tensor) -> None:
        self.ranking.copy_(ranking)

    @property
    def record(self) -> ZeroOuts:
        return ZeroOuts(self.zeroed_at, self.zeroed_score)

    @record.setter
    def record(self, record: ZeroOuts) -> None:
        self.zeroed_at.copy_(record.at)
        self.zeroed_score.copy_(record.score)

    def get_schedule(self) -> Schedule | None:
        """The schedule of this training, None before its first start."""
        rows = [row for row in self.schedule.long().tolist() if row[0]]
        if not rows:
            return None
        updates, zeroed = zip(*rows)
        return Schedule(updates, zeroed)

    def set_schedule(self, schedule: Schedule) -> None:
        rows = torch.tensor([schedule.updates, schedule.zeroed], dtype=torch.float64)
        self.schedule.zero_()
        self.schedule[: rows.shape[1]] = rows.T

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict,
                              missing_keys, unexpected_keys, error_msgs):  # fmt: skip
        own = dict(self.named_buffers())
        problem = self._why_not(
            {k: state_dict[prefix + k] for k in own if prefix + k in state_dict}
        )
        if problem:
            # Reported even with strict=False, which ESPnet's inference uses.
            error_msgs.append(problem)
            return
        for name in self.ADDED_LATER:
            state_dict.setdefault(prefix + name, own[name])
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def check_whole(self, checkpoint: dict[str, torch.Tensor], keys: list[str]) -> None:
        """Refuse a supernet's checkpoint that is not this model's, or not all of it.

        Args:
            checkpoint: state dict of a whole model; others than supernets are let through.
            keys: of this model's state dict.

        Raises:
            OtherTrainingError: saying what differs, or is missing.
        """
        prefix = "encoder.selection."
        if prefix + "updates" not in checkpoint:
            return
        problem = self._why_not(
            {k.removeprefix(prefix): v for k, v in checkpoint.items() if k.startswith(prefix)}
        )
        newer = {prefix + name for name in self.ADDED_LATER}
        missing = [key for key in keys if key not in checkpoint and key not in newer]
        if not problem and missing:
            problem = (
                f"the checkpoint lacks {len(missing)} of this model's weights: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; it "
                "is truncated or belongs to another config.yaml"
            )
        if problem:
            raise OtherTrainingError(problem)

    def _why_not(self, found) -> str | None:
        """Say why a checkpoint's state cannot be this model's, or None."""
        if "sizes" in found and found["sizes"].tolist() != self.sizes.tolist():
            return (
                f"encoder_conf: sizes: the checkpoint has {_ints(found['sizes'])}, "
                f"the config {_ints(self.sizes)}; use the config.yaml beside the checkpoint"
            )
        if "layer_order" in found and found["layer_order"] != self.layer_order:
            names = [ORDERS[int(o)] for o in (found["layer_order"], self.layer_order)]
            return (
                f"encoder_conf: layer_order: the checkpoint has {names[0]}, the config "
                f"{names[1]}; use the config.yaml beside the checkpoint"
            )
        units = found.get("zeroed_at", self.zeroed_at)
        if units.shape != self.zeroed_at.shape:
            return (
                f"encoder_conf: granularity: the checkpoint chooses among {len(units)} units, "
                f"the config has {self.num_units}; use the config.yaml beside the checkpoint"
            )
        # That of an older version counted layers.
        budget = found.get("budget", torch.zeros(()))
        if "zeroed_at" in found and budget != self.budget:
            names = [BUDGETS[int(b)] for b in (budget, self.budget)]
            return (
                f"model_conf: budget: the checkpoint is of a training with {names[0]}, the "
                f"config says {names[1]}: sizes would keep other layers. Set budget: {names[0]}"
            )
        ranking = found.get("ranking")
        everything = list(range(self.num_units))
        if ranking is not None and ranking.any() and sorted(ranking.tolist()) != everything:
            return (
                "the checkpoint's ranking of layers is not one: was it averaged "
                "over stage-1 and stage-2 epochs, or over different trainings?"
            )
        method = found.get("method", self.method)
        if min(method, self.method) >= 0 and method != self.method:
            names = [METHOD_NAMES[int(m)] for m in (method, self.method)]
            return (
                f"model_conf: method: the checkpoint is of a training with {names[0]}, the "
                f"config says {names[1]}: their scores mean different things. Set method: "
                f"{names[0]}"
            )
        return None


def _ints(values: torch.Tensor) -> list[int]:
    return [int(v) for v in values]
