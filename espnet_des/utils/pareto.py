"""The Pareto front: what nothing else is better than in both of two numbers."""

from collections.abc import Sequence


def on_front(costs: Sequence[float], errors: Sequence[float]) -> list[bool]:
    """For each point, whether no other one is at least as good in both and better in one.

    Points that are equal in both are on the front together, or not at all.

    Args:
        costs: of each point; less is better.
        errors: of each point; less is better.

    Raises:
        ValueError: where there are not as many errors as costs.
    """
    points = list(zip(costs, errors, strict=True))
    return [
        not any(c <= cost and e <= error and (c, e) != (cost, error) for c, e in points)
        for cost, error in points
    ]
