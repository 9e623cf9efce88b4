"""Speech2Text within a budget: the largest size that fits, at once, or a refusal."""

import json
import math
import time

import pytest
import torch

import espnet_des
from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from espnet_des.inference.budget import Budget, one_budget, sizes_within, told
from espnet_des.nn.cost_table import about_model, read_cost_table
from espnet_des.nn.costs import macs_of_sizes, parameters_of_sizes
from tests.train import load, make_data, train_here


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """A trained supernet of any size from 3 to 8: its folder."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    return train_here(folder, folder, max_epoch=3, encoder_conf__sizes="any",
                      encoder_conf__smallest_size=3)  # fmt: skip


def loaded(exp, **options):
    return espnet_des.Speech2Text(
        exp / "config.yaml", exp / "valid.cer_ctc.ave.pth", **options
    )


@pytest.fixture(scope="module")
def model(exp):
    return loaded(exp)


@pytest.fixture(scope="module")
def table(model, tmp_path_factory):
    """10 ms, and 1 ms of every layer, for 2 s of audio."""
    about = about_model(model.asr_model)
    layers = dict.fromkeys(about["parameters_of_layers"], 1.0)
    path = tmp_path_factory.mktemp("table") / "table.json"
    content = {"about": {"seconds": 2.0, "runtime": "pytorch"}, "model": about}
    path.write_text(json.dumps(content | {"milliseconds": {"rest": 10.0, "layers": layers}}))
    return path


def test_the_largest_size_within_is_set(model):
    macs, params = macs_of_sizes(model.asr_model, 8000), parameters_of_sizes(model.asr_model)
    for key, costs in (("macs", macs), ("params", params)):
        for size, cost in costs.items():
            assert model.set_budget(**{key: cost}) == size == model.size
            if size > 3:
                assert model.set_budget(**{key: f"{(cost - 1) / 1000:.3f}k"}) == size - 1
    assert model.set_budget(params="1G") == 8
    before = time.perf_counter()
    for _ in range(20):
        model.set_budget(macs=macs[5])
    assert (time.perf_counter() - before) / 20 < 0.05


@pytest.mark.parametrize("budget, size", [
    ({"ms": 13}, 3), ({"ms": "15.9"}, 5), ({"rtf": 0.0081}, 6), ({"rtf": 1}, 8),
])  # fmt: skip
def test_times_are_those_of_the_table(model, table, budget, size):
    for given in (table, str(table), read_cost_table(table)):
        assert model.set_budget(**budget, cost_table=given) == size == model.size


@pytest.mark.parametrize("budget, says", [
    ({}, "no budget is given: give exactly one of"),
    ({"macs": 1, "params": 1}, "macs: 1 params: 1 is given: give exactly one of"),
    ({"macs": 1}, "macs: 1 is less than any size needs: size 3 needs the least, [0-9,]+ MACs"),
    ({"params": 7}, "params: 7 is less .* parameters"),
    ({"macs": -1}, "macs: -1 must be a number above 0"),
    ({"params": math.nan}, "params: nan must be"),
    ({"rtf": "fast"}, "rtf: 'fast' must be"),
    ({"ms": True}, "ms: True must be"),
    ({"ms": 50}, "ms: .* -m espnet_des.bin.cost_table"),
    ({"rtf": 0.1}, "rtf: times are those of a machine: give cost_table"),
    ({"rtf": 0.1, "cost_table": "no.json"}, "cost_table: no.json is no table of costs"),
    ({"macs": "1G", "cost_table": "no.json"}, "cost_table: no.json has times only"),
])  # fmt: skip
def test_what_is_no_budget_is_refused_and_changes_nothing(model, budget, says):
    model.set_size(4)
    with pytest.raises(ConfigError, match=says):
        model.set_budget(**budget)
    assert model.size == 4


def test_a_table_that_no_size_meets_or_of_another_model(model, table, tmp_path):
    with pytest.raises(
        ConfigError, match="ms: 12 is less .*: size 3 needs the least, 13 milli"
    ):
        model.set_budget(ms=12, cost_table=table)
    content = json.loads(table.read_text())
    other = tmp_path / "other.json"
    for changes, says in (
        ({"about": {"seconds": 0, "runtime": "onnx"}}, "seconds: 0 must be above 0"),
        ({"milliseconds": {"rest": 1.0, "layers": {"ff": 1.0}}}, "has not the kinds"),
        ({"milliseconds": content["milliseconds"] | {"rest": -1}}, "must be finite"),
        ({"milliseconds": content["milliseconds"] | {"rest": "1"}}, "must be finite"),
        ({"model": {}}, "KeyError"),
        (
            {"model": content["model"] | {"vocabulary": 9}},
            "another model: its vocabulary is 9",
        ),
    ):
        other.write_text(json.dumps(content | changes))
        with pytest.raises(ConfigError, match=f"cost_table: .*other.json .*{says}"):
            model.set_budget(ms=100, cost_table=other)


def test_models_in_which_nothing_can_be_chosen(exp, tmp_path):
    extract_subnet(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth", 3, tmp_path / "part")
    with pytest.raises(ConfigError, match="macs: .* one size only .*SubnetConformerEncoder"):
        loaded(tmp_path / "part").set_budget(macs="1G")
    with pytest.raises(ConfigError, match="params: .* quantised model"):
        loaded(exp, quantize_asr_model=True).set_budget(params="1G")
    state = load(exp / "valid.cer_ctc.ave.pth")
    state["encoder.selection.ranking"].zero_()
    torch.save(state, tmp_path / "stage1.pth")
    stage_1 = espnet_des.Speech2Text(exp / "config.yaml", tmp_path / "stage1.pth")
    with pytest.raises(ConfigError, match="macs: no size can be chosen: .* stage 1"):
        stage_1.set_budget(macs="1G")


def test_larger_sizes_need_not_cost_more():
    costs = {4: 10.0, 6: 30.0, 8: 20.0}
    assert sizes_within(Budget("ms", 20.0), costs) == [4, 8]
    assert "size 4 needs the least, 10 milliseconds" in str(
        pytest.raises(ConfigError, sizes_within, Budget("ms", 9.5), costs).value
    )
    assert told(Budget("ms", 20.0), costs, 8).endswith("there is no larger one")
    assert "the next larger one, size 6, has 30" in told(Budget("ms", 20.0), costs, 4)
    assert one_budget(macs=None, ms="20") == ("ms", 20.0)


@pytest.mark.parametrize("key", ["parameters_of_front_end", "hop_length"])
def test_a_table_of_another_front_end_is_refused(model, table, tmp_path, key):
    content = json.loads(table.read_text())
    content["model"][key] = 7
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"is of another model: its {key} is 7"):
        model.set_budget(ms=15, cost_table=other)
