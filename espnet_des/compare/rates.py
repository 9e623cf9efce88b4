"""The learning rate: what decides the comparison, with several of them.

With one rate for all, a system that it does not suit looks worse than it is: each is to be
compared at its best.
"""

import copy

from espnet_des.compare.comparison import comparison
from espnet_des.compare.systems import Config, System, variant
from espnet_des.compare.tables import Table
from espnet_des.method.methods import OF_THE_PAPER

# Times the peak of the config.
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def rates(base: Config) -> list[System]:
    """Supernets and models alone, each with several learning rates."""
    peak = base["optim_conf"]["lr"]
    groups = {name + ending for name in OF_THE_PAPER for ending in ("", "_shared", "_alone")}
    return [
        at(system, factor, peak)
        for system in comparison(base)
        if (system.group or system.name) in groups | {"separate"}
        for factor in FACTORS
    ]


def at(system: System, factor: float, peak: float) -> System:
    """A system of the comparison with another learning rate."""
    title = f"{system.title}: {factor * peak:g}"
    if factor == 1.0:
        return system._replace(title=title)
    return variant(system, f"_lr_{factor:g}", title, lambda b: scaled(b, factor))


def scaled(base: Config, factor: float) -> Config:
    """A training config with another learning rate."""
    config = copy.deepcopy(base)
    config["optim_conf"]["lr"] *= factor
    if "max_lr" in (config.get("scheduler_conf") or {}):  # of a one-cycle schedule
        config["scheduler_conf"]["max_lr"] *= factor
    return config


def rate_tables(table: Table) -> dict[str, str]:
    return {"Word error rates": table.error_rates(), "Cost": table.costs()}
