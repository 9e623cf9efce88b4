"""What a user may set of a shrink, checked before anything is done."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import yaml

from espnet_des.errors import is_number, need

# Without training, see :func:`espnet_des.shrink.ranking.rank_units`.
BY = ("angle", "loss", "greedy")
LEARNED = "scores"
RANKINGS = (LEARNED, *BY)
NORMS = ("layer_norm", "batch_norm")
# Of the highest learning rate for each part of the updates, up to all of it: the fewer they are,
# the less of what the original knows may be lost (docs/shrinking.md).
LR_PER_SHARE = 2.5


def _value(word: str) -> Any:
    """Of a command line; YAML alone takes 1e-1 for a text."""
    value = yaml.safe_load(word)
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


@dataclass(frozen=True)
class ShrinkOptions:
    """How a supernet is made of a trained model.

    Attributes:
        sizes: numbers of layers, or ``any``; None for a third, two thirds and all.
        share: of the updates that the original was trained with; with 0 nothing is trained.
        lr_factor: the highest learning rate, as a part of the original's; None for 2.5 times
            the share, 1 at most.
        rank_by: what chooses the layers: what the original does with some of the validation
            data, see :func:`rank_units`, or ``scores``, which are learned.
        start_by: what order the scores start from; None where all start alike.
        conv_norm: what a Conformer's convolutions have where the original has BatchNorm.
        teacher: let the original teach the full size, and both the others, with this weight; 0
            for no teacher.
        calibration: number of utterances that the layers are ranked by.
    """

    sizes: Sequence[int] | str | None = None
    share: float = 0.2
    lr_factor: float | None = None
    rank_by: str = "loss"
    start_by: str | None = None
    conv_norm: str = "batch_norm"
    teacher: float = 0.3
    calibration: int = 200

    def __post_init__(self):
        def check(ok: bool, key: str, right: str):
            need(ok, key, getattr(self, key), right)

        def is_between(value: Any, low: float, high: float) -> bool:
            return is_number(value) and low <= value <= high

        check(is_between(self.share, 0.0, 1.0), "share", "from 0 (no training) to 1")
        is_rate = self.lr_factor is None or is_between(self.lr_factor, 1e-6, 1e6)
        check(is_rate, "lr_factor", "a number above 0")
        check(self.rank_by in RANKINGS, "rank_by", f"one of {list(RANKINGS)}")
        check(self.start_by in (None, *BY), "start_by", f"one of {list(BY)}, or left out")
        check(self.conv_norm in NORMS, "conv_norm", f"one of {list(NORMS)}")
        check(is_between(self.teacher, 0.0, 1e6), "teacher", "a weight of at least 0")
        is_count = type(self.calibration) is int and self.calibration >= 1
        check(is_count, "calibration", "an integer above 0 (utterances)")
        learns = self.rank_by == LEARNED
        check(
            self.start_by is None or learns, "start_by",
            f"left out with rank_by: {self.rank_by}, where no scores are learned",
        )  # fmt: skip
        check(
            self.share > 0.0 or not learns, "rank_by",
            f"one of {list(BY)} with share: 0, where no scores are learned",
        )  # fmt: skip

    @property
    def part_of_lr(self) -> float:
        """The highest learning rate, as a part of the original's."""
        if self.lr_factor is not None:
            return self.lr_factor
        return min(1.0, LR_PER_SHARE * self.share)

    @classmethod
    def of_words(cls, words: Sequence[str]) -> "ShrinkOptions":
        """Of a command line, such as ``--sizes 16 32 48 --share 0.2``.

        Raises:
            ConfigError: where a name or a value is none of an option.
        """
        found: dict[str, list[str]] = {}
        known, name = [field.name for field in fields(cls)], ""
        for word in words:
            if word.startswith("--"):
                name, joined, value = word[2:].partition("=")
                need(name in known, "shrink_args", word, f"one of --{', --'.join(known)}")
                found[name] = [value] if joined else []
            else:
                need(bool(name), "shrink_args", word, "an option, such as --share 0.2")
                found[name].append(word)
        chosen: dict[str, Any] = {}
        for key, values in found.items():
            need(bool(values), "shrink_args", f"--{key}", "followed by a value")
            numbers = [_value(value) for value in values]
            chosen[key] = numbers if key == "sizes" else numbers[-1]
        return cls(**chosen)

    @property
    def orders(self) -> set[str]:
        """Those of ``BY`` that are to be measured."""
        return set(BY) & {self.rank_by, self.start_by}
