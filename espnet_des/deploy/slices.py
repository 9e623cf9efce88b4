"""Measured sizes: the costs and word error rates that a recipe wrote into ``slices.json``."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espnet_des.errors import ConfigError, is_number

# Budgets, and what their costs are called in the file.
KEYS = {"macs": "macs_per_second", "params": "params", "file_size": "file_bytes", "rtf": "rtf"}


class Slices(NamedTuple):
    """What is known of some sizes.

    Attributes:
        costs: of each size.
        wers: of each size the mean word error rate of its test sets, percent; or empty.
    """

    costs: dict[int, float]
    wers: dict[int, float]


def read_slices(path: Path, budget: str, sizes: Mapping[int, int]) -> Slices:
    """Read a file of measured sizes.

    Args:
        path: of the file: ``{"slices": [{"size": 16, "params": ..., "wer": {...}}, ...]}``.
        budget: for which of ``KEYS``, or ``ms``, costs are wanted.
        sizes: those that the model has, and their parameters.

    Raises:
        ConfigError: names the file, the entry and the key that is wrong.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        about, entries = content.get("about") or {}, content["slices"]
        if not isinstance(entries, list) or not entries:
            raise ValueError("slices: must be a list of measured sizes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"slices: {path} cannot be read ({type(error).__name__}: {error}); give the "
            'slices.json of a recipe, {"slices": [{"size": 16, ...}, ...]}'
        ) from error
    factor, key = 1.0, KEYS.get(budget, "rtf")
    if budget == "ms":
        seconds: Any = about.get("seconds") if isinstance(about, dict) else None
        if not _is_positive(seconds):
            raise ConfigError(
                f"ms: {path} does not tell milliseconds: about: seconds: {seconds!r}; give rtf"
            )
        factor = 1000.0 * seconds
    costs: dict[int, float] = {}
    wers: dict[int, Mapping[str, float]] = {}
    for number, entry in enumerate(entries):
        where = f"slices: {path}: slices[{number}]"
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: {entry!r} must be an object such as {{'size': 16}}")
        size = entry.get("size")
        if type(size) is not int or size not in sizes or size in costs:
            raise ConfigError(
                f"{where}: size: {size!r} must be one of {list(sizes)}, those of the model, each "
                "once"
            )
        if entry.get("params", sizes[size]) != sizes[size]:
            raise ConfigError(
                f"{where}: params: {entry['params']!r}: size {size} of this model has "
                f"{sizes[size]}; the file is of another training"
            )
        cost: Any = entry.get(key)
        if not _is_positive(cost):
            raise ConfigError(f"{where}: {key}: {cost!r} must be a number above 0")
        costs[size] = factor * cost
        wers[size] = _rates(where, entry.get("wer") or {})
        if wers[size].keys() != wers[next(iter(wers))].keys():
            raise ConfigError(
                f"{where}: wer: {wers[size]!r} must be of the same test sets as those before it"
            )
    means = {size: statistics.mean(rates.values()) for size, rates in wers.items() if rates}
    return Slices(dict(sorted(costs.items())), means)


def _rates(where: str, wer) -> Mapping[str, float]:
    is_right = isinstance(wer, dict) and all(
        is_number(rate) and 0 <= rate < float("inf") for rate in wer.values()
    )
    if not is_right:
        raise ConfigError(
            f"{where}: wer: {wer!r} must be percent by test set, such as {{'test_clean': 5.1}}"
        )
    return wer


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < float("inf")
