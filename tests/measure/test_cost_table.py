"""Tables of what layers cost: the fit, the models that are timed, the command, refusals."""

import json
import sys

import pytest
import torch

from espnet_des.bin import cost_table as command
from espnet_des.deploy.budget import chosen_size
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model
from espnet_des.measure.cost_table import cost_table, fit, kept_sets, paired_medians
from espnet_des.method.layers import Layer
from espnet_des.nn.cost_table import CostTable, read_cost_table
from tests.conftest import make_encoder
from tests.train import load, make_data, train_here

KINDS = ("ff_macaron", "mhsa", "conv", "ff")
LAYERS = [Layer(block, kind) for block in range(3) for kind in KINDS]


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """A trained Transformer, which has two kinds of layers: its config and its model file."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    exp = train_here(
        folder, folder, max_epoch=3, encoder="des_transformer",
        encoder_conf={"output_size": 32, "attention_heads": 2, "linear_units": 32,
                      "num_blocks": 2, "sizes": [1, 4]},
    )  # fmt: skip
    return exp / "config.yaml", exp / "valid.cer_ctc.ave.pth"


def test_models_that_are_timed_tell_kinds_apart():
    sets = kept_sets(LAYERS)
    assert sets[0] == list(range(12)) and sets[-1] == []
    assert sets[1:5] == [[q for q in range(12) if q % 4 != i] for i in range(4)]
    assert sets[5] == [4, 5, 6, 7]
    assert len(kept_sets(LAYERS[:4])) == 6  # of one block, half is none
    counts = torch.tensor(
        [
            [1.0, *(sum(LAYERS[q].kind == kind for q in kept) for kind in KINDS)]
            for kept in sets
        ]
    )
    assert torch.linalg.matrix_rank(counts) == 5


def test_the_fit_finds_what_times_were_made_of():
    costs, sets = dict(zip(KINDS, (1.0, 4.0, 0.0, 2.5))), kept_sets(LAYERS)
    times = [20.0 + sum(costs[LAYERS[q].kind] for q in kept) for kept in sets]
    found = fit(LAYERS, sets, times)
    assert found.rest == pytest.approx(20.0) and found.layers == pytest.approx(costs)
    assert found.predicted == pytest.approx(times) and found.largest_error < 1e-6
    # Never below nothing, and the error is that of the worst.
    times[3] *= 1.2
    found = fit(LAYERS, sets, times)
    assert min(found.layers.values()) >= 0 and 0.01 < found.largest_error < 0.2
    worst = max(abs(p / t - 1) for p, t in zip(found.predicted, times))
    assert found.largest_error == pytest.approx(worst)


def test_components_are_told_from_what_they_share():
    units = [layer for layer in LAYERS for _ in range({"mhsa": 2, "ff": 4}.get(layer.kind, 1))]
    sets = kept_sets(units)
    assert [len(kept) for kept in sets] == [24, 21, 18, 21, 12, 8, 0, 21, 15]

    def time(kept):
        there = {units[u] for u in kept}
        shared = sum(
            {"mhsa": 1.0, "ff": 0.5, "conv": 3.0}.get(unit.kind, 2.0) for unit in there
        )
        return (
            20.0 + shared + sum({"mhsa": 1.5, "ff": 0.25}.get(units[u].kind, 0) for u in kept)
        )

    found = fit(units, sets, [time(kept) for kept in sets])
    assert found.largest_error < 1e-6
    whole = {"ff_macaron": 2.0, "mhsa": 4.0, "conv": 3.0, "ff": 1.5}
    assert found.layers == pytest.approx(whole)
    assert found.shared == pytest.approx({"mhsa": 1.0, "ff": 0.5})


def test_a_slow_round_is_slow_for_all_models():
    times = [[0.1, 0.4, 0.1, 0.15, 0.1, 0.1, 0.1], [0.3, 1.2, 0.9, 0.45, 0.3, 0.3, 0.3]]
    assert paired_medians(times) == pytest.approx([0.1, 0.3])


def run(monkeypatch, supernet, *options):
    files = ("--asr_train_config", supernet[0], "--asr_model_file", supernet[1])
    monkeypatch.setattr(sys, "argv", [str(word) for word in ("command", *files, *options)])
    return command.main()


def test_a_size_of_components_has_the_time_of_its_components():
    encoder = make_encoder(granularity="component")
    assert [len(own) for own in encoder.units_of[:4]] == [4, 2, 1, 4]
    table = CostTable(
        "t",
        1.0,
        {},
        10.0,
        dict(zip(KINDS, (4.0, 3.0, 2.0, 8.0))),
        {"mhsa": 1.0},
        "pytorch",
    )
    everything = range(encoder.num_units)
    assert table.milliseconds(encoder, everything) == pytest.approx(10 + 2 * 17)
    # A quarter of the first feed-forward, one head of two, the convolution.
    assert table.milliseconds(encoder, [0, 4, 6]) == pytest.approx(10 + 1 + (1 + 1) + 2)


@pytest.fixture
def stage_1(supernet, tmp_path):
    """Of stage 1, in which the layers of the sizes are not chosen yet."""
    state = load(supernet[1])
    state["encoder.selection.ranking"].zero_()
    torch.save(state, tmp_path / "stage1.pth")
    return supernet[0], tmp_path / "stage1.pth"


def test_the_table_of_made_up_times_chooses(supernet, stage_1, tmp_path, monkeypatch):
    def made_up(saved, seconds, rate, rounds, bar):
        """10 ms, 2 ms of an attention and 1 ms of a feed-forward, for what was saved."""
        times, cost = [], {"mhsa": 0.002, "ff": 0.001}
        for one in saved:
            encoder = load_model(one.config, one.file)[0].encoder
            times.append([0.01 + sum(cost[layer.kind] for layer in encoder.layers)] * rounds)
        return times

    monkeypatch.setattr("espnet_des.measure.cost_table.measure", made_up)
    out = tmp_path / "new/table.json"
    content = cost_table(*supernet, out, seconds=2.0, rounds=1, check_sizes=3)
    assert [row["size"] for row in content["sizes"]] == [1, 4]
    for row in content["sizes"]:  # they cost what the table says of them
        assert row["predicted_ms"] == pytest.approx(row["ms"]) and row["ms"] > 10.0
    content = cost_table(*stage_1, out, seconds=2.0, rounds=1)
    assert content["milliseconds"]["layers"] == pytest.approx({"mhsa": 2.0, "ff": 1.0})
    assert content["milliseconds"]["rest"] == pytest.approx(10.0)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.json"]
    first = load_model(*supernet)[0].encoder
    least = 12.001 if first.layers[first.ranking()[0]].kind == "mhsa" else 11.001
    for given, size in ({"ms": 16.1}, 4), ({"rtf": 0.00801}, 4), ({"ms": least}, 1):
        assert chosen_size(*supernet, **given, cost_table=tmp_path / "new/table.json") == size


@pytest.mark.thorough
@pytest.mark.parametrize("runtime", ["pytorch", "onnx", "onnx-int8"])
def test_the_command_writes_a_table_that_chooses(
    supernet, stage_1, tmp_path, monkeypatch, capsys, runtime
):
    out = tmp_path / "new/table.json"
    options = ("--runtime", runtime, "--seconds", "1", "--rounds", "2", "--output", out)
    assert run(monkeypatch, stage_1, *options) == 0, capsys.readouterr().err
    assert "| a layer mhsa |" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["about"]["runtime"] == runtime and content["about"]["threads"] == 1
    assert (content["about"]["onnxruntime"] is None) == (runtime == "pytorch")
    assert [len(row["kept"]) for row in content["measured"]] == [4, 2, 2, 2, 0]
    assert all(len(row["times"]) == 2 and row["ms"] > 0 for row in content["measured"])
    assert content["largest_error"] >= 0
    table = read_cost_table(out)
    table.check_model(load_model(*supernet)[0])
    assert list(table.layers) == ["mhsa", "ff"] and table.seconds == 1.0
    most = table.milliseconds(load_model(*supernet)[0].encoder, range(4))
    assert chosen_size(*supernet, ms=most + 1, cost_table=out) == 4


@pytest.mark.parametrize("changes, says", [
    ({"runtime": "tensorrt"}, "runtime: 'tensorrt' must be one of"),
    ({"seconds": 0.5}, "seconds: 0.5 must be from 1 to 600"),
    ({"rounds": 0}, "rounds: 0 must be at least 1"),
    ({"check_sizes": 2}, "check_sizes: 2 must be at least 3"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_early(supernet, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        cost_table(*supernet, tmp_path / "table.json", **changes)
    assert not list(tmp_path.iterdir())


def test_sizes_that_are_not_chosen_yet_cannot_be_checked(stage_1, tmp_path):
    with pytest.raises(ConfigError, match="check_sizes: 5: the model is of stage 1"):
        cost_table(*stage_1, tmp_path / "new/table.json", check_sizes=5)
    assert not (tmp_path / "new/table.json").exists()


def test_models_and_places_that_cannot_be_are_refused(supernet, tmp_path):
    (tmp_path / "file").write_text("")
    for output, says in ((tmp_path, "is a folder"), (tmp_path / "file/x.json", "written")):
        with pytest.raises(ConfigError, match=f"output: .*{says}"):
            cost_table(*supernet, output)
    stock = tmp_path / "stock.yaml"
    stock.write_text("encoder: transformer\ntoken_list: [a]\n")
    with pytest.raises(ConfigError, match="encoder: 'transformer' is no supernet"):
        cost_table(stock, supernet[1], tmp_path / "table.json")
