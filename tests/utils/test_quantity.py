"""Quantities as users write them, and what is none."""

import pytest

from espnet_des.errors import ConfigError
from espnet_des.utils.quantity import BYTES, COUNTS, PLAIN, quantity


@pytest.mark.parametrize("value, number", [
    ("150M", 150e6), ("1.5G", 1.5e9), ("2k", 2000), ("2K", 2000), ("3 M", 3e6), (" 7 ", 7),
    ("1e3", 1000), ("1.5e-3", 0.0015), (".5", 0.5), ("5.", 5), (150, 150), (0.5, 0.5),
])  # fmt: skip
def test_counts(value, number):
    assert quantity("macs", value, COUNTS, "150M") == number


def test_bytes():
    for text, number in (("4MB", 4e6), ("4MiB", 4 * 2**20), ("4096", 4096), ("1.5 KiB", 1536),
                         ("7B", 7), ("2kB", 2000), ("1GiB", 2**30)):  # fmt: skip
        assert quantity("file_size", text, BYTES, "4MB") == number


@pytest.mark.parametrize("value", [
    "", "M", "1m", "1MM", "1,5M", "1.2.3", "-1", "+1M", "nan", "inf", "1e999", "M1", "0x10", "٣",
    "1 M M", 0, -1.0, float("nan"), float("inf"), True, None, [1], "0",
])  # fmt: skip
def test_what_is_none_is_refused_by_name(value):
    with pytest.raises(ConfigError, match="^macs: .* must be a number above 0, such as 150M"):
        quantity("macs", value, COUNTS, "150M")


def test_units_of_others_are_refused():
    for key, value, units in (("file_size", "4M", BYTES), ("file_size", "4mb", BYTES),
                              ("macs", "4MB", COUNTS), ("rtf", "5m", PLAIN)):  # fmt: skip
        with pytest.raises(ConfigError, match=f"{key}: '{value}' must be"):
            quantity(key, value, units, "x")
