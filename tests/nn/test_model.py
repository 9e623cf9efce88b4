"""The model's passes, losses, statistics and updates of the selection."""

import copy

import pytest
import torch

from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from espnet_des.errors import ConfigError
from espnet_des.method.selection import Schedule
from espnet_des.nn.batch_norm import of_full_size
from espnet_des.nn.residual import Run
from espnet_des.training.costs import set_costs
from tests.conftest import make_batch, make_model, reference, under_ddp

SCHEDULE = Schedule((4, 4), (3, 5))  # 8 layers, sizes 3, 5, 8: E = 8


def recorded_model(case):
    """A model set to the step of a recorded case."""
    topk, sched = case["kind"] == "topk", case.get("sched", {})
    sizes, blocks = case["sizes"], case.get("blocks", 12)
    if topk:
        r = sched.get("k_reduction_per_iter", 4)
        zeroed = tuple(range(r, sizes[-1] - sizes[0] + 1, r))
        updates = (sched.get("k_anneal_num_steps_per_iter", 10),) * len(zeroed)
    else:
        zeroed = tuple(sched.get("num_zeroout_elements_per_iter", (sizes[-1] - sizes[0],)))
        updates = tuple(sched.get("num_steps_per_iter", (10,)))
    options = {"hard_gates": case["hard"]} if topk and "hard" in case else {}
    model = make_model(
        {"num_blocks": blocks, "sizes": sizes, "layer_order": "paper"},
        Schedule(updates, zeroed),
        method="simple_top_k" if topk else "iterative_zero_out",
        stochastic_depth_p1=0.3,
        **options,
    ).train()
    if "gates" in case:
        with torch.no_grad():
            model.encoder.scores.copy_(torch.tensor(case["gates"]))
    model.state.updates.fill_(case.get("step", 0))
    if case.get("stage", 1 if case.get("step", 0) <= sum(updates) else 2) == 2:
        scores = model.encoder.scores.detach()
        model.state.freeze(model.selector.ranking(scores, model.state.record))
    return model


class Recorder:
    """Notes which layers each pass runs, and with which factor."""

    def __init__(self, model, monkeypatch):
        self.passes = []
        encoder = model.encoder
        run, add = encoder.run_layers, Run.add

        def run_layers(*args, **kwargs):
            self.passes.append({"executed": [], "stochastic_depth_on": [], "gates": {}})
            return run(*args, **kwargs)

        def add_and_note(self_, x, branch, q, coeff):
            of_pass = self.passes[-1]
            of_pass["executed"].append(q)
            if q in self_.keep_rows:
                of_pass["stochastic_depth_on"].append(q)
            else:
                factor = coeff if self_.gates is None else self_.gates[q]
                of_pass["gates"][q] = float(torch.as_tensor(factor).detach())
            return add(self_, x, branch, q, coeff)

        monkeypatch.setattr(encoder, "run_layers", run_layers)
        monkeypatch.setattr(Run, "add", add_and_note)


CASES = reference("d_execution.json")["cases"]


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if "passes" in c],
    ids=lambda c: f"{c['kind']}-{c['sizes']}-{c['step']}-{c['hard']}",
)
def test_passes_run_the_recorded_layers(case, monkeypatch):
    model = recorded_model(case)
    medium = [name for name in case["pass_order"] if name.startswith("medium")]
    if medium:
        size = case["sizes"][int(medium[0].split()[-1])]
        monkeypatch.setattr(model, "middle_size", lambda t: size)
    recorder = Recorder(model, monkeypatch)
    model(**make_batch())[0].backward()
    assert len(recorder.passes) == len(case["passes"])
    for ours, theirs in zip(recorder.passes, case["passes"]):
        assert ours["executed"] == theirs["executed"]
        assert ours["stochastic_depth_on"] == theirs["stochastic_depth_on"]
        if isinstance(theirs["gates"], list):
            gates = torch.tensor([ours["gates"][q] for q in range(len(theirs["gates"]))])
            torch.testing.assert_close(
                gates, torch.tensor(theirs["gates"], dtype=gates.dtype), atol=1e-5, rtol=1e-5
            )
    gradient = model.encoder.scores.grad
    if case["gates_grad"] is None:
        assert gradient is None
    else:
        assert gradient.any()


@pytest.mark.parametrize("case", [c for c in CASES if "recognition" in c],
                         ids=lambda c: f"{c['kind']}-{c['sizes']}")  # fmt: skip
def test_recognition_runs_the_recorded_layers(case, monkeypatch):
    model = recorded_model(case | {"stage": 2}).eval()
    recorder = Recorder(model, monkeypatch)
    batch = make_batch()
    for size in case["sizes"]:
        model.set_size(size)
        model.encode(batch["speech"], batch["speech_lengths"])
        assert recorder.passes[-1]["executed"] == case["recognition"][str(size)]


ROWS = [r for r in reference("e_loss_weights.json")["rows"] if r["source"] != "lbs_960"]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['kind']}-{r['sizes']}-{r['step']}")
def test_losses_are_weighted_as_recorded(row, monkeypatch):
    model = recorded_model(row)
    if row["random_medium_index"] is not None:
        size = row["sizes"][row["random_medium_index"]]
        monkeypatch.setattr(model, "middle_size", lambda t: size)
    weights = {f"CTC_{p.size}": p.weight for p in model.passes(row["step"])}
    gap = model.selector.penalty(model.encoder.scores, model.state.get_schedule(), row["step"])
    if gap is not None and model.stage == 1:
        weights["sparsity_loss"] = model.options.sparsity_weight
    assert weights == {name: weight for name, weight in row["losses"] if weight}
    model(**make_batch())[0].backward()
    model.before_step()
    head = model.ctc.ctc_lo
    with_grad = [
        i for i, s in enumerate(row["sizes"]) if head.of_size(s).weight.grad is not None
    ]
    assert with_grad == row["final_linear_with_grad"]
    gradient = model.encoder.scores.grad
    assert {"none": gradient is None, "nonzero": gradient is not None and gradient.any()}[
        row["gate_grad"]
    ]


def test_the_loss_is_the_weighted_sum_of_espnets_losses():
    model = make_model(schedule=SCHEDULE, stochastic_depth_p2=0.0).eval()
    model.state.freeze(torch.arange(8))
    batch = make_batch()
    loss, stats, weight = model(**batch)
    by_hand = {}
    for size in (3, 5, 8):
        model.set_size(size)
        out, lengths = model.encode(batch["speech"], batch["speech_lengths"])
        text = batch["text"].masked_fill(batch["text"] < 0, -1)
        by_hand[size] = model.ctc(out, lengths, text, batch["text_lengths"])
    expected = by_hand[8] + 0.3 * by_hand[3] + 0.3 * by_hand[5]
    torch.testing.assert_close(loss.squeeze(), expected)
    torch.testing.assert_close(stats["loss_ctc"].squeeze(), by_hand[8])
    torch.testing.assert_close(stats["loss_ctc_size3"].squeeze(), by_hand[3])
    assert weight == 3
    assert {"cer_ctc", "cer_ctc_size3", "cer_ctc_size5"} <= set(stats)
    assert {"score_margin", "selection_swaps"} == set(model.selection_stats())


def updates(model, count, lr=0.1, weight_decay=0.1, batch=None):
    """Train some updates with AdamW, hooked up as the Trainer does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    optimizer.register_step_pre_hook(lambda *_: model.before_step())
    optimizer.register_step_post_hook(lambda *_: model.after_step())
    for _ in range(count):
        optimizer.zero_grad()
        model.train()(**(batch or make_batch()))[0].backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out"])
def test_stage_2_begins_after_the_last_update_of_stage_1_and_nothing_moves_in_it(method):
    model = make_model(schedule=SCHEDULE, method=method)
    seen = []
    for t in range(14):
        assert int(model.state.updates) == t
        seen.append(model.stage)
        if t == 9:
            kept = [model.encoder.kept_layers(s) for s in (3, 5, 8)]
            scores = model.encoder.scores.clone()
        updates(model, 1)
    assert seen == [1] * 9 + [2] * 5
    assert kept == [model.encoder.kept_layers(s) for s in (3, 5, 8)]
    assert torch.equal(scores, model.encoder.scores)
    assert set(kept[0]) < set(kept[1]) < set(kept[2])
    if method == "iterative_zero_out":
        assert model.state.zeroed_at.max() == 2 and (model.state.zeroed_at > 0).sum() == 5
        assert (scores == -5).sum() == 5


def test_momentum_and_weight_decay_leave_scores_and_idle_output_layers_alone():
    model = make_model(schedule=SCHEDULE, middle_from_full=False)
    middle = model.ctc.ctc_lo.of_size(5)
    before = copy.deepcopy(middle.state_dict())
    optimizer = updates(model, 9, lr=0.01)  # stage 1: no loss for the middle size
    assert all(torch.equal(before[k], v) for k, v in middle.state_dict().items())
    scores = model.encoder.scores.clone()
    assert model.stage == 2
    model.train()(**make_batch())[0].backward()
    optimizer.step()
    assert torch.equal(scores, model.encoder.scores)
    assert not torch.equal(before["weight"], middle.weight)


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out"])
@pytest.mark.parametrize("stage", [1, 2])
@under_ddp()
def test_every_parameter_takes_part_and_those_that_should_learn_do(method, stage, decoder):
    model = make_model(schedule=SCHEDULE, method=method, decoder=decoder)
    if stage == 2:
        model.state.freeze(torch.arange(8))
        model.state.updates.fill_(9)
    model.train()
    batch = make_batch()
    batch["text_lengths"] = batch["text_lengths"].clone()
    gradients = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for _ in range(3):  # dropout and stochastic depth may hide one once
        model.zero_grad()
        model(**batch)[0].backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            gradients[name] += p.grad.abs()
    silent = {name for name, g in gradients.items() if not g.any()}
    expected = {f"ctc.ctc_lo.heads.size5.{p}" for p in ("weight", "bias")}
    if stage == 2:
        expected = {"encoder.scores"}
    expected |= {name for name in gradients if ".own." in name} - added_to_something(model)
    # Adding a constant to all keys changes no attention weight: no gradient.
    silent, expected = ({n for n in names if not n.replace("/", ".").endswith("linear_k.bias")}
                        for names in (silent, expected))  # fmt: skip
    assert silent == expected


def added_to_something(model):
    """Names of the weights of sizes' own that they compute with."""
    encoder = model.encoder
    shared = dict(encoder.encoders.named_parameters())
    return {
        f"encoder.own.of_sizes.size{size}.{name.replace('.', '/')}"
        for size in encoder.sizes[:-1]
        for name, p in encoder.blocks_for(size).named_parameters()
        if p is not shared[name]
    }


def test_validation_draws_zeroes_and_advances_nothing():
    model = make_model(schedule=SCHEDULE, method="iterative_zero_out").eval()
    model.state.updates.fill_(4)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = model(**make_batch())
    torch.set_rng_state(random)
    make_batch()
    after_batch = torch.get_rng_state()
    torch.set_rng_state(random)
    second = model(**make_batch())
    assert torch.equal(torch.get_rng_state(), after_batch)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@torch.no_grad()
def test_the_loss_of_an_evaluation_is_of_the_sizes_that_the_stage_trains():
    model = make_model(schedule=SCHEDULE).eval()
    for stage, sizes in ((1, (3,)), (2, (3, 5))):
        loss, stats, _ = model(**make_batch())
        expected = stats["loss_ctc"] + sum(0.3 * stats[f"loss_ctc_size{z}"] for z in sizes)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
        assert model.stage == stage and "loss_ctc_size5" in stats
        if stage == 1:
            model.state.freeze(torch.arange(8))


def test_batch_order_and_company_do_not_matter_in_evaluation():
    model = make_model(schedule=SCHEDULE).eval()
    batch = make_batch()
    model.set_size(3)
    out, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    back, _ = model.encode(batch["speech"].flip(0), batch["speech_lengths"].flip(0))
    torch.testing.assert_close(out, back.flip(0))


def test_the_middle_size_is_uniform_and_a_function_of_the_update():
    model = make_model({"num_blocks": 3, "sizes": [2, 5, 8, 12]}, SCHEDULE)
    drawn = [model.middle_size(t) for t in range(2000)]
    twin = copy.deepcopy(model)
    assert drawn == [twin.middle_size(t) for t in range(2000)]
    assert set(drawn) == {5, 8} and abs(drawn.count(5) - 1000) < 100
    seeds = []
    for seed in (0, 1):  # each its own draws, which the state dict brings along
        model.state.seed.fill_(seed)
        twin.load_state_dict(model.state_dict())
        seeds.append([twin.middle_size(t) for t in range(200)])
        assert seeds[-1] == [model.middle_size(t) for t in range(200)]
    assert seeds[0] != seeds[1] and drawn[:200] not in seeds
    two = make_model({"sizes": [3, 8]}, Schedule((4,), (5,)))
    assert two.middle_size(0) is None
    two.state.freeze(torch.arange(8))
    assert [p.size for p in two.passes(9)] == [8, 3]
    idle = {id(p) for p in two._idle_parameters(9)}
    assert idle - {id(p) for p in two.encoder.own.parameters()} == {id(two.encoder.scores)}


def test_updates_tell_what_they_have_and_evaluations_everything():
    model = make_model(schedule=SCHEDULE, method="iterative_zero_out", decoder=True)
    keys = []
    for stage in (1, 2):
        if stage == 2:
            model.state.freeze(torch.arange(8))
        train = set(model.train()(**make_batch())[1])
        valid = set(model.eval()(**make_batch())[1])
        keys.append((train, valid))
    (train_1, valid_1), (train_2, valid_2) = keys
    assert train_1 - train_2 == {"loss_sparsity"}
    assert train_2 - train_1 == {"loss_ctc_size5", "loss_att_size5", "acc_size5"}
    assert {"acc", "stage", "layers_small"} <= train_1 & train_2
    assert valid_1 == valid_2 >= {"cer", "wer", "cer_size3", "wer_size5"}


@pytest.mark.parametrize("part", ["", ":ctc:ctc"])
def test_a_stock_checkpoint_starts_every_output_layer(tmp_path, part):
    model = make_model(schedule=SCHEDULE)
    own = ("encoder.scores", "encoder.selection.", "ctc.ctc_lo.heads.")
    stock = {
        k: torch.randn_like(v) if v.is_floating_point() else v
        for k, v in of_full_size(model.state_dict()).items() if not k.startswith(own)
    }  # fmt: skip
    torch.save(stock, tmp_path / "stock.pth")
    load_pretrained_model(f"{tmp_path}/stock.pth{part}", model, ignore_init_mismatch=False)
    for size in (3, 5, 8):
        head = model.ctc.ctc_lo.of_size(size)
        assert torch.equal(head.weight, stock["ctc.ctc_lo.weight"])
        assert torch.equal(head.bias, stock["ctc.ctc_lo.bias"])


@pytest.mark.parametrize("count", [5, 10])
def test_a_supernets_own_output_layers_are_loaded_as_they_are(tmp_path, count):
    trained = make_model(schedule=SCHEDULE)
    model = copy.deepcopy(trained)  # the middle size's is still as it was made
    updates(trained, count)
    torch.save(trained.state_dict(), tmp_path / "supernet.pth")
    load_pretrained_model(str(tmp_path / "supernet.pth"), model, ignore_init_mismatch=False)
    for key, value in trained.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert int(model.state.updates) == count


def test_each_size_uses_its_own_output_layer():
    model = make_model(schedule=SCHEDULE).eval()
    x = torch.randn(1, 4, 8)
    with torch.no_grad():
        for head in model.ctc.ctc_lo.heads.values():
            head.weight.normal_()
    for size in (3, 5, 8):
        model.set_size(size)
        expected = torch.nn.functional.linear(
            x, model.ctc.ctc_lo.of_size(size).weight, model.ctc.ctc_lo.of_size(size).bias
        )
        assert torch.equal(model.ctc.ctc_lo(x), expected)
        assert torch.equal(model.ctc.argmax(x), expected.argmax(2))
    twin = copy.deepcopy(model)
    twin.set_size(3)
    assert model.encoder.size == 8  # a copy switches on its own


@pytest.mark.parametrize("stage", [1, 2])
def test_a_checkpoint_of_the_other_method_is_refused(stage):
    one = make_model(schedule=SCHEDULE, method="simple_top_k")
    two = make_model(schedule=SCHEDULE, method="iterative_zero_out")
    if stage == 2:
        one.state.freeze(torch.arange(8))
    with pytest.raises(RuntimeError, match="method: the checkpoint is of .* simple_top_k"):
        two.load_state_dict(one.state_dict())


def test_a_supernet_checkpoint_with_missing_weights_is_refused():
    model = make_model(schedule=SCHEDULE)
    state = model.state_dict()
    del state["encoder.encoders.0.feed_forward.w_1.weight"]
    with pytest.raises(RuntimeError, match="feed_forward.w_1.weight"):
        model.load_state_dict(state, strict=False)  # as ESPnet's inference does


@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out"])
def test_the_margin_is_of_what_the_layers_are_ordered_by(method):
    conf = {"sizes": [2, 8]}
    options = {"method": method, "budget": "params", "rank_per_cost": True}
    model = make_model(conf, Schedule((4,), (6,)), **options)
    set_costs(model)
    with torch.no_grad():
        model.encoder.scores.copy_(torch.linspace(0.1, 3.0, 8))
    ranking = model.encoder.ranking()
    importance = model.selector.importance(model.encoder.scores.detach().double())
    assert ranking != list(range(8))[::-1]  # which the scores alone would give
    found = model.tracker.score_margin(model.encoder.scores)
    kept = len(model.encoder.kept_units(2))
    expected = importance[ranking[kept - 1]] - importance[ranking[kept]]
    assert found == pytest.approx(float(expected)) and found > 0


def test_margin_spread_and_swaps():
    model = make_model({"sizes": [2, 8]}, Schedule((4,), (6,)))
    scores = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.4, 0.6])
    with torch.no_grad():
        model.encoder.scores.copy_(scores)
    model.tracker.start_epoch(model.encoder.scores)
    assert model.tracker.score_margin(model.encoder.scores) == pytest.approx(0.1)
    assert model.tracker.score_spread(model.encoder.scores) == pytest.approx(0.8)
    with torch.no_grad():
        model.encoder.scores[5] = 1.0
    model.after_step()
    assert model.tracker.swaps == 1


@pytest.mark.parametrize(
    "conf, says",
    [
        ({"ctc_weight": 0.0}, "ctc_weight: 0.0"),
        ({"method": "magic"}, "method: 'magic'"),
        ({"reduction": 3}, "reduction: 3 must divide 5"),
    ],
)
def test_bad_model_conf(conf, says):
    with pytest.raises(ConfigError, match=says):
        make_model(**conf)


def test_an_unknown_key_is_named():
    with pytest.raises(
        ConfigError, match="selection_shares: 0.5 is unknown.*selection_share'"
    ):
        make_model(selection_shares=0.5)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("conf, says", [
    ({"sizes": [2, 8]}, r"sizes: the checkpoint has \[3, 5, 8\], the config \[2, 8\]"),
    ({"num_blocks": 3}, r"sizes: the checkpoint has \[3, 5, 8\], the config \[4, 8, 12\]"),
])  # fmt: skip
def test_a_checkpoint_of_other_sizes_is_refused_by_key(conf, says, strict):
    checkpoint = make_model(schedule=SCHEDULE).state_dict()
    with pytest.raises(RuntimeError, match=says):
        make_model(conf).load_state_dict(checkpoint, strict=strict)


def test_espnets_init_leaves_scores_and_equal_output_layers(tmp_path):
    from espnet2.torch_utils.initialize import initialize

    model = make_model(method="iterative_zero_out")
    initialize(model, "xavier_uniform")
    assert (model.encoder.scores == 10).all()
    for size in (3, 5):
        assert torch.equal(model.ctc.ctc_lo.of_size(size).weight, model.ctc.ctc_lo.weight)


@pytest.mark.parametrize("conf", [{}, {"sizes": "any", "smallest_size": 2}])
def test_dynamic_quantisation_works_at_every_size(conf):
    model = make_model(conf, schedule=SCHEDULE).eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, qconfig_spec={torch.nn.Linear})
    batch = make_batch()
    for size in model.encoder.all_sizes:
        quantised.set_size(size)
        out, _ = quantised.encode(batch["speech"], batch["speech_lengths"])
        assert torch.isfinite(quantised.ctc.log_softmax(out)).all()


def test_a_model_without_a_schedule_does_not_train():
    with pytest.raises(RuntimeError, match="python3 -m espnet_des"):
        make_model().train()(**make_batch())
