"""OrthoSoftmax against values recorded from the authors' code."""

import pytest
import torch

from espnet_des.method.ortho_softmax import OrthoSoftmax
from espnet_des.method.selection import Schedule, ZeroOuts, count_fitting
from tests.conftest import reference

RECORDED = reference("g_ortho_softmax.json")["cases"]
UPDATES = 225_000


def selector_of(case):
    costs = torch.tensor(case["costs"], dtype=torch.float64)
    costs *= len(costs) / costs.sum()  # ours add up to the number of layers
    return OrthoSoftmax(0.999992**UPDATES, costs=costs)


@pytest.mark.parametrize("case", RECORDED, ids=lambda c: f"{c['step']}-{c['share']}")
def test_gates_and_penalty_as_recorded(case):
    selector, n = selector_of(case), len(case["costs"])
    schedule = Schedule((UPDATES + 1,), (n - 1,))
    # The published temperature does not look at the length of stage 1.
    t = case["step"] * schedule.last_update / UPDATES
    assert selector.temperature(schedule, t) == pytest.approx(case["temperature"])
    scores = torch.tensor(case["scores"], dtype=torch.float64, requires_grad=True)
    gates = selector.gates(scores, schedule, t, size=case["share"] * n)
    close = {"atol": 1e-5, "rtol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(gates, torch.tensor(case["gates"]), **close)
    (of_gates,) = torch.autograd.grad((gates * torch.tensor(case["w"])).sum(), scores)
    torch.testing.assert_close(of_gates, torch.tensor(case["grad_of_gates"]), **close)
    if case["norm"] == "L2_norm_sqrt":
        penalty = selector.penalty(scores, schedule, t, case["share"] * n)
        assert penalty.item() == pytest.approx(case["penalty"], rel=1e-5)
        (of_penalty,) = torch.autograd.grad(penalty, scores)
        torch.testing.assert_close(of_penalty, torch.tensor(case["grad_of_penalty"]), **close)


@pytest.mark.parametrize("case", RECORDED, ids=lambda c: f"{c['step']}-{c['share']}")
def test_rows_choose_what_was_recorded_where_none_wants_what_another_has(case):
    selector, n = selector_of(case), len(case["costs"])
    record = ZeroOuts(torch.zeros(n), torch.zeros(n))
    ranking = selector.ranking(torch.tensor(case["scores"]), record).tolist()
    assert sorted(ranking) == list(range(n))
    first = torch.tensor(case["scores"]).argmax(1).tolist()
    alone = next((i for i in range(n) if first[i] in first[:i]), n)
    assert ranking[:alone] == first[:alone]
    for kept in case["final"][:-1]:
        if len(kept) <= alone:
            assert sorted(ranking[: len(kept)]) == kept


def test_the_penalty_is_0_for_rows_that_are_apart_and_has_a_gradient_everywhere():
    selector, schedule = OrthoSoftmax(temperature_final=0.01), Schedule((10,), (2,))
    apart = (100.0 * torch.eye(4)).requires_grad_()
    penalty = selector.penalty(apart, schedule, 9, 2)
    penalty.backward()
    assert penalty < 1e-6 and apart.grad.isfinite().all()
    same = selector.penalty(torch.zeros(4, 4), schedule, 9, 2)
    # Two rows of quarters: a product of 1/4, and two squared lengths of 1/4 in place of 1.
    assert same.item() == pytest.approx((0.25**2 + 2 * 0.75**2) ** 0.5)


def test_what_falls_and_what_grows_end_with_stage_1():
    selector = OrthoSoftmax(temperature_final=0.1, orthogonality_weight=3.0)
    schedule = Schedule((100,), (2,))
    at = [0, 50, 100, 5000]
    assert [selector.temperature(schedule, t) for t in at] == pytest.approx(
        [1.0, 0.1**0.5, 0.1, 0.1]
    )
    assert [selector.penalty_weight(schedule, t) for t in at] == pytest.approx([0, 1.5, 3, 3])


def test_a_size_takes_what_its_costs_allow():
    costs = torch.tensor([0.5, 2.0, 1.0, 0.5], dtype=torch.float64)
    order = torch.tensor([1, 0, 3, 2])
    assert [count_fitting(order, costs, size) for size in (1, 2, 2.4, 2.5, 3, 4)] == [
        1, 1, 1, 2, 3, 4,
    ]  # fmt: skip
    assert [count_fitting(order, None, size) for size in (1, 3, 4)] == [1, 3, 4]
