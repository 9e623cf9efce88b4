"""What a supernet takes over from a trained model, and how it ranks its layers first."""

import pytest
import torch

from espnet_des.errors import ConfigError
from espnet_des.nn.batch_norm import of_full_size
from espnet_des.shrink.ranking import SPREAD, rank_units, scores_of
from espnet_des.shrink.weights import weights_of
from tests.conftest import make_batch, make_model


def stock_and_supernets():
    """A model with BatchNorm, and supernets with both norms."""
    models = [
        make_model({"conv_norm": norm}) for norm in ("batch_norm", "batch_norm", "layer_norm")
    ]
    for module in models[0].modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return models


def as_stock(model):
    """Without what only a supernet has."""
    own = ("ctc.ctc_lo.heads", "encoder.scores", "encoder.selection")
    state = of_full_size(model.state_dict())
    state = {k: v for k, v in state.items() if not k.startswith(own)}
    model.state_dict = lambda: dict(state)
    return model


def test_with_the_same_norm_the_full_size_is_the_original():
    original, supernet, _ = stock_and_supernets()
    weights = weights_of(as_stock(original), supernet)
    assert not [name for name in weights if "scores" in name or "selection" in name]
    supernet.load_state_dict(supernet.state_dict() | weights)
    batch = make_batch()
    same = [m.eval().encode(batch["speech"], batch["speech_lengths"])[0]
            for m in (original, supernet)]  # fmt: skip
    torch.testing.assert_close(*same, rtol=0, atol=0)
    for size in supernet.encoder.sizes:
        assert torch.equal(
            supernet.ctc.ctc_lo.of_size(size).weight, original.ctc.ctc_lo.weight
        )


def test_the_convolution_before_a_layer_norm_does_what_the_statistics_did():
    original, _, supernet = stock_and_supernets()
    weights = weights_of(as_stock(original), supernet)
    supernet.load_state_dict(supernet.state_dict() | weights)
    x = torch.randn(2, 8, 20)
    for old, new in zip(original.encoder.encoders, supernet.encoder.encoders):
        old, new = old.conv_module.eval(), new.conv_module
        normalised = torch.nn.functional.batch_norm(
            old.depthwise_conv(x),
            old.norm.running_mean,
            old.norm.running_var,
            eps=old.norm.eps,
        )
        torch.testing.assert_close(new.depthwise_conv(x), normalised)
        assert torch.equal(new.norm.weight, old.norm.weight)
        assert torch.equal(new.norm.bias, old.norm.bias)


def test_another_model_is_refused():
    original, supernet, _ = stock_and_supernets()
    state = as_stock(original).state_dict()
    state["normalize.mean"] = torch.zeros(3)
    original.state_dict = lambda: dict(state)
    with pytest.raises(ConfigError, match="normalize.mean is in one of them only"):
        weights_of(original, supernet)
    del state["normalize.mean"], state["ctc.ctc_lo.bias"]
    with pytest.raises(ConfigError, match="ctc.ctc_lo.bias is in one of them only"):
        weights_of(original, supernet)


@pytest.mark.parametrize("conf", [{}, {"granularity": "component"}])
@pytest.mark.parametrize("by", ["angle", "loss", "greedy"])
def test_a_layer_that_does_nothing_comes_last(by, conf):
    model = make_model(conf, exit_weight=0.0)
    encoder, batch = model.encoder, make_batch()
    quiet = encoder.layers[5]
    with torch.no_grad():
        for p in encoder.block_type.module(
            encoder.encoders[quiet.block], quiet.kind
        ).parameters():
            p.zero_()
    order = rank_units(model, [batch, batch], by)
    assert sorted(order) == list(range(encoder.num_units))
    places = [order.index(unit) for unit in encoder.units_of[5]]
    if by == "angle":
        assert min(places) == encoder.num_units - len(places)
    else:  # others may do harm, and leave before it
        model.eval()
        with torch.no_grad():
            everything = range(encoder.num_units)
            less = [[u for u in everything if u != unit] for unit in encoder.units_of[5]]
            losses = model.losses_with([everything, *less], **batch)
        torch.testing.assert_close(losses, losses[:1].expand_as(losses))


def test_by_loss_the_most_missed_is_first():
    model, batch = make_model(exit_weight=0.0).eval(), make_batch()
    order = rank_units(model, [batch], "loss")
    without = [[u for u in range(8) if u != q] for q in order]
    with torch.no_grad():
        losses = model.losses_with(without, **batch).tolist()
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 8


def test_greedily_the_least_missed_leaves_first_again_and_again():
    model, batch = make_model(exit_weight=0.0).eval(), make_batch()
    order = rank_units(model, [batch], "greedy")
    left = list(range(8))
    for leaves in order[:0:-1]:
        without = [[u for u in left if u != q] for q in left]
        with torch.no_grad():
            losses = model.losses_with(without, **batch)
        assert left[int(losses.argmin())] == leaves
        left.remove(leaves)
    assert left == order[:1] and not model.training


def test_scores_start_in_the_order_around_their_usual_start():
    model = make_model()
    scores = scores_of([3, 1, 0, 2, 7, 6, 5, 4], model)
    assert scores.argsort(descending=True).tolist() == [3, 1, 0, 2, 7, 6, 5, 4]
    assert float(scores.mean()) == pytest.approx(model.selector.initial_score)
    assert float(scores.max() - scores.min()) == pytest.approx(SPREAD)
