"""Schedules: they go down step by step, end at the smallest size, and are stored exactly."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from espnet_des.errors import ConfigError
from espnet_des.method.methods import METHODS
from espnet_des.method.options import SelectionOptions, check_fits
from espnet_des.method.selection import Schedule
from espnet_des.method.sizes import check_sizes, sizes_of_supernet
from espnet_des.method.state import SelectionState
from tests.conftest import examples
from tests.properties.strategies import average, runs, settings_of, size_lists

pytestmark = pytest.mark.fuzzed

LONG_RUNS = runs(st.integers(2, 60), st.integers(1, 10**8))


def times(schedule: Schedule):
    """Updates around the ends of the iterations, in order."""
    near = {0, *(end + d for end in schedule.ends for d in (-1, 0, 1))}
    return sorted(t for t in near if 0 <= t <= schedule.last_update)


@examples(200)
@given(LONG_RUNS)
def test_iterations_take_away_more_and_more_layers_until_the_smallest_size_is_left(run):
    updates, zeroed = run.schedule.updates, run.schedule.zeroed
    assert len(updates) == len(zeroed) == len(run.schedule.ends)
    assert all(n >= 1 for n in updates)
    assert all(a < b for a, b in zip((0, *zeroed), zeroed))
    assert zeroed[-1] == run.num_layers - run.sizes[0]
    assert run.last_update == sum(updates)


@examples(200)
@given(LONG_RUNS)
def test_the_small_pass_never_grows_and_every_iteration_comes(run):
    method = run.options.selector(run.num_layers)
    seen = times(run.schedule)
    kept = [method.num_kept(run.schedule, t, run.num_layers) for t in seen]
    assert all(a >= b for a, b in zip(kept, kept[1:]))
    iterations = [method.iteration(run.schedule, t) for t in seen]
    assert sorted(iterations) == iterations
    assert set(iterations) == set(range(len(run.schedule.ends)))
    if run.options.method == "iterative_zero_out":
        # Nothing is out in the first iteration; the last zero-out ends stage 1.
        assert kept[0] == run.num_layers and kept[-1] > run.sizes[0]
    else:
        assert kept[0] == run.num_layers - run.schedule.zeroed[0]
        assert kept[-1] == run.sizes[0]


@examples(200)
@given(st.data(), st.integers(1, 60), st.integers(1, 12), st.integers(1, 10**6))
def test_k_and_iterations_are_those_of_the_paper(data, smallest, reduction, n):
    """k(t) = max(N - r - r * floor(t / n), k_min); t is in iteration i up to c_i."""
    steps = data.draw(st.integers(1, 12))
    num_layers = smallest + steps * reduction
    t = data.draw(st.integers(0, n * steps))
    top_k = SelectionOptions(updates_per_iteration=n, reduction=reduction)
    schedule = top_k.resolve(num_layers, smallest, None)
    k = max(num_layers - reduction - reduction * (t // n), smallest)
    assert top_k.selector(num_layers).num_kept(schedule, t, num_layers) == k
    zero_out = SelectionOptions(method="iterative_zero_out")
    i = zero_out.selector(num_layers).iteration(schedule, t)
    assert i == min(j for j in range(steps) if t <= sum(schedule.updates[: j + 1]))


@examples(200)
@given(st.data(), st.integers(2, 60), st.integers(1, 10**6),
       st.floats(0, 1, exclude_min=True, exclude_max=True))  # fmt: skip
def test_a_share_of_the_run_is_kept_to_or_refused(data, num_layers, total, share):
    sizes = data.draw(size_lists(num_layers))
    conf = data.draw(settings_of(num_layers, sizes[0]))
    options = SelectionOptions(**conf, selection_share=share)
    iterations = len(options.zeroed_per_iteration(num_layers, sizes[0]))
    try:
        schedule = options.resolve(num_layers, sizes[0], total)
    except ConfigError:
        assert share * total < iterations
        return
    assert len(set(schedule.updates)) == 1  # all iterations are equally long
    # Whole updates per iteration: less than one each is lost, and nothing gained.
    assert 0 <= share * total - schedule.last_update < iterations * (1 + 1e-9)
    fits = schedule.last_update + 1 < total  # one update of stage 2 at least
    try:
        check_fits(schedule, total)
    except ConfigError:
        assert not fits
    else:
        assert fits


@examples(100)
@given(LONG_RUNS, st.floats(0, 1))
def test_the_learning_rate_of_the_scores_only_falls(run, final):
    options = SelectionOptions(score_lr_final=final)
    seen = [*times(run.schedule), run.last_update + 1, 10 * run.last_update]
    shares = [options.score_lr_at(run.schedule, t) for t in seen]
    assert shares[0] == 1.0
    assert all(a >= b for a, b in zip(shares, shares[1:]))
    assert all(abs(share - final) < 1e-12 for share in shares[-3:])


@examples(100)
@given(runs(st.integers(2, 12), st.integers(1, 9)))
def test_averaged_are_the_last_iterations(run):
    count = run.options.averaged_iterations
    averaged = [t for t in range(run.last_update + 1)
                if run.options.is_averaged(run.schedule, t)]  # fmt: skip
    if count == 0:
        assert averaged == []
    elif count < len(run.schedule.updates):
        of_them = sum(run.schedule.updates[-count:])
        assert averaged == list(range(run.last_update + 1 - of_them, run.last_update + 1))
    else:
        assert averaged == list(range(run.last_update + 1))


@examples(100)
@given(LONG_RUNS, st.integers(1, 20))
def test_a_schedule_survives_being_stored_and_averaged(run, count):
    state = SelectionState(run.sizes, "espnet")
    assert state.get_schedule() is None
    state.set_schedule(Schedule((7,) * run.num_layers, tuple(range(1, run.num_layers + 1))))
    state.set_schedule(run.schedule)  # nothing is left of the one before
    other = SelectionState(run.sizes, "espnet")
    other.load_state_dict(average([state.state_dict()] * count))
    assert other.get_schedule() == run.schedule
    assert hash(other.get_schedule()) == hash(run.schedule)


# Whatever a YAML file may hold.
YAML = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 12) | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
NUMBERS = st.lists(st.integers(-1, 9), max_size=5)


@examples(200)
@given(YAML | NUMBERS, st.integers(2, 9))
def test_sizes_are_right_or_refused_by_name(sizes, num_layers):
    try:
        found = check_sizes(sizes, num_layers)
    except ConfigError as error:
        assert str(error).startswith("encoder_conf: sizes: ")
    else:
        assert len(found) > 1 and found == sorted(set(found))
        assert found[0] >= 1 and found[-1] == num_layers
        assert check_sizes(found, num_layers) == found


@examples(200)
@given(YAML | st.integers(1, 8), YAML | st.integers(1, 8), st.integers(2, 9))
def test_any_size_is_right_or_refused_by_name(smallest, step, num_layers):
    try:
        found = sizes_of_supernet("any", num_layers, smallest, step)
    except ConfigError as error:
        assert str(error).startswith(
            ("encoder_conf: smallest_size: ", "encoder_conf: size_step: ")
        )
    else:
        assert set(found.anchors) <= set(found.all) and found.all == sorted(set(found.all))
        for sizes in found:
            assert sizes[0] == found.all[0] >= 1 and sizes[-1] == num_layers
        for size in found.all:
            shares = found.shares_of(size)
            assert shares.keys() <= set(found.anchors) and min(shares.values()) > 0.0
            # It lies where the mean of these sizes does.
            assert sum(z * share for z, share in shares.items()) == pytest.approx(size)


@examples(300)
@given(st.sampled_from(SelectionOptions.keys()), YAML | NUMBERS, st.sampled_from([*METHODS]))
@example("method", ["simple_top_k"], "fixed")
def test_settings_are_right_or_refused_by_name(key, value, method):
    conf = {"method": method, "updates_per_iteration": 2} | {key: value}
    if key == "selection_share":
        del conf["updates_per_iteration"]
    if conf["method"] == "fixed":
        conf = {"ranking": [2, 0, 1]} | conf
    try:
        options = SelectionOptions(**conf)
        options.selector(3)
        schedule = options.resolve(3, 1, 1000)
    except ConfigError as error:
        assert f"model_conf: {key}: " in str(error)
    else:
        assert schedule.zeroed[-1] == 2 and min(schedule.updates) >= 1
