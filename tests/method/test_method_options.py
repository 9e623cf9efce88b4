"""Settings beside the two published methods: what they change, and that they are checked."""

import pytest
import torch

from espnet_des.errors import ConfigError
from espnet_des.method.options import SelectionOptions
from espnet_des.method.selection import Schedule
from tests.conftest import make_batch, make_model
from tests.nn.test_model import updates

SCHEDULE = Schedule((4, 4), (3, 5))  # 8 layers, sizes 3, 5, 8: stage 1 ends with update 8
ORDER = [4, 1, 6, 3, 0, 7, 2, 5]


@pytest.mark.parametrize("rates", [{}, {"stochastic_depth_p1": 0.5}])
def test_a_given_order_is_kept_and_learns_no_scores(rates):
    model = make_model(schedule=SCHEDULE, method="fixed", ranking=ORDER, **rates)
    scores = model.encoder.scores.clone()
    assert model.encoder.kept_layers(3) == [1, 4, 6]
    small = [model.passes(t)[1] for t in (0, 5)]
    assert [p.kept for p in small] == [[0, 1, 3, 4, 6], [1, 4, 6]]
    full = model.passes(5)[0]
    assert full.dropped == ([0, 2, 3, 5, 7] if rates else [])
    updates(model, 12)
    assert model.stage == 2 and torch.equal(model.encoder.scores, scores)
    assert model.encoder.ranking() == ORDER


@pytest.mark.parametrize("ranking", [None, [0, 1], list("abcdefgh"), [0] * 8, 5])
def test_an_order_must_be_one(ranking):
    with pytest.raises(ConfigError, match="model_conf: ranking: .* 0 to 7"):
        make_model(method="fixed", ranking=ranking)


def test_the_small_pass_of_a_given_order_is_that_of_simple_top_k():
    """Same layers, same loss: only what teaches the scores differs."""
    losses = []
    for conf in ({"method": "fixed", "ranking": ORDER}, {}):
        torch.manual_seed(0)
        model = make_model({"dropout_rate": 0.0}, SCHEDULE, **conf)
        with torch.no_grad():
            model.encoder.scores[torch.tensor(ORDER)] = torch.linspace(1.0, 0.0, 8)
        torch.manual_seed(1)
        losses.append(model.train()(**make_batch())[0])
    torch.testing.assert_close(*losses)


def test_the_middle_output_layer_goes_on_from_the_full_one():
    for option, is_equal in ((True, True), (False, False)):
        torch.manual_seed(0)
        model = make_model(schedule=SCHEDULE, middle_from_full=option)
        updates(model, 8)
        full, middle = model.ctc.ctc_lo, model.ctc.ctc_lo.of_size(5)
        assert not torch.equal(full.weight, middle.weight)
        updates(model, 1)
        assert model.stage == 2 and torch.equal(full.weight, middle.weight) == is_equal


def test_one_output_layer_for_all_sizes():
    model = make_model(schedule=SCHEDULE, shared_output=True)
    assert not list(model.ctc.ctc_lo.heads)
    assert model.ctc.ctc_lo.of_size(3) is model.ctc.ctc_lo
    updates(model, 12)
    assert model.stage == 2


def test_averaged_scores_decide_the_ranking():
    model = make_model(schedule=SCHEDULE, averaged_iterations=1)
    history = []
    for t in range(9):
        updates(model, 1)
        history.append(model.encoder.scores.detach().double())
        assert model.state.score_sum.any() == (t > 4)
    mean = torch.stack(history[5:]).mean(0)  # iteration 1: updates 5 to 8
    assert model.encoder.ranking() == mean.argsort(descending=True).tolist()
    torch.testing.assert_close(model.tracker.final_scores(model.encoder.scores), mean)
    assert model.tracker.score_margin(model.encoder.scores) > 0
    updates(model, 3)  # nothing moves in stage 2
    torch.testing.assert_close(model.tracker.final_scores(model.encoder.scores), mean)


def test_where_scores_are_averaged_the_provisional_choice_is_that_of_their_mean():
    model = make_model({"sizes": [2, 8]}, Schedule((2, 9), (3, 6)), averaged_iterations=1)
    for scores in ([1.0] * 6 + [5.0] * 2,) * 5 + ([1.0] * 2 + [0.0] * 6,):
        with torch.no_grad():
            model.encoder.scores.copy_(torch.tensor(scores))
        model.after_step()
    assert model.stage == 1 and model.encoder.kept_layers(2) == [6, 7]
    assert model.tracker.score_margin(model.encoder.scores) > 0
    model.tracker.start_epoch(model.encoder.scores)
    model.after_step()
    assert model.tracker.swaps == 0  # nothing has moved


def test_all_iterations_can_be_averaged():
    options = SelectionOptions(averaged_iterations=9)
    assert all(options.is_averaged(SCHEDULE, t) for t in range(9))
    assert not SelectionOptions().is_averaged(SCHEDULE, 8)


def test_the_learning_rate_of_the_scores_goes_down():
    options = SelectionOptions(score_lr_final=0.2)
    shares = [options.score_lr_at(SCHEDULE, t) for t in (0, 4, 8, 20)]
    assert shares == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert SelectionOptions().score_lr_at(SCHEDULE, 5) == 1.0


def test_scores_of_components_move_by_their_gradients():
    ours, zero_out = SelectionOptions(), SelectionOptions(method="iterative_zero_out")
    assert [ours.steps_of_scores(components) for components in (False, True)] == [
        "equal",
        "by_gradient",
    ]
    assert zero_out.steps_of_scores(True) == "equal"
    assert SelectionOptions(rank_per_cost=True).steps_of_scores(True) == "equal"
    for steps in ("equal", "by_gradient"):
        asked = SelectionOptions(score_steps=steps)
        assert {asked.steps_of_scores(components) for components in (False, True)} == {steps}


@pytest.mark.parametrize(
    "conf, says",
    [
        ({"score_steps": "long"}, r"score_steps: 'long' must be one of \['equal', 'by_grad"),
        ({"score_steps": "equal", "method": "iterative_zero_out"}, "method: simple_top_k"),
        ({"score_lr_final": 2}, "score_lr_final: 2 must be between 0 and 1"),
        ({"averaged_iterations": -1}, "averaged_iterations: -1"),
        ({"averaged_iterations": True}, "averaged_iterations: True"),
        ({"averaged_iterations": 1, "method": "iterative_zero_out"}, "simple_top_k"),
        ({"ranking": [0, 1]}, "belongs to method: fixed"),
        ({"zeroed": [1], "method": "fixed"}, "belongs to method: iterative_zero_out"),
        ({"shared_output": 1}, "shared_output: 1 must be true or false"),
        ({"middle_from_full": "yes"}, "middle_from_full"),
    ],
)
def test_settings_that_cannot_be_are_refused(conf, says):
    with pytest.raises(ConfigError, match=says):
        SelectionOptions(**conf)
