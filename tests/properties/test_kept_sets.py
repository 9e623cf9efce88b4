"""Kept sets of any run, whatever way the scores go; no network is needed for that."""

import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from espnet_des.method.passes import passes_of_stage_1, passes_of_stage_2
from espnet_des.method.selection import best_first, relaxed_topk
from espnet_des.method.state import SelectionState
from espnet_des.method.tracker import SelectionTracker
from espnet_des.nn.encoders import DESConformerEncoder
from tests.conftest import examples
from tests.properties.strategies import (
    SCORES,
    Run,
    average,
    runs,
    score_walks,
    through_a_file,
)

pytestmark = pytest.mark.fuzzed

IN_STAGE_2 = 3  # updates that a walk goes on for


class OnlyScores(torch.nn.Module):
    """Of a supernet what its selection sees: an encoder without layers."""

    ranking = DESConformerEncoder.ranking
    kept_units = kept_layers = DESConformerEncoder.kept_units  # layers are its units
    _known = DESConformerEncoder._known

    def __init__(self, run: Run):
        super().__init__()
        self.sizes = self.all_sizes = run.sizes
        self.num_layers = run.num_layers
        self.selector = run.options.selector(run.num_layers)
        self.scores = torch.nn.Parameter(
            torch.full((run.num_layers,), self.selector.initial_score)
        )
        self.selection = SelectionState(run.sizes, "espnet")
        self.selection.set_schedule(run.schedule)

    def kept(self):
        return [self.kept_layers(size) for size in self.sizes]


class Tracked:
    """A supernet's selection, and its tracker."""

    def __init__(self, encoder: OnlyScores, options):
        self.encoder = encoder
        self.tracker = SelectionTracker(encoder.selection, encoder.selector, options)
        self.tracker.start_epoch(encoder.scores)

    def final_scores(self) -> torch.Tensor:
        return self.tracker.final_scores(self.encoder.scores)


def update(tracked: Tracked, row: torch.Tensor) -> None:
    """One optimizer step: the scores move where the row is a number."""
    scores = tracked.encoder.scores
    with torch.no_grad():
        scores.copy_(torch.where(row.isnan(), scores, row))
    tracked.tracker.after_step(scores)


@st.composite
def walked_runs(draw, **more):
    """A run, and its scores after each update of stage 1 and some of stage 2."""
    run = draw(runs(**more))
    return run, draw(score_walks(run.last_update + 1 + IN_STAGE_2, run.num_layers))


def ranking_by_hand(run: Run, walk: torch.Tensor):
    """The ranking at the end of stage 1, in the words of the method."""
    layers, ends = range(run.num_layers), run.schedule.ends
    if run.options.method == "fixed":
        return list(run.options.ranking)
    is_top_k = run.options.method == "simple_top_k"
    scores = [0.5 if is_top_k else 10.0] * run.num_layers
    sums, left = [0.0] * run.num_layers, {}
    for t, row in enumerate(walk.tolist()[: run.last_update + 1]):
        scores = [old if math.isnan(new) else new for old, new in zip(scores, row)]
        if run.options.is_averaged(run.schedule, t):
            sums = [total + score for total, score in zip(sums, scores)]
        if not is_top_k and t in ends:
            lowest_last = sorted(layers, key=lambda q: (-scores[q], q))
            out = lowest_last[run.num_layers - run.schedule.zeroed[ends.index(t)] :]
            before = {} if run.options.published_ranking else left
            left = {q: before.get(q, (t, scores[q])) for q in out}
            scores = [-5.0 if q in left else scores[q] for q in layers]
    if is_top_k:
        final = sums if run.options.averaged_iterations else scores
        return sorted(layers, key=lambda q: (-final[q], q))
    if run.options.published_ranking:
        return sorted(layers, key=lambda q: (-left[q][1] if q in left else -scores[q], q))
    # Who left last comes first; who never left before all others.
    stayed = (run.last_update + 1, None)
    order = sorted(layers, key=lambda q: (-left[q][1] if q in left else -scores[q], q))
    return sorted(order, key=lambda q: -left.get(q, stayed)[0])


@examples(150)
@given(walked_runs())
def test_kept_sets_are_nested_and_of_their_sizes_after_every_update(case):
    run, walk = case
    encoder = OnlyScores(run)
    tracker = Tracked(encoder, run.options)
    for t, row in enumerate(walk):
        update(tracker, row)
        assert sorted(encoder.ranking()) == list(range(run.num_layers))
        smaller = set()
        for size, kept in zip(run.sizes, encoder.kept()):
            assert len(kept) == size and kept == sorted(set(kept))
            assert smaller < set(kept)
            smaller = set(kept)
        assert encoder.selection.is_frozen == (t >= run.last_update)


# Zero-outs more often: only several of them, and layers that move in between, tell all apart.
@examples(250)
@given(
    walked_runs() | walked_runs(num_layers=st.integers(5, 10), methods=["iterative_zero_out"])
)
def test_stage_2_keeps_the_layers_that_the_method_names_and_never_changes_them(case):
    run, walk = case
    encoder = OnlyScores(run)
    tracker = Tracked(encoder, run.options)
    for t, row in enumerate(walk):
        update(tracker, row)
        if t >= run.last_update:
            assert encoder.ranking() == ranking_by_hand(run, walk)
            assert encoder.selection.is_frozen
    with torch.no_grad():
        encoder.scores.neg_()
    assert encoder.ranking() == ranking_by_hand(run, walk)


@examples(100)
@given(walked_runs(), st.data())
def test_reported_swaps_are_the_changes_of_the_smallest_size(case, data):
    """Wherever epochs begin, and also where scores are averaged."""
    run, walk = case
    encoder = OnlyScores(run)
    tracker = Tracked(encoder, run.options)
    smallest = set(encoder.kept()[0])
    for t, row in enumerate(walk[: run.last_update + 1]):  # no score moves in stage 2
        if data.draw(st.booleans(), label="a new epoch begins"):
            tracker.tracker.start_epoch(encoder.scores)
        before = tracker.tracker.swaps
        update(tracker, row)
        # A sum of scores that is 0 for all looks as if there was none.
        assume(
            encoder.selection.score_sum.any() or not run.options.is_averaged(run.schedule, t)
        )
        after = set(encoder.kept()[0])
        assert tracker.tracker.swaps - before == len(after - smallest)
        if run.options.method == "simple_top_k":
            assert tracker.tracker.score_margin(encoder.scores) >= 0.0
        smallest = after


@examples(100)
@given(walked_runs(methods=["iterative_zero_out"]))
def test_every_zero_out_sets_down_as_many_layers_as_it_should(case):
    run, walk = case
    encoder = OnlyScores(run)
    tracker, state = Tracked(encoder, run.options), encoder.selection
    for t, row in enumerate(walk):
        update(tracker, row)
        made = sum(end <= t for end in run.schedule.ends)
        out = state.zeroed_at > 0
        assert out.sum() == (run.schedule.zeroed[made - 1] if made else 0)
        assert state.zeroed_at.max() == made
        if t in run.schedule.ends:
            assert (encoder.scores[out] == -5.0).all()
            assert set(out.nonzero().flatten().tolist()).isdisjoint(
                encoder.ranking()[: run.num_layers - int(out.sum())]
            )


@examples(150)
@given(walked_runs(), st.data())
def test_a_run_that_is_saved_and_loaded_at_any_update_goes_on_as_if_it_were_not(case, data):
    run, walk = case
    encoder = OnlyScores(run)
    tracker = Tracked(encoder, run.options)
    stop = data.draw(st.integers(0, len(walk)), label="saved after so many updates")
    for row in walk[:stop]:
        update(tracker, row)
    loaded = OnlyScores(run)
    loaded.load_state_dict(through_a_file(encoder.state_dict()))
    resumed = Tracked(loaded, run.options)
    assert loaded.ranking() == encoder.ranking()
    for row in walk[stop:]:
        update(tracker, row), update(resumed, row)
        assert loaded.ranking() == encoder.ranking()
        assert torch.equal(tracker.final_scores(), resumed.final_scores())
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


@examples(100)
@given(walked_runs(), st.integers(1, 10))
def test_the_average_of_epochs_of_stage_2_keeps_what_they_keep(case, count):
    """Their update counters differ."""
    run, walk = case
    encoder = OnlyScores(run)
    tracker = Tracked(encoder, run.options)
    for row in walk[: run.last_update + 1]:
        update(tracker, row)
    files = []
    for _ in range(count):
        update(tracker, walk[-1])
        files.append(copy.deepcopy(encoder.state_dict()))
    loaded = OnlyScores(run)
    loaded.load_state_dict(average(files))
    assert loaded.kept() == encoder.kept()
    assert loaded.selection.get_schedule() == run.schedule
    assert loaded.selection.updates > run.last_update


@examples(150)
@given(walked_runs(), st.data())
def test_an_update_runs_the_layers_that_its_selection_names(case, data):
    run, walk = case
    options = run.options
    encoder = OnlyScores(run)
    tracker = Tracked(encoder, options)
    t = data.draw(st.integers(0, len(walk) - 1), label="update")
    for row in walk[:t]:
        update(tracker, row)
    layers = set(range(run.num_layers))
    small_set = set(encoder.kept()[0])
    if encoder.selection.is_frozen:
        middles = run.sizes[1:-1]
        middle = data.draw(st.sampled_from(middles)) if middles else None
        full, small, *rest = passes_of_stage_2(options, run.sizes, encoder.kept_units, middle)
        assert set(small.kept) == small_set
        others = [encoder.kept_layers(middle)] if middle else []
        assert [p.kept for p in rest] == others
    else:
        scores = encoder.scores.detach()
        options = dataclasses.replace(options, stochastic_depth_p1=0.1)
        full, small = passes_of_stage_1(
            options, encoder.selector, run.schedule, t, run.sizes, scores, scores, run.sizes[0]
        )
        kept = encoder.selector.num_kept(run.schedule, t, run.num_layers)
        assert len(full.dropped) == run.num_layers - kept
        if options.method == "fixed":
            assert set(small.kept) == set(options.ranking[:kept])
            small_set = set(small.kept)
        else:
            # The best by their scores; layers beyond them get stochastic depth.
            small_set = set(sorted(layers, key=lambda q: (-float(scores[q]), q))[:kept])
            assert set(small.closed).isdisjoint(small.faint)
        if options.method == "simple_top_k" and options.hard_gates:
            assert small.gates.tolist() == [float(q in small_set) for q in sorted(layers)]
            assert set(small.closed) == layers - small_set and not small.faint
    assert (full.kept, full.gates) == (None, None)
    assert set(full.dropped) == layers - small_set


@examples(300)
@given(
    st.lists(SCORES, min_size=1, max_size=12)
    | st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12),
    st.data(),
)
def test_relaxed_topk_chooses_k_layers_and_can_be_learned_from(values, data):
    k = data.draw(st.integers(1, len(values)), label="k")
    scores = torch.tensor(values, requires_grad=True)
    hard, soft = relaxed_topk(scores, k), relaxed_topk(scores, k, hard=False)
    best = sorted(range(len(values)), key=lambda q: (-values[q], q))
    assert best_first(scores).tolist() == best
    assert hard.tolist() == [float(q in best[:k]) for q in range(len(values))]
    assert (soft >= 0).all()
    torch.testing.assert_close(soft.sum(), torch.tensor(float(k)))
    if max(values) - min(values) < 10:  # no share is rounded to 1, which would end its part
        assert (soft.detach()[best].diff() <= 1e-4).all()  # in the order of the scores
    weights = torch.linspace(-1, 1, len(values))
    of_hard, of_soft = (torch.autograd.grad(m @ weights, scores)[0] for m in (hard, soft))
    assert torch.equal(of_hard, of_soft) and of_hard.isfinite().all()
