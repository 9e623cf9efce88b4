"""Cheaper updates: what the comparison says of supernets that train on parts of each batch."""

from espnet_des.compare.comparison import comparison
from espnet_des.compare.systems import Config, System, supernet, variant
from espnet_des.compare.tables import Table, of_methods
from espnet_des.method.methods import METHODS, OF_THE_PAPER


def fast(base: Config) -> list[System]:
    """Both methods with ``preset: fast``, and their layers alone, beside the defaults."""
    compared = comparison(base)
    asked = [
        cheaper(system, METHODS[name].title)
        for name in OF_THE_PAPER
        for system in compared
        if name in (system.name, system.needs)
    ]
    others = [s for s in compared if s.name in OF_THE_PAPER or s.group == "separate"]
    return asked + others


def cheaper(system: System, method: str) -> System:
    """A system of the comparison, of the preset.

    Args:
        system: a supernet, or its layers alone.
        method: as the title has it.
    """
    title = system.title.replace(method, f"{method}, fast")
    found = variant(system, "_fast", title, lambda b: supernet(b, preset="fast"))
    return found._replace(needs=system.needs and f"{system.needs}_fast")


def fast_tables(table: Table) -> dict[str, str]:
    return {
        "Word error rates": table.error_rates(),
        "Differences to separately trained models": table.differences(
            "separate", [f"{name}_fast" for name in OF_THE_PAPER]
        ),
        "Differences to the same layers, trained separately": (
            of_methods(table, "{}_alone_fast", "{}_fast")
        ),
        "Differences to the defaults": of_methods(table, "{}", "{}_fast"),
        "Cost": table.costs(),
    }
