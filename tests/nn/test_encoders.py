"""Every encoder that has a supernet form: ESPnet's own at full size, hand-made skips below."""

import logging

import pytest
import torch

from espnet2.asr.ctc import CTC
from espnet_des.errors import ConfigError
from espnet_des.method.selection import Schedule
from espnet_des.nn.dropout import QuickDropout
from espnet_des.nn.encoders import (
    BLOCK_TYPES,
    SUBNETS,
    SUPERNETS,
    check_swap,
    stock_name,
)
from tests.conftest import TINY_OF, TOKENS, make_encoder, make_model, under_ddp

ENCODERS = list(TINY_OF)
# Kinds of modules of ESPnet's own configs.
KINDS = [(name, {}) for name in ENCODERS] + [
    ("des_transformer", {"input_layer": "conv1d2"}),
    ("des_transformer", {"input_layer": "wav2vec", "pos_enc_layer_type": "conv",
                         "output_size": 16}),
    ("des_transformer", {"concat_after": True}),
    ("des_conformer", {"rel_pos_type": "legacy", "macaron_style": False}),
    ("des_branchformer", {"use_attn": False}),
    ("des_branchformer", {"use_cgmlp": False}),
    ("des_branchformer", {"attention_layer_type": "fast_selfattn",
                          "pos_enc_layer_type": "abs_pos"}),
    ("des_e_branchformer", {"input_layer": "conv1d3", "use_linear_after_conv": True}),
    ("des_e_branchformer", {"attention_layer_type": "selfattn",
                            "pos_enc_layer_type": "abs_pos"}),
    ("des_e_branchformer", {"use_ffn": False, "macaron_ffn": False}),
    ("des_e_branchformer", {"rel_pos_type": "legacy"}),
]  # fmt: skip


def randomised(encoder):
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return encoder.double().eval()


def pair(name, conf=None, input_size=12):
    """A supernet's encoder and ESPnet's own, with the same weights, in float64."""
    own_keys = {"conv_norm": "batch_norm"} if name == "des_conformer" else {}
    conf = conf or {}
    if conf.get("input_layer") == "wav2vec":  # features as they are
        input_size = conf["output_size"]
    ours = randomised(make_encoder(name, input_size, **own_keys, **conf))
    stock = BLOCK_TYPES[stock_name(name)].stock(input_size, **(TINY_OF[name] | conf))
    stock.double().eval()
    own = {k: v for k, v in ours.state_dict().items() if k in stock.state_dict()}
    stock.load_state_dict(own)
    x = torch.randn(3, 40, input_size, dtype=torch.float64)
    return ours, stock, (x, torch.tensor([40, 33, 21]))


@pytest.mark.parametrize("name, conf", KINDS)
def test_the_full_size_is_espnets_own_bit_for_bit(name, conf):
    ours, stock, batch = pair(name, conf)
    found, lengths, _ = ours(*batch)
    expected, expected_lengths, _ = stock(*batch)
    assert torch.equal(found, expected) and torch.equal(lengths, expected_lengths)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_stock_state_dict_loads(name):
    ours, stock, _ = pair(name)
    loaded = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    assert all(key.startswith(("scores", "selection.", "own.")) for key in loaded.missing_keys)


def silence(block, kind, gone) -> None:
    """Let a layer of a stock block give 0, by the weights of the last module on its way.

    Args:
        gone: all kinds that are left out of this block.
    """
    two = ("mhsa", "cgmlp")
    last = {
        "ff_macaron": lambda: block.feed_forward_macaron.w_2,
        "ff": lambda: block.feed_forward.w_2,
        "conv": lambda: (
            getattr(block.conv_module, "pointwise_conv2", None)
            or block.conv_module.channel_proj2
        ),
        "mhsa": lambda: block.self_attn.linear_out,
    }
    with torch.no_grad():
        if kind in two and hasattr(block, "merge_proj"):
            size = block.size
            start = two.index(kind) * size
            block.merge_proj.weight[:, start : start + size] = 0.0
            if gone.issuperset(two):
                block.merge_proj.bias.zero_()
            return
        for p in last[kind]().parameters():
            p.zero_()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_size_is_a_hand_made_skip(name):
    ours, _, batch = pair(name)
    for _ in range(6):
        ours.scores.data = torch.rand(ours.num_layers)
        for size in range(1, ours.num_layers):
            kept = sorted(ours.ranking()[:size])
            stock = BLOCK_TYPES[stock_name(name)].stock(12, **TINY_OF[name]).double().eval()
            own = {k: v for k, v in ours.state_dict().items() if k in stock.state_dict()}
            stock.load_state_dict(own)
            gone = [q for q in range(ours.num_layers) if q not in kept]
            for number, block in enumerate(stock.encoders):
                kinds = {ours.layers[q].kind for q in gone if ours.layers[q].block == number}
                for kind in kinds:
                    silence(block, kind, kinds)
            found = ours.run_layers(ours.subsample(*batch), kept=kept)
            torch.testing.assert_close(found, stock(*batch)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ENCODERS)
def test_no_layer_is_run_that_is_left_out(name):
    """Its modules, and its half of what merges two of them."""
    ours, _, batch = pair(name)
    for q, layer in enumerate(ours.layers):
        out = ours.run_layers(ours.subsample(*batch), kept=[q])
        ours.zero_grad()
        out.sum().backward()
        parts = ours.block_type.parts.values()
        names = {f"encoders.{b}.{n}" for b in (0, 1) for names in parts for n in names}
        own = {f"encoders.{layer.block}.{n}" for n in ours.block_type.parts[layer.kind]}
        for key, p in ours.named_parameters():
            if any(key.startswith(f"{n}.") for n in names):
                assert (p.grad is None) == (not any(key.startswith(f"{n}.") for n in own)), key


@pytest.mark.parametrize("name", ENCODERS)
def test_gates_scale_the_branches_and_learn(name):
    """Against f(x) * gate in plain arithmetic, gradients of gates and weights included."""
    ours, _, batch = pair(name)
    kind = ours.block_type
    gates = torch.rand(ours.num_layers, dtype=torch.float64)
    gates[[0, ours.num_layers - 1]] = 0.0
    closed = {0, ours.num_layers - 1}

    def plainly(gates):
        x, pos_emb, mask = ours.subsample(*batch)
        for number, block in enumerate(ours.encoders):
            for group in ours.groups[number]:
                source = x
                side_by_side = len(group) > 1
                for q in group:
                    layer = ours.layers[q].kind
                    out = kind.branch(block, layer, source, pos_emb, mask, not side_by_side)
                    x = x + gates[q] * kind.scale(block, layer) * out
                if side_by_side:
                    widest = torch.stack([gates[q] for q in group if q not in closed]).max()
                    x = x + widest * kind.shared_bias(block)
            x = kind.after_block(block, x)
        return ours.after_norm(x)

    def by_the_supernet(gates):
        return ours.run_layers(ours.subsample(*batch), gates=gates, closed=closed)

    results = []
    for run in (plainly, by_the_supernet):
        ours.zero_grad()
        gates = gates.detach().requires_grad_()
        out = run(gates)
        (out**3).sum().backward()
        weights = {k: p.grad for k, p in ours.named_parameters() if k != "scores"}
        results.append((out.detach(), gates.grad, weights))
    (a, gates_a, weights_a), (b, gates_b, weights_b) = results
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(gates_a, gates_b, rtol=1e-6, atol=1e-9)
    assert gates_b.all()
    for key, gradient in weights_a.items():
        if gradient is not None and weights_b[key] is not None:
            torch.testing.assert_close(gradient, weights_b[key], rtol=1e-6, atol=1e-9, msg=key)
        else:  # behind a closed gate there is no graph
            assert gradient is None or not gradient.any(), key


@pytest.mark.parametrize("name", ENCODERS)
def test_without_any_layer_of_a_block_only_its_final_norm_is_left(name):
    ours, _, _ = pair(name)
    ours.scores.data = torch.arange(ours.num_layers, 0, -1.0)  # the first block's win
    smallest = SUPERNETS[name](12, **TINY_OF[name], sizes=[1, ours.num_layers])
    smallest.scores.data = ours.scores.data
    last = smallest.blocks_of_size(1)[-1]
    left = {key.split(".")[0] for key, _ in last.named_parameters()}
    assert left == ({"norm_final"} if hasattr(last, "norm_final") else set())


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_of_one_size_has_as_many_parameters_as_is_said(name):
    ours = make_encoder(name)
    ours.scores.data = torch.rand(ours.num_layers)
    for size in ours.sizes:
        kept = ours.kept_layers(size)
        subnet = SUBNETS[f"{name}_subnet"](12, kept_layers=kept, **TINY_OF[name])
        assert sum(p.numel() for p in subnet.parameters()) == ours.count_parameters(size)
        assert [(x.block, x.kind) for x in subnet.layers] == [
            (ours.layers[q].block, ours.layers[q].kind) for q in kept
        ]


def test_parameters_are_counted_after_a_run_that_left_a_graph():
    """ESPnet's attention keeps its weights, which cannot be copied with their graph."""
    ours = make_encoder().train()
    ours(torch.randn(1, 40, 12), torch.tensor([40]))
    assert ours.count_parameters(ours.sizes[0]) < ours.count_parameters(ours.sizes[-1])


@pytest.mark.parametrize("name", ["des_e_branchformer", "des_branchformer"])
def test_a_quantised_supernet_runs_at_every_size(name):
    ours = make_encoder(name).eval()
    x, lengths = torch.randn(1, 40, 12), torch.tensor([40])
    small = [q for q in range(ours.num_layers) if ours.layers[q].kind != "mhsa"]
    expected = ours.run_layers(ours.subsample(x, lengths), kept=small)
    quantised = torch.quantization.quantize_dynamic(ours, {torch.nn.Linear}, torch.qint8)
    found = quantised.run_layers(quantised.subsample(x, lengths), kept=small)
    torch.testing.assert_close(found, expected, atol=0.3, rtol=0.3)


# ---- exits, and blocks that ESPnet drops --------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["des_conformer", "des_transformer", "des_e_branchformer", "des_multiconv_conformer"],
)
@pytest.mark.parametrize("conditions", [False, True])
def test_exits_are_espnets_also_where_they_condition_what_follows(name, conditions):
    conf = {"interctc_layer_idx": [1], "interctc_use_conditioning": conditions}
    ours, stock, batch = pair(name, conf)
    ctc = CTC(len(TOKENS), 8).double()
    if conditions:
        ours.conditioning_layer = stock.conditioning_layer = torch.nn.Linear(len(TOKENS), 8)
        ours.double()
    (found, exits), *_ = ours(*batch, ctc=ctc)
    (expected, stock_exits), *_ = stock(*batch, ctc=ctc)
    assert torch.equal(found, expected)
    assert [n for n, _ in exits] == [n for n, _ in stock_exits] == [1]
    assert torch.equal(exits[0][1], stock_exits[0][1])


@pytest.mark.parametrize("name", ["des_e_branchformer", "des_multiconv_conformer"])
def test_blocks_are_dropped_where_espnet_drops_them(name):
    """Without scaling, and of the full encoder only."""
    ours, _, batch = pair(name, {"layer_drop_rate": 1.0})
    front = ours.subsample(*batch)
    kept = list(range(ours.num_layers))
    whole = ours.run_layers(front)
    for module in ours.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ours.train()
    torch.testing.assert_close(ours.run_layers(front), ours.after_norm(front.x))
    torch.testing.assert_close(ours.run_layers(front, kept=kept), whole)


# ---- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name, conf, says",
    [
        ("des_transformer", {"normalize_before": False}, "normalize_before.*residual path"),
        ("des_branchformer", {"merge_method": "learned_ave"}, "merge_method.*'concat'"),
        ("des_e_branchformer", {"gradient_checkpoint_layers": [1]}, "gradient_checkpoint"),
        ("des_e_branchformer", {"merge_conv_kernel": 4}, "merge_conv_kernel: 4.*odd"),
        ("des_e_branchformer", {"cgmlp_linear_units": 9}, "cgmlp_linear_units: 9.*even"),
        (
            "des_e_branchformer",
            {"attention_layer_type": "selfattn"},
            "pos_enc_layer_type.*attention_layer_type: rel_selfattn",
        ),
        ("des_transformer", {"layer_order": "paper"}, "layer_order: 'paper' is unknown"),
        ("des_multiconv_conformer", {"conv_norm": "batch_norm"}, "conv_norm.*unknown"),
        ("des_transformer", {"sizes": [1, 9]}, "sizes.*all 4"),
    ],
)
def test_what_an_encoder_cannot_mean_is_refused_by_name(name, conf, says):
    with pytest.raises(ConfigError, match=says):
        make_encoder(name, **conf)


def test_a_name_swapped_for_the_wrong_one_is_told(caplog):
    with pytest.raises(ConfigError, match="macaron_style.*use encoder: des_conformer"):
        check_swap("des_transformer", TINY_OF["des_conformer"])
    with pytest.raises(
        ConfigError, match="cgmlp_linear_units.*use encoder: des_e_branchformer"
    ):
        check_swap("des_conformer", TINY_OF["des_e_branchformer"])
    with caplog.at_level(logging.WARNING):
        check_swap("des_conformer", TINY_OF["des_conformer"] | {"sizes": [2, 8]})
        assert not caplog.records
        check_swap("des_conformer", TINY_OF["des_transformer"])
    assert "use encoder: des_transformer" in caplog.text


@pytest.mark.parametrize("name", ENCODERS)
@under_ddp()
def test_a_supernet_of_each_trains_in_both_stages(name):
    model = make_model({"encoder": name})
    smallest, *_, full = model.encoder.sizes
    zeroed = model.options.zeroed_per_iteration(full, smallest)
    model.state.set_schedule(Schedule((1,) * len(zeroed), tuple(zeroed)))
    for stage in (1, 2):
        if stage == 2:
            model.state.freeze(torch.tensor(model.encoder.ranking()))
        model.train()
        feats, text = torch.randn(2, 40, 12), torch.tensor([[2, 3], [4, 2]])
        loss, stats, _ = model(feats, torch.tensor([40, 36]), text, torch.tensor([2, 2]))
        loss.backward()
        assert loss.isfinite() and stats["stage"] == stage
        missing = [k for k, p in model.named_parameters() if p.grad is None]
        assert not missing  # DDP waits for each of them
        model.zero_grad()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_supernet_draws_its_masks_quickly_and_a_model_alone_as_espnet(name):
    rates = {"dropout_rate": 0.1, "positional_dropout_rate": 0.2}
    supernet = make_encoder(name, **rates)
    alone = SUBNETS[f"{name}_subnet"](12, **(TINY_OF[name] | rates))
    ours, stock = (
        [(key, m.p) for key, m in encoder.named_modules() if type(m) is kind]
        for encoder, kind in ((supernet, QuickDropout), (alone, torch.nn.Dropout))
    )
    assert ours == stock and len(ours) > len(supernet.layers)
