"""The supernet encoder against stock ESPnet, and its sizes against each other."""

import copy
import inspect

import pytest
import torch

from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet_des.errors import ConfigError
from espnet_des.nn.encoders import DESConformerEncoder
from tests.conftest import TINY, make_encoder


def stock_pair(**conf):
    """A stock Conformer and a supernet with its parameters."""
    conf = TINY | conf
    stock = ConformerEncoder(32, **conf)
    for block in stock.encoders:  # BatchNorm statistics that are not 0 and 1
        if block.conv_module is not None:
            block.conv_module.norm.running_mean.normal_()
            block.conv_module.norm.running_var.uniform_(0.5, 2.0)
    supernet = DESConformerEncoder(32, conv_norm="batch_norm", **conf)
    missing, unexpected = supernet.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert all(k == "scores" or k.startswith(("selection.", "own.")) for k in missing)
    return stock, supernet


STOCK_CONFS = [
    {},
    {"macaron_style": False},
    {"use_cnn_module": False},
    {"macaron_style": False, "use_cnn_module": False},
    {"num_blocks": 1},
    {"num_blocks": 3},
    {"rel_pos_type": "legacy"},
    {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
    {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn",
     "qk_norm": True, "use_sdpa": True},
    {"pos_enc_layer_type": "scaled_abs_pos", "selfattention_layer_type": "selfattn"},
    {"pos_enc_layer_type": "conv", "selfattention_layer_type": "selfattn",
     "output_size": 16},
    {"use_sdpa": True},
    {"zero_triu": True},
    {"concat_after": True},
    {"positionwise_layer_type": "conv1d"},
    {"positionwise_layer_type": "conv1d-linear"},
    {"activation_type": "relu"},
    {"input_layer": "conv2d"},
    {"input_layer": "conv2d1"},
    {"input_layer": "conv2d6"},
    {"input_layer": "conv2d8", "output_size": 16},
    {"input_layer": "linear"},
    {"max_pos_emb_len": 100},
    {"layer_drop_rate": 0.5},  # ESPnet's Conformer does not look at it either
]  # fmt: skip


@pytest.mark.parametrize("conf", STOCK_CONFS, ids=str)
def test_full_size_is_stock_espnet_bit_for_bit(conf):
    frames = 80 if conf.get("input_layer") == "conv2d8" else 40
    stock, supernet = stock_pair(**conf)
    stock.eval(), supernet.eval()
    x, lengths = torch.randn(2, frames, 32), torch.tensor([frames, frames - 9])
    y, n, _ = stock(x, lengths)
    y2, n2, _ = supernet(x, lengths)
    assert torch.equal(y, y2) and torch.equal(n, n2)
    (y, hidden), _, _ = stock(x, lengths, return_all_hs=True)
    (y2, hidden2), _, _ = supernet(x, lengths, return_all_hs=True)
    assert len(hidden) == len(hidden2)
    assert all(torch.equal(a, b) for a, b in zip(hidden, hidden2))


@pytest.mark.parametrize("input_layer", ["embed", None])
def test_full_size_is_stock_espnet_for_other_inputs(input_layer):
    conf = TINY | {"input_layer": input_layer}
    stock = ConformerEncoder(8, **conf).eval()
    supernet = DESConformerEncoder(8, conv_norm="batch_norm", **conf).eval()
    supernet.load_state_dict(stock.state_dict(), strict=False)
    x = torch.randint(0, 8, (2, 10)) if input_layer else torch.randn(2, 10, 8)
    lengths = torch.tensor([10, 7])
    assert torch.equal(stock(x, lengths)[0], supernet(x, lengths)[0])


@pytest.mark.parametrize("rate", [0.5, [0.0, 0.9]])
def test_stochastic_depth_rate_acts_per_block_as_in_stock_espnet(rate):
    # Without dropout, for which the two draw other numbers.
    rates = {f"{part}dropout_rate": 0.0 for part in ("", "positional_", "attention_")}
    stock, supernet = stock_pair(stochastic_depth_rate=rate, **rates)
    x, lengths = torch.randn(2, 40, 32), torch.tensor([40, 31])
    for seed in range(6):
        outs = []
        for encoder in (stock.train(), supernet.train()):
            torch.manual_seed(seed)
            outs.append(encoder(x, lengths)[0])
        assert torch.equal(*outs)


def test_every_stock_key_is_known_and_shown():
    shown = inspect.signature(DESConformerEncoder).parameters
    assert set(inspect.signature(ConformerEncoder).parameters) < set(shown)
    assert shown["dropout_rate"].default == 0.1 and shown["conv_norm"].default == "batch_norm"


@pytest.mark.parametrize(
    "conf, says",
    [
        ({"interctc_layer_idx": [2]}, r"interctc_layer_idx: \[2\] must be .* from 1 to 1"),
        ({"ctc_trim": True}, "ctc_trim.*same length"),
        ({"normalize_before": False}, "normalize_before.*post-norm"),
        ({"layer_order": "reverse"}, r"layer_order: 'reverse'.*\['espnet', 'paper'\]"),
        ({"conv_norm": "group_norm"}, "conv_norm: 'group_norm'.*batch_norm"),
        ({"num_layers": 3}, "num_layers: 3 is unknown; the encoder takes .*num_blocks"),
        ({"sizes": [3, 9]}, "sizes.*all 8"),
    ],
)
def test_keys_that_cannot_be_meant_are_refused_by_name(conf, says):
    with pytest.raises(ConfigError, match=says):
        make_encoder(**conf)


@pytest.mark.parametrize("order", ["espnet", "paper"])
def test_layers_run_in_the_order_of_their_numbers(order):
    encoder = make_encoder(layer_order=order).eval()
    kinds = [layer.kind for layer in encoder.layers]
    middle = {"espnet": ["mhsa", "conv"], "paper": ["conv", "mhsa"]}[order]
    assert kinds == (["ff_macaron"] + middle + ["ff"]) * 2
    x, lengths = torch.randn(1, 20, 12), torch.tensor([20])
    front = encoder.subsample(x, lengths)
    y = front.x
    for q, layer in enumerate(encoder.layers):
        block = encoder.encoders[layer.block]
        kind = encoder.block_type
        out = kind.branch(block, layer.kind, y, front.pos_emb, front.mask)
        y = y + kind.scale(block, layer.kind) * out
        if q % 4 == 3:
            y = block.norm_final(y)
    torch.testing.assert_close(encoder(x, lengths)[0], encoder.after_norm(y))


@pytest.mark.parametrize("conf", [{}, {"macaron_style": False}, {"use_cnn_module": False},
                                  {"layer_order": "paper", "num_blocks": 3}])  # fmt: skip
def test_a_size_is_the_supernet_with_the_other_layers_masked(conf):
    encoder = make_encoder(**conf).eval()
    with torch.no_grad():
        encoder.scores.normal_()
    x, lengths = torch.randn(2, 30, 12), torch.tensor([30, 22])
    for size in encoder.sizes:
        encoder.set_size(size)
        kept = encoder.kept_layers(size)
        mask = torch.zeros(encoder.num_layers)
        mask[kept] = 1.0
        masked = encoder.run_layers(encoder.subsample(x, lengths), gates=mask)
        torch.testing.assert_close(encoder(x, lengths)[0], masked, atol=1e-6, rtol=1e-6)


def test_a_block_without_layers_is_its_final_norm():
    encoder = make_encoder().eval()
    front = encoder.subsample(torch.randn(1, 20, 12), torch.tensor([20]))
    y = front.x
    for block in encoder.encoders:
        y = block.norm_final(y)
    torch.testing.assert_close(encoder.run_layers(front, kept=[]), encoder.after_norm(y))


def test_sizes_are_nested_and_provisional_until_frozen():
    encoder = make_encoder(sizes=[2, 5, 8])
    with torch.no_grad():
        encoder.scores.copy_(torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.4, 0.6]))
    assert encoder.kept_layers(2) == [1, 3]
    assert encoder.kept_layers(5) == [1, 3, 5, 6, 7]
    assert encoder.kept_layers(8) == list(range(8))
    encoder.selection.freeze(torch.tensor([7, 6, 5, 4, 3, 2, 1, 0]))
    assert encoder.kept_layers(2) == [6, 7]
    with torch.no_grad():
        encoder.scores.zero_()
    assert encoder.kept_layers(2) == [6, 7]


def test_set_size_and_print():
    encoder = make_encoder(sizes=[2, 8])
    assert encoder.size == 8  # a fresh encoder is at full size
    with pytest.raises(ConfigError, match=r"size: 3 must be one of \[2, 8\]"):
        encoder.set_size(3)
    encoder.set_size(2)
    assert "size=2" in repr(encoder) and "block 0: 0:ff_macaron 1:mhsa" in repr(encoder)
    assert "block 1: -" in repr(encoder)


@pytest.mark.parametrize("input_layer", ["vgg", "dw_striding", "conv2d", "linear"])
def test_parameters_of_a_size_are_counted_without_the_rest(input_layer):
    encoder = make_encoder(sizes=[3, 8], input_layer=input_layer, own_weights=False)
    stock = {k: v for k, v in encoder.named_parameters() if k != "scores"}
    assert encoder.count_parameters(8) == sum(p.numel() for p in stock.values())
    kept = encoder.kept_layers(3)  # 0 ff_macaron, 1 mhsa, 2 conv of block 0
    assert kept == [0, 1, 2]
    names = ("feed_forward.", "norm_ff.")
    gone = [k for k in stock if k.startswith("encoders.1.") and "norm_final" not in k]
    gone += [k for k in stock if k.startswith(tuple(f"encoders.0.{n}" for n in names))]
    expected = sum(p.numel() for k, p in stock.items() if k not in gone)
    assert encoder.count_parameters(3) == expected


def test_vgg_front_end():
    encoder = make_encoder(input_layer="vgg").eval()
    shapes = [tuple(c.weight.shape[:2]) for c in encoder.embed.convs]
    assert shapes == [(32, 1), (64, 32), (64, 64), (32, 64)]  # 1-32-64, 64-64-32
    assert encoder.embed.linear.in_features == 32 * 12
    x = torch.randn(2, 43, 12)
    y, n, _ = encoder(x, torch.tensor([43, 30]))
    assert y.shape == (2, 10, 8) and n.tolist() == [10, 7]
    alone, n1, _ = encoder(x[1:, :30], torch.tensor([30]))
    torch.testing.assert_close(y[1:, :7], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(Exception, match="too short"):
        encoder(torch.randn(1, 3, 12), torch.tensor([3]))


@pytest.mark.parametrize("input_layer", ["linear", "vgg", "dw_striding", "conv2d"])
def test_a_batch_may_be_wider_than_its_longest_utterance(input_layer):
    encoder = make_encoder(input_layer=input_layer).eval()
    x, lengths = torch.randn(2, 30, 12), torch.tensor([20, 13])
    wide, n, _ = encoder(x, lengths)
    exact, m, _ = encoder(x[:, :20], lengths)
    assert n.tolist() == m.tolist()
    for one, two, frames in zip(wide, exact, n):
        torch.testing.assert_close(one[:frames], two[:frames], atol=1e-5, rtol=1e-5)


def test_conv_norm_over_channels_does_not_see_other_frames_or_utterances():
    quiet = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    encoder = make_encoder(**quiet, conv_norm="layer_norm").train()
    x = torch.randn(2, 30, 12)
    both, _, _ = encoder(x, torch.tensor([30, 30]))
    alone, _, _ = encoder(x[:1], torch.tensor([30]))
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm"])
def test_stochastic_depth_drops_rows_as_the_plain_formulation(norm):
    """Equal in output and gradient to computing all rows and masking."""
    conf = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0, "conv_norm": norm}
    encoder = make_encoder(**conf).train()
    plain = copy.deepcopy(encoder)
    x, lengths, p = torch.randn(4, 30, 12), torch.tensor([30, 26, 22, 30]), 0.5
    dropped = [1, 2, 4, 6, 7]
    for seed in range(5):
        torch.manual_seed(seed)
        out = encoder.run_layers(encoder.subsample(x, lengths), dropped=dropped, drop_rate=p)
        torch.manual_seed(seed)
        front = plain.subsample(x, lengths)
        keep = dict(zip(dropped, torch.rand(len(dropped), 4) >= p))
        y, pos_emb, mask = front
        for q, layer in enumerate(plain.layers):
            block = plain.encoders[layer.block]
            kind = plain.block_type
            f = kind.branch(block, layer.kind, y, pos_emb, mask)
            f = f * kind.scale(block, layer.kind)
            if q in keep:
                f = f * keep[q][:, None, None] / (1 - p)
            y = y + f
            if q % 4 == 3:
                y = block.norm_final(y)
        expected = plain.after_norm(y)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        encoder.zero_grad(), plain.zero_grad()
        weights = torch.randn_like(out)
        (out * weights).sum().backward()
        (expected * weights).sum().backward()
        for (name, a), b in zip(encoder.named_parameters(), plain.parameters()):
            if name != "scores":
                torch.testing.assert_close(a.grad, b.grad, atol=2e-4, rtol=2e-4, msg=name)
        for (name, a), b in zip(encoder.named_buffers(), plain.buffers()):
            torch.testing.assert_close(a, b, msg=name)  # BatchNorm's statistics


def test_stochastic_depth_as_recorded():
    """Kept rows are scaled by 1 / (1 - p), dropped ones are 0, nothing in eval."""
    from espnet_des.nn.residual import Branch, RowDraw, add_branch_to_rows
    from tests.conftest import reference

    case = reference("f_stochastic_depth.json")
    encoder = make_encoder(dropout_rate=0.0)
    block, x = encoder.encoders[0], torch.randn(200, 3, 8)
    mask, p = torch.ones(200, 1, 3, dtype=torch.bool), case["p"]
    keep = torch.rand(200) >= p
    branch = Branch(encoder.block_type, block, "ff", x, None, mask)
    full = branch.out() * 0.5
    rows = RowDraw(keep.nonzero().flatten(), int(keep.sum()))
    added = add_branch_to_rows(x, branch, rows, 1 / (1 - p)) - x
    ratio = (added / full).mean(dim=(1, 2))
    values = torch.tensor(case["values"])
    torch.testing.assert_close(ratio, values[keep.long()], atol=1e-3, rtol=0)
    encoder.eval()
    front = encoder.subsample(torch.randn(2, 20, 12), torch.tensor([20, 20]))
    dropped = encoder.run_layers(front, dropped=range(8), drop_rate=0.9)
    assert torch.equal(dropped, encoder.run_layers(front))


def test_layers_without_a_row_still_give_a_gradient_for_ddp():
    encoder = make_encoder(own_weights=False).train()
    front = encoder.subsample(torch.randn(1, 20, 12), torch.tensor([20]))
    out = encoder.run_layers(front, dropped=range(8), drop_rate=1 - 1e-9)
    out.sum().backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None]
    assert without == ["scores"]
    assert encoder.encoders[0].feed_forward.w_1.weight.grad.abs().max() == 0


def test_every_layer_and_score_learns_through_the_gates():
    encoder = make_encoder().train()
    gates = encoder.scores.sigmoid()
    front = encoder.subsample(torch.randn(2, 20, 12), torch.tensor([20, 20]))
    (encoder.run_layers(front, gates=gates) ** 2).sum().backward()
    assert (encoder.scores.grad != 0).all()


@pytest.mark.parametrize(
    "change, says",
    [
        ({"sizes": [2, 8]}, r"sizes: the checkpoint has \[3, 5, 8\], the config \[2, 8\]"),
        ({"layer_order": "paper"}, "layer_order: the checkpoint has espnet, the config paper"),
        ({"num_blocks": 3}, r"checkpoint has \[3, 5, 8\], the config \[4, 8, 12\]"),
    ],
)
def test_a_checkpoint_of_another_supernet_is_refused_even_without_strict(change, says):
    checkpoint = make_encoder().state_dict()
    with pytest.raises(RuntimeError, match=says):
        make_encoder(**change).load_state_dict(checkpoint, strict=False)


def test_a_checkpoint_averaged_over_both_stages_is_refused():
    encoder = make_encoder()
    one, two = encoder.state_dict(), copy.deepcopy(encoder.state_dict())
    two["selection.ranking"] = torch.arange(8.0).flip(0).double()
    mean = {k: (one[k] + two[k]) / 2 for k in one}
    with pytest.raises(RuntimeError, match="averaged over stage-1 and stage-2"):
        encoder.load_state_dict(mean)


def test_selection_state_survives_conversion_averaging_and_copies():
    encoder = make_encoder()
    encoder.selection.updates.fill_(2**24 + 1)
    encoder.selection.zeroed_score.copy_(torch.randn(8))  # float32 values
    encoder.selection.freeze(torch.tensor([3, 1, 2, 0, 7, 6, 5, 4]))
    half = copy.deepcopy(encoder).half()
    assert half.scores.dtype == torch.float16
    assert half.selection.updates.dtype == torch.float64
    assert half.selection.updates == 2**24 + 1
    states = [encoder.state_dict() for _ in range(3)]
    mean = {k: (states[0][k] + states[1][k] + states[2][k]) / 3 for k in states[0]}
    for k in mean:
        if k.startswith("selection."):
            assert torch.equal(mean[k], states[0][k]), k
    fresh = make_encoder()
    fresh.load_state_dict(mean)
    assert fresh.kept_layers(3) == [1, 2, 3]
