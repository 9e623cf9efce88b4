"""What the figures show, by their parts."""

import json

import numpy
import pytest
import torch

from espnet_des.errors import ConfigError
from espnet_des.method.layers import Layer, layer_names
from espnet_des.method.selection import IterativeZeroOut, Schedule, SimpleTopK
from espnet_des.method.tracker import History
from espnet_des.nn.encoders import SUPERNETS
from espnet_des.plot.kept import draw_kept_layers, size_colours
from espnet_des.plot.scores import ANNEALED, STAGE_1_END, ZERO_OUT, draw_scores
from espnet_des.plot.style import smallest_sizes
from espnet_des.plot.wer import draw_wer, left_out, panels, read_sizes

ORDERS = {
    "espnet": ("ff_macaron", "mhsa", "conv", "ff"),
    "paper": ("ff_macaron", "conv", "mhsa", "ff"),
}


def layers_of(blocks, kinds):
    return [Layer(block, kind) for block in range(blocks) for kind in kinds]


# ---- kept_layers.png ---------------------------------------------------------


@pytest.mark.parametrize("blocks, kinds, sizes", [
    (6, ORDERS["espnet"], [8, 16, 24]),
    (12, ORDERS["paper"], [12, 24, 36, 48]),
    (48, ORDERS["paper"], [48, 192]),
    (25, ("mhsa", "conv", "ff"), [20, 75]),
    (1, ("mhsa", "ff"), [1, 2]),
])  # fmt: skip
def test_cells_have_the_smallest_size_that_keeps_the_layer(blocks, kinds, sizes):
    layers = layers_of(blocks, kinds)
    ranking = torch.randperm(len(layers)).tolist()
    figure = draw_kept_layers(layers, ranking, sizes)
    cells = [axes.collections[0].get_array() for axes in figure.axes]
    cells = numpy.ma.concatenate([c.reshape(len(kinds), -1) for c in cells], axis=1)
    numbers = {}
    for axes in figure.axes:
        for text in axes.texts:
            if text.get_text().isdigit():
                numbers[text.get_position()] = int(text.get_text())
    for q, layer in enumerate(layers):
        value = cells[kinds.index(layer.kind), layer.block]
        kept_by = [q in ranking[:size] for size in sizes]
        assert kept_by == [i >= value for i in range(len(sizes))]
        assert ranking[numbers[layer.block, kinds.index(layer.kind)] - 1] == q
    assert cells.count() == len(layers)
    shown = [tuple(patch.get_facecolor()) for patch in figure.legends[0].get_patches()]
    assert shown == size_colours(sizes) and len(set(shown)) == len(sizes)
    assert figure.axes[0].collections[0].cmap.colors == size_colours(sizes)


def test_blocks_without_a_layer_have_an_empty_cell():
    layers = [Layer(0, "mhsa"), Layer(0, "ff"), Layer(1, "ff")]
    figure = draw_kept_layers(layers, [2, 0, 1], [1, 3])
    cells = figure.axes[0].collections[0].get_array().reshape(2, 2)
    assert cells.tolist() == [[1, None], [1, 0]]
    assert smallest_sizes([2, 0, 1], [1, 3]) == [1, 1, 0]


# ---- scores.png --------------------------------------------------------------


def random_history(schedule: Schedule, num_layers: int) -> History:
    updates = numpy.arange(schedule.last_update + 2)
    scores = numpy.random.default_rng(0).normal(size=(len(updates), num_layers))
    return History(updates, scores)


def labelled(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


@pytest.mark.parametrize("selector", [SimpleTopK(), IterativeZeroOut()])
def test_scores_have_a_line_per_layer_and_the_schedule(selector):
    layers = layers_of(3, ORDERS["paper"])
    schedule = Schedule((3, 4, 5), (2, 4, 8))
    history = random_history(schedule, len(layers))
    figure = draw_scores(history, layers, [1, 5, 6, 9], selector, schedule)
    axes = figure.axes[0]
    for q, name in enumerate(layer_names(layers)):
        (line,) = labelled(axes, name)
        assert line.get_xdata().tolist() == history.updates.tolist()
        assert line.get_ydata().tolist() == history.scores[:, q].tolist()
        assert line.is_dashed() == (q not in [1, 5, 6, 9])
    (end,) = labelled(axes, STAGE_1_END)
    assert end.get_xdata()[0] == 13  # the first update of stage 2
    drawn = [line.get_xdata()[0] for line in labelled(axes, ZERO_OUT)]
    if isinstance(selector, SimpleTopK):
        assert not drawn
        (steps,) = labelled(figure.axes[1], ANNEALED)
        k_of = dict(zip(steps.get_xdata().tolist(), steps.get_ydata().tolist()))
        for t in range(13):  # as where="post" draws it
            last = max(x for x in k_of if x <= t)
            assert k_of[last] == selector.num_kept(schedule, t, 12)
    else:
        assert drawn == [3, 7, 12]
        assert labelled_top(axes) == {3: "2", 7: "4", 12: "8"}


@pytest.mark.parametrize("encoder", SUPERNETS)
def test_the_legend_of_the_scores_fits_for_every_encoder(encoder):
    schedule = Schedule((10, 10), (2, 4))
    layers = layers_of(3, SUPERNETS[encoder].block_type.kinds("espnet"))
    history = random_history(schedule, len(layers))
    figure = draw_scores(history, layers, [1, 2], SimpleTopK(), schedule)
    figure.draw_without_rendering()
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0


def labelled_top(axes):
    top = axes.child_axes[0]
    names = [text.get_text() for text in top.get_xticklabels()]
    return dict(zip(top.get_xticks(), names))


# ---- wer.png -----------------------------------------------------------------


COSTS = {"macs_per_second": 10**7, "rtf_1_thread": 0.01, "model_file_bytes": 4 * 10**6}


def rows_of(costs=True):
    """Of three sizes; without costs as version 0.1.0 wrote them."""
    return [
        {"size": size, "num_params": size * 10**6, "wer": {"clean": 9.0 - size, "noisy": 20.5}}
        | ({key: unit * size for key, unit in COSTS.items()} if costs else {})
        for size in (3, 5, 8)
    ]


def many_rows(wers):
    """Sizes from 8 on, whose costs grow evenly."""
    return [{"size": size, "num_params": size * 10**6, "wer": {"test": wer}}
            | {key: unit * size for key, unit in COSTS.items()}
            for size, wer in enumerate(wers, 8)]  # fmt: skip


def test_wer_is_drawn_against_macs_time_and_bytes(tmp_path):
    path = tmp_path / "sizes.json"
    path.write_text(json.dumps(rows_of()[::-1]))
    drawn = draw_wer(read_sizes(path)).axes
    wanted = [("MMAC per s", [30, 50, 80]), ("ms per s", [30, 50, 80]), ("MB", [12, 20, 32])]
    for axes, (unit, xs) in zip(drawn, wanted, strict=True):
        assert unit in axes.get_xlabel()
        (line,) = labelled(axes, "clean")
        assert line.get_xdata() == pytest.approx(xs)
        assert line.get_ydata().tolist() == [6.0, 4.0, 1.0]
        assert labelled(axes, "noisy")[0].get_ydata().tolist() == [20.5] * 3
        assert [text.get_text() for text in axes.texts] == ["size 3", "size 5", "size 8"]
        assert axes.get_xlim()[0] == axes.get_ylim()[0] == 0


def test_costs_that_are_not_there_are_left_out_and_parameters_stand_in_for_macs():
    assert [cost.key for cost in panels(rows_of(costs=False))] == ["num_params"]
    rows = rows_of()
    assert [cost.key for cost in panels(rows)] == list(COSTS)
    del rows[1]["macs_per_second"]
    keys = ["num_params", "rtf_1_thread", "model_file_bytes"]
    assert [cost.key for cost in panels(rows)] == keys
    rows[2]["model_file_bytes"] = None
    assert left_out(rows) == ["macs_per_second", "model_file_bytes"]
    by_size, by_time = draw_wer(rows).axes
    assert "parameters" in by_size.get_xlabel() and "ms per s" in by_time.get_xlabel()


def test_markers_are_filled_on_the_front_of_the_mean_and_of_the_panels_cost():
    rows = rows_of()
    for row, clean, noisy in zip(rows, (6.0, 5.0, 5.5), (9.0, 9.5, 9.5)):
        row["wer"] = {"clean": clean, "noisy": noisy}  # in the mean 7.5, 7.25, 7.5
    rows[2]["rtf_1_thread"] = 0.02  # measured as the fastest
    by_macs, by_time, _ = draw_wer(rows).axes
    for axes, on, off in ((by_macs, [6.0, 5.0], [5.5]), (by_time, [5.5, 5.0], [6.0])):
        is_open, filled = labelled(axes, "_clean")
        assert (filled.get_ydata().tolist(), is_open.get_ydata().tolist()) == (on, off)
        assert is_open.get_markerfacecolor() == "white" != filled.get_markerfacecolor()
        (front,) = labelled(axes, "_front")
        assert front.get_ydata().tolist() == [7.5, 7.25]
        (line,) = labelled(axes, "clean")
        assert (numpy.diff(line.get_xdata()) > 0).all()
    told = [text.get_text() for text in draw_wer(rows).legends[0].get_texts()]
    assert told[:3] == ["clean", "noisy", "front of the mean WER"] and "open" in told[3]
    assert len(draw_wer(rows_of()).legends[0].get_texts()) == 3  # none is off the front


def assert_apart(figure):
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for a in boxes for b in boxes if a is not b)


def test_names_of_sizes_do_not_lie_on_each_other():
    rows = rows_of()
    for row in rows:
        row["rtf_1_thread"] = 0.05
    assert_apart(draw_wer(rows))


@pytest.mark.parametrize("number", [5, 11, 17, 41])
def test_of_many_sizes_the_outer_ones_are_named_and_what_fits_between(number):
    figure = draw_wer(many_rows([9.0 - size / 20 for size in range(number)]))
    assert_apart(figure)
    for axes in figure.axes:
        names = {text.get_text() for text in axes.texts}
        assert {"size 8", f"{7 + number}"} < names and len(names) <= min(number, 14)


@pytest.mark.parametrize("content, says", [
    ("not json", "sizes.json cannot be read"),
    ("{}", "must be a list with an object per size"),
    ("[3]", "entry 0: 3 must be an object"),
    (json.dumps([rows_of()[0] | {"size": None}]), "entry 0: size: None must be a number of"),
    (json.dumps([rows_of()[0] | {"num_params": "1"}]), "num_params: '1' must be a count"),
    (json.dumps([rows_of()[0] | {"wer": {}}]), "wer: {} must have a percentage"),
    (json.dumps([rows_of()[0] | {"wer": {"clean": float("nan")}}]), "must have a percentage"),
    (json.dumps([rows_of()[0] | {"rtf_1_thread": 0}]), "rtf_1_thread: 0 must be a number"),
    (json.dumps([rows_of()[0] | {"macs_per_second": "1"}]), "macs_per_second: '1' must be"),
    (json.dumps([rows_of()[0], rows_of()[1] | {"wer": {"x": 1}}]), "entry 1: wer: .*clean"),
])  # fmt: skip
def test_a_bad_sizes_json_is_refused(tmp_path, content, says):
    (tmp_path / "sizes.json").write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_sizes(tmp_path / "sizes.json")
