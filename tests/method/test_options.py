"""Settings that cannot work are refused, by key, value and what would be right."""

import pytest

from espnet_des.errors import ConfigError
from espnet_des.method.options import PRESETS, SelectionOptions, check_fits
from espnet_des.method.selection import Schedule
from espnet_des.method.sizes import check_sizes


@pytest.mark.parametrize(
    "conf, says",
    [
        ({"method": "top_k"}, "one of .*iterative_zero_out.*simple_top_k"),
        ({"method": None}, "one of"),
        ({"hard_gates": "yes"}, "true or false"),
        ({"stochastic_depth_p1": 1.0}, "below 1"),
        ({"stochastic_depth_p2": -0.1}, "at least 0"),
        ({"stochastic_depth_p2": "0.3"}, "a number"),
        ({"loss_weight_small": 0.0}, "above 0"),
        ({"loss_weight_full": float("nan")}, "above 0"),
        ({"sparsity_weight": -5}, ">= 0"),
        ({"score_lr_factor": 0}, "above 0"),
        ({"selection_share": 0.0}, "between 0 and 1"),
        ({"selection_share": 1.0}, "between 0 and 1"),
        ({"selection_share": 60}, "between 0 and 1"),
        ({"selection_share": 0.5, "updates_per_iteration": 10}, "left out"),
        ({"rows_stage_1": 2}, "above 0 and at most 1"),
        ({"rows_small": 0.0}, "above 0 and at most 1"),
        ({"rows_middle": 1.5}, "above 0 and at most 1"),
        ({"exit_weight": 1.0}, "below 1"),
        ({"distillation_weight": -0.1}, ">= 0"),
        ({"teacher_config": "c.yaml", "distillation_weight": 1.0}, "teacher_model_file: None"),
        (
            {"teacher_config": "c", "teacher_model_file": "m", "distillation_weight": 0.0},
            "distillation_weight is 0",
        ),
        ({"teacher_model_file": 3, "distillation_weight": 1.0}, "the path of a file"),
        ({"zeroed": [4, 8]}, "belongs to method: iterative_zero_out"),
        ({"method": "iterative_zero_out", "reduction": 4}, "belongs to method: simple_top_k"),
        ({"method": "fixed", "hard_gates": False}, "belongs to method: simple_top_k, not to"),
        ({"sparsity_weight": 2.0}, "belongs to method: iterative_zero_out, not to"),
    ],
)
def test_bad_options(conf, says):
    with pytest.raises(ConfigError, match=says) as error:
        SelectionOptions(**conf)
    assert "model_conf: " in str(error.value)


@pytest.mark.parametrize(
    "conf, says",
    [
        ({"reduction": 5}, r"must divide 32 .*\[1, 2, 4, 8, 16, 32\]"),
        ({"reduction": 0}, "must divide 32"),
        ({"reduction": 4, "updates_per_iteration": [10, 10]}, "2 iterations.*gives 8"),
        ({"updates_per_iteration": 0}, "above 0"),
        ({"updates_per_iteration": [1.5] * 8}, "above 0"),
        ({"zeroed": [8, 8, 32]}, "increasing"),
        ({"zeroed": [0, 32]}, "start above 0"),
        ({"zeroed": [8, 16]}, "must end at 32"),
        ({"zeroed": [16, 40]}, "must end at 32"),
        ({"zeroed": 32}, "list of integers"),
        ({"zeroed": [16, 32], "updates_per_iteration": [5, 5, 5]}, "3 iterations.*gives 2"),
    ],
)
def test_bad_schedules(conf, says):
    method = "iterative_zero_out" if "zeroed" in conf else "simple_top_k"
    with pytest.raises(ConfigError, match=says):
        SelectionOptions(method=method, **conf).resolve(48, 16, 10000)


def test_a_schedule_longer_than_the_run_is_refused_with_the_numbers():
    schedule = SelectionOptions(updates_per_iteration=100, reduction=4).resolve(48, 16, 700)
    with pytest.raises(ConfigError, match="updates 0 to 800 .* only 700 updates"):
        check_fits(schedule, 700)
    check_fits(schedule, 802)  # one update of stage 2
    with pytest.raises(ConfigError):
        check_fits(schedule, 801)


def test_a_share_of_a_run_too_short_or_of_unknown_length_is_refused():
    with pytest.raises(ConfigError, match="0.45 of a run of 10 updates is too short for 8"):
        SelectionOptions().resolve(48, 16, 10)
    with pytest.raises(ConfigError, match="give updates_per_iteration"):
        SelectionOptions(selection_share=0.5).resolve(48, 16, None)


def test_what_counts_more_than_a_preset_is_told(caplog):
    SelectionOptions.of_preset(preset="published", exit_weight=0.3, published_ranking=True)
    (record,) = caplog.records
    assert record.message == (
        "model_conf: exit_weight: 0.3 is given, and counts more than preset: published, "
        "which has 0.0"
    )


def test_a_preset_sets_what_is_not_given():
    published = SelectionOptions.of_preset(preset="published", middle_from_full=True)
    assert published.published_ranking and published.middle_from_full
    assert published.resolve(48, 16, 1000).last_update == 600
    in_updates = SelectionOptions.of_preset(preset="published", updates_per_iteration=10)
    assert in_updates.selection_share is None
    # As ESPnet's --print_config writes what nobody has given.
    unset = dict.fromkeys(["exit_weight", "distillation_weight", "selection_share"])
    assert SelectionOptions.of_preset(preset="published", **unset) == (
        SelectionOptions.of_preset(preset="published")
    )
    assert SelectionOptions.of_preset() == SelectionOptions()
    for wrong in ("best", 1, ["published"]):
        with pytest.raises(ConfigError, match=r"preset: .* one of \['fast', 'published'\]"):
            SelectionOptions.of_preset(preset=wrong)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out"])
def test_presets_fit_every_method(name, method):
    SelectionOptions.of_preset(preset=name, method=method)


@pytest.mark.parametrize(
    "method, iterations",
    [("simple_top_k", 8), ("iterative_zero_out", 16), ("fixed", 8), ("ortho_softmax", 1)],
)
def test_stage_1_has_its_share_of_the_updates(method, iterations):
    found = SelectionOptions(method=method).resolve(24, 8, 2400)
    assert found.updates == (1080 // iterations,) * iterations  # whole updates only
    asked = SelectionOptions(method=method, selection_share=0.5).resolve(24, 8, 2400)
    assert asked.last_update == 1200


@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out"])
@pytest.mark.parametrize("layers", range(2, 61))
def test_defaults_are_valid_at_every_depth(method, layers):
    smallest = check_sizes(None, layers)[0]
    schedule = SelectionOptions(method=method).resolve(layers, smallest, 1000)
    assert schedule.zeroed[-1] == layers - smallest
    assert 1 <= schedule.last_update <= 600
    check_fits(schedule, 1000)


def test_published_schedules():
    libri = SelectionOptions(updates_per_iteration=14640, reduction=1).resolve(48, 16, None)
    assert libri.last_update == 468480
    zero_out = SelectionOptions(
        method="iterative_zero_out",
        updates_per_iteration=[42000] + [25200] * 7,
        zeroed=list(range(4, 33, 4)),
    ).resolve(48, 16, None)
    assert zero_out == Schedule((42000,) + (25200,) * 7, tuple(range(4, 33, 4)))
