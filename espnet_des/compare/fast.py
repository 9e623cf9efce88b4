"""Cheaper updates: what the comparison says of supernets that train on parts of each batch."""

from espnet_des.compare.systems import Config, System, comparison, supernet
from espnet_des.method.methods import OF_THE_PAPER


def fast(base: Config) -> list[System]:
    """Both methods with ``preset: fast``, and their layers alone, beside the defaults."""
    groups = {name + ending for name in OF_THE_PAPER for ending in ("", "_alone")}
    compared = comparison(base)
    asked = [system for system in compared if (system.group or system.name) in groups]
    others = [s for s in compared if s.name in OF_THE_PAPER or s.group == "separate"]
    return [cheaper(system) for system in asked] + others


def cheaper(system: System) -> System:
    """A system of the comparison, of the preset."""
    return system._replace(
        name=f"{system.name}_fast", title=f"{system.title}, fast",
        group=system.group and f"{system.group}_fast",
        needs=system.needs and f"{system.needs}_fast",
        config=lambda b, s, k: system.config(supernet(b, preset="fast"), s, k),
    )  # fmt: skip
