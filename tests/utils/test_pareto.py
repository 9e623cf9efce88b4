"""The Pareto front of points that are made by hand."""

import pytest

from espnet_des.utils.pareto import on_front


@pytest.mark.parametrize("points, front", [
    ([], ""),
    ([(1, 9)], "+"),
    ([(1, 9), (2, 8), (3, 7)], "+++"),
    ([(1, 9), (2, 9.5), (3, 7)], "+-+"),  # dearer and worse
    ([(1, 9), (2, 9), (3, 7)], "+-+"),  # as good for more
    ([(1, 9), (1, 8)], "-+"),  # better for as much
    ([(1, 9), (1, 9), (2, 8)], "+++"),  # equal in both
    ([(1, 8), (2, 9), (2, 9)], "+--"),
    ([(3, 7), (1, 9), (2, 9.5)], "++-"),  # in any order
])  # fmt: skip
def test_front(points, front):
    costs, errors = [c for c, _ in points], [e for _, e in points]
    assert on_front(costs, errors) == [sign == "+" for sign in front]


def test_costs_without_errors_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        on_front([1, 2], [1])
