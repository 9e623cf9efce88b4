"""What a user may set of the method, checked before any training.

These are the keys of ``model_conf`` that ``model: des`` adds to ESPnet's own.
"""

import logging
from dataclasses import dataclass, fields
from typing import Any

import torch

from espnet_des.errors import ConfigError, is_number, text_hint
from espnet_des.method.fixed_ranking import FixedRanking
from espnet_des.method.methods import METHODS
from espnet_des.method.ortho_softmax import OrthoSoftmax
from espnet_des.method.selection import (
    IterativeZeroOut,
    Schedule,
    Selector,
    SimpleTopK,
)
from espnet_des.method.sizes import BUDGETS

# Settings under one name, for ``preset``; docs/options.md tells what they are for.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper and its code, where the defaults differ from them.
    "published": {
        "selection_share": 0.6, "published_ranking": True, "middle_from_full": False,
        "exit_weight": 0.0, "distillation_weight": 0.0,
    },
    # A sixth less work than the default, where the smallest size loses least: it has all
    # utterances while it trains what it keeps.
    "fast": {"rows_stage_1": 0.25, "rows_middle": 0.75},
}  # fmt: skip

# Of scores, for ``score_steps``: of one length, or the longer the larger the gradient.
STEPS = EQUAL, BY_GRADIENT = ("equal", "by_gradient")

# What float32 can hold; NaN is for the bounds of each key to refuse.
LARGEST = 3e38


@dataclass(frozen=True)
class SelectionOptions:
    """Settings of the two-stage training; defaults follow the paper.

    docs/options.md tells what each of them does.
    """

    preset: str | None = None
    method: str = "simple_top_k"
    ranking: list[int] | None = None
    budget: str = "layers"
    cost_table: str | None = None
    rank_per_cost: bool = False
    selection_share: float | None = None
    updates_per_iteration: int | list[int] | None = None
    reduction: int | None = None
    zeroed: list[int] | None = None
    hard_gates: bool = True
    published_ranking: bool = False
    stochastic_depth_p1: float = 0.0
    stochastic_depth_p2: float = 0.3
    loss_weight_full: float = 1.0
    loss_weight_small: float = 0.3
    loss_weight_middle: float = 0.3
    rows_stage_1: float = 1.0
    rows_small: float = 1.0
    rows_middle: float = 1.0
    exit_weight: float | None = None
    distillation_weight: float | None = None
    teacher_config: str | None = None
    teacher_model_file: str | None = None
    sparsity_weight: float = 5.0
    temperature_final: float = 0.165
    orthogonality_weight: float = 1.0
    score_lr_factor: float | None = None
    score_lr_final: float = 1.0
    score_steps: str | None = None
    averaged_iterations: int = 0
    shared_output: bool = False
    middle_from_full: bool = True
    max_skipped_updates: int = 100

    # [DEVIATION] from 0.6: the smallest size's layers change until stage 1 ends, and only
    # stage 2 trains what is left; short runs need more of it (docs/earlier_results.md).
    DEFAULT_SHARE = 0.45
    # [DEVIATION] from none: the larger sizes are much better for it (docs/earlier_results.md).
    DEFAULT_EXITS = 0.3
    # [DEVIATION] from none: the smaller sizes are better for it (RESULTS.md).
    DEFAULT_DISTILLATION = 0.2

    @classmethod
    def keys(cls) -> list[str]:
        return [f.name for f in fields(cls)]

    @classmethod
    def of_preset(cls, **given: Any) -> "SelectionOptions":
        """The settings of a preset, but for those that are given.

        Args:
            **given: keys of ``model_conf``; without ``preset`` the rest are the defaults.
        """
        preset = given.get("preset")
        if preset is not None and preset not in list(PRESETS):
            raise ConfigError(
                f"model_conf: preset: {preset!r} must be one of {sorted(PRESETS)}, or left out"
            )
        own = {} if preset is None else dict(PRESETS[preset])
        if given.get("updates_per_iteration") is not None:
            own.pop("selection_share", None)  # they say the same thing
        # What ESPnet's --print_config writes where nothing is given is not given.
        given = {k: v for k, v in given.items() if v is not None or k not in own}
        for key in own.keys() & given.keys():
            if given[key] != own[key]:
                logging.warning(
                    f"model_conf: {key}: {given[key]!r} is given, and counts more than "
                    f"preset: {preset}, which has {own[key]!r}"
                )
        return cls(**(own | given))

    def __post_init__(self):
        def need(ok: bool, key: str, right: str):
            if not ok:
                raise ConfigError(f"model_conf: {key}: {getattr(self, key)!r} must be {right}")

        def number(key: str) -> float:
            value = getattr(self, key)
            need(is_number(value), key, f"a number{text_hint(value)}")
            need(not abs(value) > LARGEST, key, f"a number up to {LARGEST:.0e}")
            return value

        # In a list: what YAML can hold is not always hashable.
        need(self.method in list(METHODS), "method", f"one of {sorted(METHODS)}")
        need(self.budget in BUDGETS, "budget", f"one of {list(BUDGETS)}")
        needs_table = self.budget == "ms"
        need(
            isinstance(self.cost_table, str) if needs_table else self.cost_table is None,
            "cost_table",
            "a file that python3 -m espnet_des.bin.cost_table wrote, with budget: ms"
            if needs_table
            else f"left out: it belongs to budget: ms, not to {self.budget}",
        )
        for key in (
            "rank_per_cost",
            "hard_gates",
            "published_ranking",
            "shared_output",
            "middle_from_full",
        ):
            need(isinstance(getattr(self, key), bool), key, "true or false")
        for key in ("stochastic_depth_p1", "stochastic_depth_p2"):
            need(0.0 <= number(key) < 1.0, key, "at least 0 and below 1")
        for key in ("loss_weight_full", "loss_weight_small", "loss_weight_middle"):
            need(0.0 < number(key) < float("inf"), key, "above 0")
        for key in ("rows_stage_1", "rows_small", "rows_middle"):
            need(0.0 < number(key) <= 1.0, key, "above 0 and at most 1 (all utterances)")
        if self.exit_weight is not None:
            need(0.0 <= number("exit_weight") < 1.0, "exit_weight", "at least 0 and below 1")
        temperature = number("temperature_final")
        need(0.0 < temperature <= 1.0, "temperature_final", "above 0 and at most 1")
        of_losses = ["sparsity_weight", "orthogonality_weight"]
        if self.distillation_weight is not None:
            of_losses.append("distillation_weight")
        for key in of_losses:
            need(0.0 <= number(key) < float("inf"), key, ">= 0")
        teacher = ("teacher_config", "teacher_model_file")
        for key in teacher:
            value = getattr(self, key)
            need(
                value is None or isinstance(value, str), key, "the path of a file, or left out"
            )
        for key, other in (teacher, teacher[::-1]):
            is_given, is_other = (getattr(self, k) is not None for k in (key, other))
            need(is_given or not is_other, key, f"a path, too, with {other}: a model is both")
            need(
                not is_given or self.distillation_weight != 0.0, key,
                "left out where distillation_weight is 0: nothing would be learned from it",
            )  # fmt: skip
        if self.score_lr_factor is not None:
            factor = number("score_lr_factor")
            need(0.0 < factor < float("inf"), "score_lr_factor", "above 0")
        if self.selection_share is not None:
            share = number("selection_share")
            need(0.0 < share < 1.0, "selection_share", "between 0 and 1, exclusive")
            need(
                self.updates_per_iteration is None,
                "selection_share",
                "left out where updates_per_iteration is given "
                f"({self.updates_per_iteration!r}): they say the same thing",
            )
        need(0.0 <= number("score_lr_final") <= 1.0, "score_lr_final", "between 0 and 1")
        is_known = self.score_steps is None or self.score_steps in list(STEPS)
        need(is_known, "score_steps", f"one of {list(STEPS)}, or left out")
        count = self.averaged_iterations
        need(type(count) is int and count >= 0, "averaged_iterations", "an integer >= 0")
        need(
            not (self.rank_per_cost and count),
            "rank_per_cost",
            f"left out where averaged_iterations is given ({count!r}): sums of scores cannot "
            "be weighed against costs",
        )
        limit = self.max_skipped_updates
        need(type(limit) is int and limit >= 1, "max_skipped_updates", "an integer >= 1")
        for key, unset, owners in (
            ("reduction", None, ("simple_top_k", "fixed")),
            ("averaged_iterations", 0, ("simple_top_k",)),
            ("hard_gates", True, ("simple_top_k",)),
            ("score_steps", None, ("simple_top_k",)),
            ("zeroed", None, ("iterative_zero_out",)),
            ("sparsity_weight", type(self).sparsity_weight, ("iterative_zero_out",)),
            ("ranking", None, ("fixed",)),
            ("rank_per_cost", False, ("simple_top_k", "iterative_zero_out", "ortho_softmax")),
            ("temperature_final", type(self).temperature_final, ("ortho_softmax",)),
            ("orthogonality_weight", type(self).orthogonality_weight, ("ortho_softmax",)),
        ):
            need(
                getattr(self, key) == unset or self.method in owners,
                key,
                f"left out: it belongs to method: {' and '.join(owners)}, not to {self.method}",
            )

    def selector(self, num_layers: int, costs: torch.Tensor | None = None) -> Selector:
        """How the scores are read.

        Args:
            num_layers: that have scores.
            costs: of these, see :class:`Selector`.
        """
        own: dict[str, Any] = {"costs": costs, "per_cost": self.rank_per_cost}
        if self.method == "simple_top_k":
            return SimpleTopK(self.hard_gates, **own)
        if self.method == "iterative_zero_out":
            return IterativeZeroOut(self.published_ranking, self.sparsity_weight, **own)
        if self.method == "ortho_softmax":
            return OrthoSoftmax(self.temperature_final, self.orthogonality_weight, **own)
        order = self.ranking
        if (
            not isinstance(order, (list, tuple))
            or any(type(q) is not int for q in order)
            or (sorted(order) != list(range(num_layers)))
        ):
            raise ConfigError(
                f"model_conf: ranking: {order!r} must be a list of all layers (or components), "
                f"0 to {num_layers - 1}, the most important first (method: fixed)"
            )
        return FixedRanking(order, costs)

    def score_lr_at(self, schedule: Schedule, t: int) -> float:
        """Share of the scores' learning rate at update t: linear over stage 1."""
        return 1.0 - (1.0 - self.score_lr_final) * min(1.0, t / max(1, schedule.last_update))

    def steps_of_scores(self, are_components: bool) -> str:
        """Which of ``STEPS`` the scores make, of components or of layers."""
        if self.score_steps is not None:
            return self.score_steps
        # [DEVIATION] from equal ones: components differ in what they do far more than layers.
        # Weighed against costs each score must be able to move as far as any.
        weigh = are_components and self.method == "simple_top_k" and not self.rank_per_cost
        return BY_GRADIENT if weigh else EQUAL

    def distillation_at(self, schedule: Schedule, t: int) -> float:
        """Weight of the distillation at update t: it grows linearly until stage 1 ends.

        Early on the full size has nothing to teach; a trained model has.
        """
        weight = self.distillation_weight or 0.0
        if self.teacher_config is not None:
            return weight
        return weight * min(1.0, t / max(1, schedule.last_update))

    def is_averaged(self, schedule: Schedule, t: int) -> bool:
        """True where the scores after update t count for the final choice."""
        return self.averaged_iterations > 0 and t >= self._first_averaged(schedule)

    def count_averaged(self, schedule: Schedule, done: int) -> int:
        """How many of the first ``done`` updates :meth:`is_averaged` is true of in stage 1."""
        if not self.averaged_iterations:
            return 0
        end = min(done, schedule.last_update + 1)
        return max(0, end - self._first_averaged(schedule))

    def _first_averaged(self, schedule: Schedule) -> int:
        before = len(schedule.ends) - self.averaged_iterations
        return schedule.ends[before - 1] + 1 if before > 0 else 0

    def zeroed_per_iteration(self, num_layers: int, smallest: int) -> list[int]:
        """Layers that the small pass does without, per iteration (cumulative)."""
        total = num_layers - smallest
        if METHODS[self.method].draws_size:
            return [total]  # the small pass has all sizes from the first update on
        if self.zeroed is not None:
            z = self.zeroed
            key = f"model_conf: zeroed: {z!r}"
            if not isinstance(z, (list, tuple)) or not all(type(v) is int for v in z):
                raise ConfigError(f"{key} must be a list of integers")
            if not z or z[0] < 1 or any(b <= a for a, b in zip(z, z[1:])):
                raise ConfigError(f"{key} must be increasing and start above 0")
            if z[-1] != total:
                raise ConfigError(
                    f"{key} must end at {total}: {num_layers} layers "
                    f"less the smallest size, {smallest}"
                )
            return list(z)
        step = self.reduction
        if step is None:
            # 1 always divides, so every depth has one.
            largest = max(1, total // METHODS[self.method].num_iterations)
            step = max(d for d in range(1, largest + 1) if total % d == 0)
        elif type(step) is not int or step < 1 or total % step:
            divisors = [d for d in range(1, total + 1) if total % d == 0]
            raise ConfigError(
                f"model_conf: reduction: {step!r} must divide {total} ({num_layers} "
                f"layers less the smallest size, {smallest}): one of {divisors}"
            )
        return list(range(step, total + 1, step))

    def resolve(self, num_layers: int, smallest: int, total_updates: int | None) -> Schedule:
        """Turn the options into updates.

        Args:
            total_updates: optimizer updates of the whole run; None where it is
                not known, which only a schedule in updates can do without.
        """
        zeroed = self.zeroed_per_iteration(num_layers, smallest)
        n = self.updates_per_iteration
        if n is None:
            if total_updates is None:
                raise ConfigError(
                    "model_conf: selection_share needs a run of known length, but "
                    "this iterator does not tell how many batches an epoch has; "
                    "give updates_per_iteration instead"
                )
            share = self.selection_share or self.DEFAULT_SHARE
            each = int(share * total_updates / len(zeroed))
            if each < 1:
                raise ConfigError(
                    f"model_conf: selection_share: {share} of a run of {total_updates} "
                    f"updates is too short for {len(zeroed)} iterations of at least "
                    "one update; train longer, or use fewer iterations (reduction, "
                    "zeroed)"
                )
            return Schedule((each,) * len(zeroed), tuple(zeroed))
        key = f"model_conf: updates_per_iteration: {n!r}"
        counts = list(n) if isinstance(n, (list, tuple)) else [n] * len(zeroed)
        if not all(type(c) is int and c >= 1 for c in counts):
            raise ConfigError(f"{key} must be an integer above 0, or a list of them")
        if len(counts) != len(zeroed):
            raise ConfigError(
                f"{key} has {len(counts)} iterations, but "
                f"{'zeroed' if self.zeroed is not None else 'reduction'} gives "
                f"{len(zeroed)}: {zeroed}"
            )
        return Schedule(tuple(counts), tuple(zeroed))


def check_fits(schedule: Schedule, total_updates: int | None, done: int = 0) -> None:
    """Refuse a schedule whose stage 1 does not end within the run.

    Args:
        total_updates: of the run, or what is left of it; None where it is not known.
        done: updates that the parameters have behind them, of this run or another.
    """
    if total_updates is not None and schedule.last_update + 1 - done >= total_updates:
        raise ConfigError(
            f"the selection takes updates {done} to {schedule.last_update} "
            f"({len(schedule.updates)} iterations), but the run has only "
            f"{total_updates} updates{' left' if done else ''}: the layers would never be "
            "chosen. Raise max_epoch, or lower updates_per_iteration (selection_share)"
        )
