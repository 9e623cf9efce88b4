"""What can be compared: the systems of each comparison, and what is written of them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from espnet_des.compare.ablations import ablation_tables, ablations
from espnet_des.compare.budgets import budget_tables, budgets
from espnet_des.compare.comparison import comparison, comparison_tables, draw_comparison
from espnet_des.compare.fast import fast, fast_tables
from espnet_des.compare.front_ends import draw_front_ends, front_end_tables, front_ends
from espnet_des.compare.rates import rate_tables, rates
from espnet_des.compare.rivals import draw_rivals, rival_tables, rivals
from espnet_des.compare.shrinks import shrink_tables, shrinks
from espnet_des.compare.systems import Config, System
from espnet_des.compare.tables import Table


def draw_nothing(table: Table, base: Config, folder: Path) -> None:
    pass


class Plan(NamedTuple):
    """One comparison.

    Attributes:
        systems: of the recipe's training config.
        tables: headings and tables of what is finished, in their order.
        draw: pictures of the same into a folder, once something is finished.
    """

    systems: Callable[[Config], list[System]]
    tables: Callable[[Table], dict[str, str]]
    draw: Callable[[Table, Config, Path], None] = draw_nothing


PLANS = {
    "compare": Plan(comparison, comparison_tables, draw_comparison),
    "ablations": Plan(ablations, ablation_tables),
    "budgets": Plan(budgets, budget_tables),
    "shrink": Plan(shrinks, shrink_tables),
    "front_ends": Plan(front_ends, front_end_tables, draw_front_ends),
    "rates": Plan(rates, rate_tables),
    "fast": Plan(fast, fast_tables),
    "rivals": Plan(rivals, rival_tables, draw_rivals),
}


def systems_of(what: str, base: Config) -> list[System]:
    """Those of a plan; one of the comparison's names is a training of the comparison."""
    compared = {system.name for system in comparison(base)}
    return [
        system if system.name in compared else system._replace(plan=what)
        for system in PLANS[what].systems(base)
    ]


def sections(what: str, table: Table) -> str:
    """The tables of a plan under headings, in Markdown."""
    parts = PLANS[what].tables(table)
    return "".join(f"\n## {title}\n\n{part}" for title, part in parts.items() if part)
