"""The benchmark of training: its reference, its counter, and that it runs through."""

import json
import math
import os
import re
from pathlib import Path

import pytest
import torch

from espnet_des.errors import ConfigError
from espnet_des.measure.benchmark.cost import Shares
from espnet_des.measure.benchmark.growth import benchmark_growth, even_sizes
from espnet_des.measure.benchmark.published import published_loss
from espnet_des.measure.benchmark.ranks import AllAtOnce, benchmark_ranks
from espnet_des.measure.benchmark.saved import count_saved
from espnet_des.measure.benchmark.steps import Bench, Setting, balanced_ranking
from espnet_des.measure.benchmark.threads import benchmark_threads, cases, environment
from espnet_des.measure.benchmark.training import benchmark_training
from espnet_des.method.selection import Schedule
from espnet_des.nn.backward import BackwardPerPass
from tests.conftest import make_batch, make_model

SCHEDULE = Schedule((4, 4), (3, 5))  # 8 layers, sizes 3, 5, 8: E = 8
NO_DROPOUT = {
    "dropout_rate": 0.0, "positional_dropout_rate": 0.0, "attention_dropout_rate": 0.0,
}  # fmt: skip
TINY = {"num_blocks": 2, "dim": 8, "sizes": (3, 5, 8), "seconds": 0.4, "utterances": 2}


def model_at(t, method, conf=NO_DROPOUT, **model_conf):
    rates = {"stochastic_depth_p1": 0.3, "stochastic_depth_p2": 0.4} | model_conf
    conf = {"own_weights": False} | conf  # as published
    model = make_model(conf, SCHEDULE, method=method, **rates).train()
    with torch.no_grad():
        model.encoder.scores.normal_()
    model.state.updates.fill_(t)
    if t > SCHEDULE.last_update:
        model.state.freeze(torch.randperm(8))
    return model


def loss_and_gradients(model, loss_of):
    torch.manual_seed(5)
    model.zero_grad()
    loss = loss_of()
    loss.backward()
    gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
    }
    return loss.detach().squeeze(), gradients


@pytest.mark.parametrize("conf", [{}, {"input_layer": "vgg"}, {"layer_order": "paper"},
                                  {"conv_norm": "batch_norm"}], ids=str)  # fmt: skip
@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out"])
@pytest.mark.parametrize("t", [0, 5, 8, 20])
def test_the_published_formulation_gives_the_models_loss_and_gradients(method, t, conf):
    # In float64: gradients that are 0 would be rounding, and differ by more.
    model, batch = model_at(t, method, NO_DROPOUT | conf).double(), make_batch()
    batch["speech"] = batch["speech"].double()
    loss, ours = loss_and_gradients(model, lambda: model(**batch)[0])
    reference, theirs = loss_and_gradients(model, lambda: published_loss(model, **batch))
    torch.testing.assert_close(loss, reference)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert theirs["encoder.scores"].any() == (t <= SCHEDULE.last_update)


def test_stochastic_depth_and_the_selection_matter_to_the_published_loss():
    batch = make_batch()

    def loss(t, seed=5, **conf):
        torch.manual_seed(0)
        model = model_at(t, "iterative_zero_out", **conf)
        torch.manual_seed(seed)
        return published_loss(model, **batch).item()

    for t, rate in ((5, "stochastic_depth_p1"), (20, "stochastic_depth_p2")):
        assert loss(t) == loss(t)
        assert loss(t) != loss(t, seed=6)
        assert loss(t, **{rate: 0.0}) == loss(t, seed=6, **{rate: 0.0})
    without = loss(5, sparsity_weight=0.0)
    scores = model_at_scores()
    gap = abs((8 - torch.sigmoid(scores).sum()) / 8 - 5 / 8)
    assert loss(5) - without == pytest.approx(5 * gap.item(), rel=1e-4)


def model_at_scores():
    torch.manual_seed(0)
    return model_at(5, "iterative_zero_out").encoder.scores.detach()


def test_saved_tensors_are_counted_once_and_given_back():
    weight = torch.zeros(1000, requires_grad=True)
    kilo = 4 * 1000  # bytes of a float32 tensor of this length

    def one_pass():
        y = (weight * weight).exp()  # saves weight twice, and y
        return (y * y.view(10, 100).flatten()).sum()  # saves y again, twice

    with count_saved() as saved:
        loss = one_pass()
        assert saved.now == saved.peak == 2 * kilo
        loss.backward()
        assert saved.now == 0
    with count_saved([weight]) as saved:
        first, second = one_pass(), one_pass()  # two graphs at a time
        assert saved.now == saved.peak == 2 * kilo
        (first + second).backward()
        assert saved.now == 0 and saved.peak == 2 * kilo
    with count_saved([weight]) as saved:
        for _ in range(2):  # one after the other
            one_pass().backward()
        assert saved.now == 0 and saved.peak == kilo


def test_the_graph_of_a_model_is_given_back():
    model = model_at(20, "simple_top_k", {})
    with count_saved(model.parameters()) as saved:
        model(**make_batch())[0].backward()
        assert saved.peak > 0
        assert saved.now == 0


def test_steps_put_the_supernet_where_the_row_says(monkeypatch):
    bench = Bench(Setting(**TINY))
    seen = []
    monkeypatch.setattr(
        bench, "step", lambda model, loss_of: seen.append(
            (model.stage, model.passes(int(model.state.updates)))
        )
    )  # fmt: skip
    for i in range(5):
        bench.stage1("simple_top_k", i)()
    assert [stage for stage, _ in seen] == [1] * 5
    assert [len(small.closed) for _, (_, small) in seen] == [1, 2, 3, 4, 5]
    # The layers that are left are those that stage 2 keeps.
    closed = set(seen[-1][1][1].closed)
    bench.stage1("iterative_zero_out", -1)()
    model = bench.supernets["iterative_zero_out"]
    assert (model.encoder.scores == -5).sum() == 4  # zeroed before the last iteration
    bench.stage2(0.3, middle=5)()
    stage, (full, small, middle) = seen[-1]
    assert stage == 2 and full.drop_rate == 0.3 and set(full.dropped) == closed
    assert len(small.kept) == 3 and len(middle.kept) == 5
    bench.stage1("simple_top_k", 0)()
    assert seen[-1][0] == 1


def test_balanced_sets_have_as_many_of_each_module():
    ranking = balanced_ranking(12)
    assert sorted(ranking) == list(range(48))
    for size in (16, 32, 44):
        positions = [q % 4 for q in ranking[:size]]
        assert all(positions.count(position) == size // 4 for position in range(4))


def test_the_count_of_layers():
    shares = Shares(front_end=0.2, forward=0.4)
    assert shares.by_count((1, 1)) == pytest.approx(1.0)
    assert shares.by_count((1, 1), (1, 1 / 3)) == pytest.approx(0.2 + 0.8 * (1.4 + 0.2))
    assert even_sizes(3, 48) == (16, 32, 48) and even_sizes(2, 96) == (32, 96)


def test_the_benchmark_runs_and_says_what_it_ran(tmp_path, capsys):
    threads = torch.get_num_threads()
    # Without exits, whose posteriors are the larger part of what so small a model saves.
    tables = benchmark_training(tmp_path, rounds=2, preset="published", **TINY)
    assert torch.get_num_threads() == threads
    text = (tmp_path / "benchmark_training.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert "sizes 3/5/8" in text and "2 labels each of 500" in text and "open" in text
    content = json.loads((tmp_path / "benchmark_training.json").read_text())
    assert set(content["rows"]) == set(tables) == {"conv2d, float32", "vgg, float32"}
    assert content["rounds"] == 2 and content["setting"]["dim"] == 8 and content["open"]
    for rows in content["rows"].values():
        keys = [row["key"] for row in rows]
        assert keys == [
            "plain", "separate", "published_1_top_k", "published_1_zero_out", "published_2",
            "1_top_k", "1_top_k_anneal", "1_zero_out", "2", "2_without_depth",
            "run_top_k", "run_zero_out",
        ]  # fmt: skip
        ratios = {row["key"]: row["ratio"] for row in rows}
        in_all = 0.6 * ratios["1_top_k_anneal"] + 0.4 * ratios["2"]
        assert ratios["run_top_k"] == pytest.approx(in_all)
        for row in rows:
            numbers = [v for v in row.values() if not isinstance(v, str)]
            assert all(math.isfinite(v) for v in numbers) and row["ratio"] > 0
            assert f"| {row['name']} |" in text
        memory = {row["key"]: row["memory"] for row in rows}
        assert memory["plain"] == memory["separate"] == 1.0
        assert memory["1_top_k"] <= 1.01 < memory["published_1_top_k"]
    assert not re.search("nan|inf", text.lower().replace("inputs", ""))


def test_the_benchmark_of_growth_runs(tmp_path):
    points = benchmark_growth(
        tmp_path, rounds=1, sizes=(2, 4), blocks=(2, 3), seconds=(0.4, 0.8), dim=8,
        utterances=2,
    )  # fmt: skip
    assert [p.setting.sizes for p in points["sizes"]] == [(3, 8), (3, 4, 6, 8)]
    assert [p.setting.sizes for p in points["blocks"]] == [(3, 5, 8), (4, 8, 12)]
    assert [p.setting.seconds for p in points["seconds"]] == [0.4, 0.8]
    text = (tmp_path / "benchmark_growth.md").read_text()
    for sentence in ("From 2 to 4 sizes", "From 2 to 3 blocks", "From 0.4 to 0.8 s"):
        assert sentence in text
    content = json.loads((tmp_path / "benchmark_growth.json").read_text())
    assert [row["key"] for row in content["blocks"][0]["rows"]] == ["1_top_k", "2"]


def test_bfloat16_steps_run():
    bench = Bench(Setting(**TINY, precision="bfloat16"))
    for step in (bench.plain_step(8), bench.front_end(True), bench.forward_of_plain(),
                 bench.stage1("simple_top_k", -1), bench.stage2(0.3),
                 bench.stage2(0.3, published=True)):  # fmt: skip
        step()


def test_all_gradients_at_once_are_those_of_the_last_pass_left():
    results = []
    for kind in (BackwardPerPass, AllAtOnce):
        weight, front_weight = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        front = 2 * front_weight
        sums = kind(front, [weight])
        sums.add((weight * sums.front).sum())
        loss = sums.loss((3 * weight * front).sum())
        loss.backward()
        results.append((loss.item(), weight.grad.tolist(), front_weight.grad.tolist()))
    assert results[0] == results[1] == (24.0, [8.0] * 3, [8.0] * 3)


def test_the_benchmark_of_two_processes_runs(tmp_path, capsys):
    benchmark_ranks(tmp_path, num_blocks=3, dim=64, seconds=0.5, utterances=1, rounds=1)
    found = json.loads((tmp_path / "ranks.json").read_text())
    assert set(found["seconds"]) == {"last pass left", "all at once"} and found["ratio"] > 0
    assert (tmp_path / "ranks.md").read_text() in capsys.readouterr().out
    with pytest.raises(ConfigError, match="num_blocks: 2 must be a multiple of 3"):
        benchmark_ranks(tmp_path, num_blocks=2, dim=64, seconds=0.5, utterances=1, rounds=1)


def test_the_benchmark_of_threads_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # of the user: not of the cases
    before = dict(os.environ)
    rows = benchmark_threads(tmp_path, rounds=2, busy=1, setting=Setting(**TINY))
    assert dict(os.environ) == before
    assert [(row.key, row.is_busy) for row in rows] == [
        (key, is_busy) for key in ("1", "spinning", "asleep") for is_busy in (False, True)
    ]
    assert rows[0].to_one_thread == rows[1].to_one_thread == rows[2].to_alone == 1.0
    assert all(0 < row.lowest <= row.seconds <= row.highest for row in rows)
    text = (tmp_path / "benchmark_threads.md").read_text()
    assert all(f"| {row.name} |" in text for row in rows) and "| 1 busy |" in text
    content = json.loads((tmp_path / "benchmark_threads.json").read_text())
    assert len(content["times"]["asleep busy"]) == 2 and content["setting"]["dim"] == 8


def test_each_case_of_threads_has_its_own_settings_and_no_other():
    seen = []
    for case in cases(3):
        with environment(case):
            seen.append([os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY")])
    assert seen == [["1", None], ["3", None], ["3", "PASSIVE"]]
    for key in ("threads", "busy", "rounds"):
        with pytest.raises(ConfigError, match=f"^{key}: 0 must be at least"):
            benchmark_threads(Path("never"), **{key: 0})
    assert not Path("never").exists()
