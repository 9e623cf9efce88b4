"""Sizes of costs: what a size keeps costs no more than so many average layers."""

import json
import math

import pytest
import torch

from espnet_des.errors import ConfigError
from espnet_des.method.options import SelectionOptions
from espnet_des.method.selection import Schedule
from espnet_des.nn.cost_table import about_model
from espnet_des.training.costs import set_costs
from tests.conftest import make_batch, make_model

SCHEDULE = Schedule(updates=(1, 1), zeroed=(2, 6))
CONF = {"sizes": "any", "smallest_size": 2}


def table_of(model, path, layers):
    content = {"about": {"seconds": 10.0, "runtime": "pytorch"}, "model": about_model(model),
               "milliseconds": {"rest": 5.0, "layers": layers}}  # fmt: skip
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("granularity", ["layer", "component"])
@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out", "ortho_softmax"])
@pytest.mark.parametrize("budget", ["params", "macs"])
def test_sizes_keep_what_fits(budget, method, granularity):
    conf = CONF | {"granularity": granularity}
    model = make_model(conf, SCHEDULE, method=method, budget=budget).train()
    before = {key: value.clone() for key, value in model.named_parameters()}
    set_costs(model)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters())
    costs, encoder = model.state.costs, model.encoder
    assert costs.sum() == pytest.approx(8) and costs.min() > 0
    of_kind = {}
    for layer, cost in zip(encoder.units, costs.tolist()):
        assert of_kind.setdefault(layer.kind, cost) == cost
    assert len(set(of_kind.values())) > 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(5):
        model(**make_batch())[0].backward()
        model.before_step()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()
    assert model.stage == 2
    ranking, smaller = encoder.ranking(), set()
    for size in encoder.all_sizes:
        kept = encoder.kept_units(size)
        spent = float(costs[kept].sum())
        assert smaller <= set(kept)
        assert spent <= size + 1e-4 or len(kept) == 1  # one is always there
        if len(kept) < encoder.num_units:  # the next one would not fit
            assert spent + float(costs[ranking[len(kept)]]) > size
        smaller = set(kept)


def test_parameters_are_those_of_the_modules():
    model = make_model(CONF, SCHEDULE, budget="params")
    set_costs(model)
    costs, counts = model.state.costs, []
    for block in model.encoder.encoders:
        for name, norm in (("feed_forward_macaron", "norm_ff_macaron"), ("self_attn", "norm_mha"),
                           ("conv_module", "norm_conv"), ("feed_forward", "norm_ff")):  # fmt: skip
            both = [*getattr(block, name).parameters(), *getattr(block, norm).parameters()]
            counts.append(sum(p.numel() for p in both))
    assert (costs / costs[0]).tolist() == pytest.approx([c / counts[0] for c in counts])


def test_milliseconds_come_from_a_table_and_stay_in_the_checkpoint(tmp_path):
    times = {"ff_macaron": 3.0, "mhsa": 1.0, "conv": 2.0, "ff": 2.0}
    file = table_of(make_model(CONF), tmp_path / "table.json", times)
    model = make_model(CONF, SCHEDULE, budget="ms", cost_table=file)
    set_costs(model)
    assert model.state.costs.tolist() == pytest.approx([1.5, 0.5, 1.0, 1.0] * 2)
    elsewhere = make_model(CONF, SCHEDULE, budget="ms", cost_table="not/there.json")
    elsewhere.load_state_dict(model.state_dict())
    assert torch.equal(elsewhere.state.costs, model.state.costs)
    assert elsewhere.selector.costs is elsewhere.state.costs


def test_a_time_of_0_is_a_small_cost(tmp_path):
    times = {"ff_macaron": 0.0, "mhsa": 1.0, "conv": 2.0, "ff": 2.0}
    file = table_of(make_model(CONF), tmp_path / "table.json", times)
    conf = {"budget": "ms", "cost_table": file, "rank_per_cost": True}
    model = make_model(CONF, SCHEDULE, **conf).train()
    set_costs(model)
    assert 0 < model.state.costs.min() < 0.01
    assert model(**make_batch())[0].isfinite()
    nothing = dict.fromkeys(times, 0.0)
    file = table_of(model, tmp_path / "none.json", nothing)
    with pytest.raises(ConfigError, match="take no time at all"):
        set_costs(make_model(CONF, SCHEDULE, budget="ms", cost_table=file))


def test_tables_that_cannot_be_used_are_refused(tmp_path):
    model = make_model(CONF, SCHEDULE, budget="ms", cost_table=str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="cost_table: .*none.json is no table"):
        set_costs(model)
    for conf, says in (
        ({"budget": "ms"}, "cost_table: None must be a file"),
        ({"cost_table": "t.json"}, "cost_table: 't.json' must be left out"),
        ({"budget": "bytes"}, "budget: 'bytes' must be one of"),
        (
            {"averaged_iterations": 2, "rank_per_cost": True},
            "rank_per_cost: True must be left out",
        ),
        ({"method": "fixed", "rank_per_cost": True}, "rank_per_cost: True must be left out"),
    ):
        with pytest.raises(ConfigError, match=f"model_conf: {says}"):
            SelectionOptions(**conf)


def test_per_cost_a_cheap_layer_comes_first():
    costs = torch.tensor([3.0, 0.5, 0.5], dtype=torch.float64)
    scores = torch.tensor([1.0, 0.9, 0.8])
    for method, first in (("simple_top_k", [1, 2, 0]), ("iterative_zero_out", [1, 2, 0])):
        plain = SelectionOptions(method=method).selector(3, costs)
        cheap = SelectionOptions(method=method, rank_per_cost=True).selector(3, costs)
        record = make_model(None, SCHEDULE).state.record._replace(
            at=torch.zeros(3), score=torch.zeros(3)
        )
        assert plain.ranking(scores, record).tolist() == [0, 1, 2]
        assert cheap.ranking(scores, record).tolist() == first
    matrix = SelectionOptions(method="ortho_softmax", rank_per_cost=True).selector(3, costs)
    assert matrix.ranking(torch.zeros(3, 3), record).tolist() == [1, 2, 0]
    # What the rows of the last update want most, each something else.
    scores = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
    wanted = matrix.rows(scores.double(), matrix.temperature_final).argmax(1).tolist()
    assert wanted == [0, 1, 2] == matrix.ranking(scores, record).tolist()


def test_scores_can_travel_as_far_as_costs_differ():
    costs = torch.tensor([8.0, 0.5, 0.5], dtype=torch.float64)
    for method in ("simple_top_k", "ortho_softmax"):
        plain = SelectionOptions(method=method).selector(3, costs)
        cheap = SelectionOptions(method=method, rank_per_cost=True).selector(3, costs)
        assert plain.travel(SCHEDULE, 3) is None
        travel = cheap.travel(SCHEDULE, 3)
        assert travel.distance == pytest.approx(math.log(16))
        assert travel.updates == SCHEDULE.last_update + 1
