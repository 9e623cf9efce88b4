"""Quantities as users write them: ``150M``, ``1.5G``, ``4MB``, ``4MiB``."""

import math
import numbers
import re
from collections.abc import Mapping
from typing import Any

from espnet_des.errors import ConfigError

PLAIN = {"": 1}
COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BYTES = {
    "": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
FORM = re.compile(r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+) ?([A-Za-z]*)", re.ASCII)


def quantity(key: str, value: Any, units: Mapping[str, int], example: str) -> float:
    """The number that a value stands for.

    Args:
        key: what it is called.
        value: a number, or a text: a number with a unit, or without one.
        units: what each stands for. (m is milli and b is bit: upper and lower case differ.)
        example: what would be right.

    Raises:
        ConfigError: where it is none above 0, or is not finite.
    """
    number, unit = value, ""
    if isinstance(value, str):
        found = FORM.fullmatch(value.strip())
        number, unit = (float(found[1]), found[2]) if found else (None, "")
    is_real = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not is_real or unit not in units or not 0 < number * units[unit] < math.inf:
        known = f", and may end in one of {[u for u in units if u]}" if len(units) > 1 else ""
        raise ConfigError(
            f"{key}: {value!r} must be a number above 0, such as {example}{known}"
        )
    return float(number * units[unit])
