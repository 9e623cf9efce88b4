"""Selection against values recorded from the authors' code."""

import pytest
import torch

from espnet_des.method.selection import (
    IterativeZeroOut,
    Schedule,
    SimpleTopK,
    ZeroOuts,
    best_first,
    relaxed_topk,
)
from tests.conftest import reference


@pytest.mark.parametrize("case", reference("a_relaxed_topk.json")["cases"],
                         ids=lambda c: f"{c['n']}-{c['k']}-{c['kind'][:6]}")  # fmt: skip
def test_relaxed_topk_as_recorded(case):
    scores = torch.tensor(case["gates"], requires_grad=True)
    weights = torch.tensor(case["w"])
    hard = relaxed_topk(scores, case["k"])
    (hard * weights).sum().backward()
    soft = relaxed_topk(scores.detach(), case["k"], hard=False)
    if case["mask"] is not None:  # null where scores tie: any order is right there
        assert hard.tolist() == [float(v) for v in case["mask"]]
    assert sorted(set(hard.tolist())) == [0.0, 1.0] and hard.sum() == case["k"]
    torch.testing.assert_close(soft, torch.tensor(case["soft"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores.grad, torch.tensor(case["grad_f64"]), atol=1e-5, rtol=0)


def test_relaxed_topk_breaks_ties_by_index_and_checks_k():
    assert relaxed_topk(torch.full((4,), 0.5), 2).tolist() == [1, 1, 0, 0]
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k={k}"):
            relaxed_topk(torch.zeros(4), k)


@pytest.mark.parametrize("case", reference("b_k_schedule.json")["schedules"],
                         ids=lambda c: c["name"])  # fmt: skip
def test_k_anneals_as_recorded(case):
    full, smallest = case["sizes"][-1], case["sizes"][0]
    zeroed = range(case["reduction"], full - smallest + 1, case["reduction"])
    schedule = Schedule((case["steps_per_iter"],) * len(zeroed), tuple(zeroed))
    assert len(zeroed) == case["num_iters"]
    assert schedule.last_update == case["last_stage1_step"]
    for step, stage, k, _ in case["rows"]:
        assert (1 if step <= schedule.last_update else 2) == stage
        if stage == 1:
            assert SimpleTopK().num_kept(schedule, step, full) == k


@pytest.mark.parametrize("case", reference("c_zero_out.json")["schedules"],
                         ids=lambda c: c["name"])  # fmt: skip
def test_zero_outs_as_recorded(case):
    schedule = Schedule(
        tuple(case["num_steps_per_iter"]), tuple(case["num_zeroout_elements_per_iter"])
    )
    num_layers, method = case["sizes"][-1], IterativeZeroOut()
    assert list(schedule.ends) == case["cum_steps"]
    for row in case["rows"]:
        t = row["step"]
        assert (1 if t <= schedule.last_update else 2) == row["stage"]
        if row["stage"] == 2:
            continue
        i = method.iteration(schedule, t)
        assert i == row["iter_idx"]
        assert schedule.zeroed[i] / num_layers == row["expected_sparsity"]
        marked = num_layers - method.num_kept(schedule, t, num_layers)
        assert marked == row["n_layers_marked_for_layer_dropout"]
        if "gates" not in row:
            continue
        scores = torch.tensor(row["gates"])
        assert len(method.outside(scores, schedule, t)) == marked
        gap = method.penalty(scores, schedule, t)
        assert gap.item() == pytest.approx(row["sparsity_loss"], abs=2e-6)
        # The record says that the zero-outs before this iteration were made.
        was_out = torch.zeros(num_layers, dtype=torch.float64)
        was_out[best_first(scores)[num_layers - schedule.zeroed[i - 1] :]] = i
        record = ZeroOuts(was_out if i else was_out * 0, torch.zeros(num_layers).double())
        changed = method.zero_out(scores, record, schedule, t)
        if t == schedule.last_update:
            continue  # recorded from the code that skips the last zero-out
        zeroed = [] if changed is None else (changed[0] != scores).nonzero().flatten().tolist()
        assert zeroed == row["zeroed"]


def test_gradient_of_the_sparsity_loss_as_recorded():
    case = reference("c_zero_out.json")["sparsity_grad_example"]
    scores = torch.tensor(case["gates"], requires_grad=True)
    layers = scores.numel()
    schedule = Schedule((10,), (round(case["expected_sparsity"] * layers),))
    loss = 5.0 * IterativeZeroOut().penalty(scores, schedule, 0)
    loss.backward()
    assert loss.item() == pytest.approx(case["scaled_loss"], rel=1e-5)
    torch.testing.assert_close(scores.grad, torch.tensor(case["grad"]), rtol=1e-3, atol=1e-8)


def run_zero_outs(method, schedule, histories):
    """Scores by zero-out; returns the final scores and the record."""
    n = len(histories[0])
    record = ZeroOuts(torch.zeros(n).double(), torch.zeros(n).double())
    for history, t in zip(histories, schedule.ends):
        scores, record = method.zero_out(torch.tensor(history), record, schedule, t)
    return scores, record


def test_ranking_goes_by_the_zero_out_at_which_a_layer_left_for_good():
    schedule = Schedule((10, 10, 10), (1, 2, 3))
    histories = [
        [1.0, 9.0, 8.0, 7.0, 6.0],  # 0 leaves
        [5.0, 9.0, 3.0, 2.0, 6.0],  # 0 is back; 3 and 2 leave
        [5.0, 9.0, -4.0, -5.0, 4.0],  # 2 and 3 are still out; 4 leaves
    ]
    scores, record = run_zero_outs(IterativeZeroOut(), schedule, histories)
    assert scores.tolist() == [5, 9, -5, -5, -5]
    assert record.at.tolist() == [0, 0, 2, 2, 3]
    assert record.score.tolist() == [0, 0, 3, 2, 4]
    assert IterativeZeroOut().ranking(scores, record).tolist() == [1, 0, 4, 2, 3]


def test_published_ranking_goes_by_the_scores_before_the_last_zero_out():
    schedule = Schedule((10, 10, 10), (1, 2, 3))
    histories = [
        [1.0, 9.0, 8.0, 7.0, 6.0],
        [5.0, 9.0, 3.0, 2.0, 6.0],
        [5.0, 9.0, -4.9, -4.0, -4.5],  # by drift alone 3 is before 4 before 2
    ]
    method = IterativeZeroOut(published_ranking=True)
    scores, record = run_zero_outs(method, schedule, histories)
    assert method.ranking(scores, record).tolist() == [1, 0, 3, 4, 2]


def test_a_late_zero_out_is_made_up_for():
    """Nothing fires at one exact number only."""
    schedule = Schedule((3, 3), (1, 2))
    method, n = IterativeZeroOut(), 4
    record = ZeroOuts(torch.zeros(n).double(), torch.zeros(n).double())
    scores = torch.arange(4.0)
    assert method.zero_out(scores, record, schedule, 2) is None
    scores, record = method.zero_out(scores, record, schedule, 5)  # due at 3
    assert record.at.tolist() == [1, 0, 0, 0]
    scores, record = method.zero_out(scores, record, schedule, 6)
    assert record.at.tolist() == [1, 2, 0, 0]
    assert method.zero_out(scores, record, schedule, 7) is None


def test_scores_that_are_all_equal_are_ranked_by_index():
    assert best_first(torch.full((6,), 0.5)).tolist() == list(range(6))


@pytest.mark.parametrize("seed", range(5))
def test_every_zero_out_has_its_turn_where_layers_cost_more_than_its_step(seed):
    """One dear layer may be all that two of them take out."""
    costs = torch.tensor([8.0, 5.0, 3.0, 8.0] * 6).double()
    costs *= 24 / costs.sum()
    method = IterativeZeroOut(costs=costs)
    schedule = Schedule((3,) * 16, tuple(range(1, 17)))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(24, generator=generator)
    record, fired = ZeroOuts(torch.zeros(24).double(), torch.zeros(24).double()), []
    for t in range(schedule.last_update + 1):
        scores = scores + 0.1 * torch.randn(24, generator=generator)
        changed = method.zero_out(scores, record, schedule, t)
        if changed is None:
            continue
        scores, record = changed
        fired.append(t)
        left = float(costs[record.at == 0].sum())
        asked = 24 - schedule.zeroed[len(fired) - 1]
        assert asked - float(costs.max()) < left <= asked + 1e-9
    assert fired == list(schedule.ends)
