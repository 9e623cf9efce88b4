"""``own_weights``: what a smaller size adds to the parameters that all sizes share."""

import pytest
import torch

from espnet2.optimizers.optim_groups import configure_optimizer
from espnet_des.errors import ConfigError
from espnet_des.method.selection import Schedule
from espnet_des.nn.costs import parameters_of_sizes
from espnet_des.nn.layered import num_parameters
from tests.conftest import (
    TINY_OF,
    check_sum_of_plain_losses,
    extracted,
    make_batch,
    make_encoder,
    make_model,
)
from tests.nn.test_encoders import randomised

SCHEDULE = Schedule(updates=(1, 1), zeroed=(2, 4))
OWN = {"own_weights": True}


def frozen(conf=None, **model_conf):
    """A supernet in stage 2, in float64, all of whose parameters are random numbers."""
    model = make_model(conf, SCHEDULE, **model_conf)
    randomised(model.encoder)
    model.state.freeze(torch.randperm(model.encoder.num_units))
    return model.double().eval()


def encoded(model, size):
    batch = make_batch(frames=40)
    torch.manual_seed(5)
    speech = torch.randn(batch["speech"].shape, dtype=torch.float64)
    model.set_size(size)
    with torch.no_grad():
        return model.encode(speech, batch["speech_lengths"])[0]


def test_every_smaller_size_has_as_much_as_the_blocks():
    encoder = make_encoder(**OWN)
    blocks = num_parameters(encoder.encoders)
    assert [f"size{size}" for size in encoder.sizes[:-1]] == list(encoder.own.of_sizes)
    assert {num_parameters(added) for added in encoder.own.of_sizes.values()} == {blocks}
    assert make_encoder(own_weights=False).own is None


@pytest.mark.parametrize("conv_norm", ["batch_norm", "layer_norm"])
def test_what_is_added_decays_where_what_is_shared_does(conv_norm):
    """With ``exclude_weight_decay``, ESPnet's norms and biases do not."""
    model = make_model({"conv_norm": conv_norm} | OWN)
    conf = {"bias_weight_decay": False, "normalization_weight_decay": False}
    optimizer = configure_optimizer(model, torch.optim.AdamW, {"weight_decay": 0.1}, conf)
    decay = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, shared in model.encoder.encoders.named_parameters():
        for added in model.encoder.own.of_sizes.values():
            assert decay[added[name.replace(".", "/")]] == decay[shared], name
    assert {0.0, 0.1} == {decay[p] for p in model.encoder.own.parameters()}


@pytest.mark.parametrize("name", TINY_OF)
def test_at_the_start_and_in_stage_1_it_adds_nothing(name):
    model = frozen({"encoder": name} | OWN)
    others = [encoded(model, size) for size in model.encoder.sizes]
    model.start_scores()
    before = [encoded(model, size) for size in model.encoder.sizes]
    shared = model.encoder.own
    model.encoder.own = None
    for size, found, other in zip(model.encoder.sizes, before, others):
        torch.testing.assert_close(encoded(model, size), found, rtol=0, atol=1e-12)
        is_full = size == model.encoder.num_layers
        assert torch.allclose(found, other) == is_full  # which owns nothing
    model.encoder.own = shared
    new = make_model({"encoder": name} | OWN, SCHEDULE).encoder
    assert all(new.blocks_for(size) is new.encoders for size in new.sizes)


@pytest.mark.parametrize("granularity", ["layer", "component"])
@pytest.mark.parametrize("name", TINY_OF)
@torch.no_grad()
def test_an_extracted_size_has_the_sums(name, granularity):
    model = frozen({"encoder": name, "granularity": granularity} | OWN)
    batch = make_batch(frames=40)
    for size in model.encoder.sizes:
        model.set_size(size)
        masked, _ = model.encode(batch["speech"].double(), batch["speech_lengths"])
        subnet = extracted(model, size, name)
        alone, _, _ = subnet(batch["speech"].double(), batch["speech_lengths"])
        torch.testing.assert_close(masked, alone, rtol=0, atol=1e-12)
        assert num_parameters(subnet) == model.encoder.count_parameters(size)


def test_it_counts_in_no_size():
    own, plain = (make_model({"own_weights": is_on}, SCHEDULE) for is_on in (True, False))
    assert num_parameters(own) > num_parameters(plain)
    for model in (own, plain):
        model.state.freeze(torch.arange(model.encoder.num_units))
    assert parameters_of_sizes(own) == parameters_of_sizes(plain)


def steps(model, count):
    """Updates; returns the stage of each, and which sizes' own parameters it moved."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    batch, moved = make_batch(), []
    for _ in range(count):
        before = {k: v.clone() for k, v in model.encoder.own.state_dict().items()}
        stage = model.stage
        optimizer.zero_grad()
        model(**batch)[0].backward()
        model.before_step()
        optimizer.step()
        model.after_step()
        after = model.encoder.own.state_dict()
        names = {k.split(".")[1] for k in before if not torch.equal(before[k], after[k])}
        moved.append((stage, names))
    return moved


def test_each_size_moves_its_own_alone_and_only_in_stage_2():
    model = make_model({"sizes": [2, 4, 6, 8]} | OWN, SCHEDULE).train()
    middles = [model.middle_size(t) for t in range(12)]
    found = steps(model, 12)
    assert [stage for stage, _ in found] == [1] * 3 + [2] * 9 and len(set(middles[3:])) == 2
    for (stage, moved), middle in zip(found, middles):
        assert moved == ({"size2", f"size{middle}"} if stage == 2 else set())


def test_layers_that_a_size_lacks_stay_as_they_begin():
    model = make_model(OWN, SCHEDULE).train()
    steps(model, 6)
    small = model.encoder.sizes[0]
    blocks = model.encoder.blocks_for(small)
    shared = dict(model.encoder.encoders.named_parameters())
    moved = {n for n, p in blocks.named_parameters() if p is not shared[n]}
    kept = model.encoder.kept_layers(small)
    for q, layer in enumerate(model.encoder.layers):
        block = model.encoder.encoders[layer.block]
        of_layer = {
            id(p) for module in model.encoder.block_type.modules(block, layer.kind)
            for p in module.parameters()
        }  # fmt: skip
        names = {n for n, p in shared.items() if id(p) in of_layer}
        assert names and (names <= moved if q in kept else not names & moved)


def test_an_update_is_the_sum_of_plain_losses():
    """Pass by pass, beside one graph of everything."""
    moved = check_sum_of_plain_losses(frozen(OWN))
    assert any(".own." in name for name in moved)


def test_a_state_dict_brings_it():
    one, other = frozen(OWN), frozen(OWN)
    other.load_state_dict(one.state_dict())
    for size in one.encoder.sizes:
        torch.testing.assert_close(encoded(one, size), encoded(other, size), rtol=0, atol=0)


def test_all_else_is_drawn_as_without():
    drawn = []
    for is_on in (True, False):
        torch.manual_seed(3)
        model = make_model({"own_weights": is_on}, SCHEDULE)
        state = {k: v for k, v in model.state_dict().items() if ".own." not in k}
        drawn.append(state | {"next": torch.randn(3)})
    torch.testing.assert_close(*drawn, rtol=0, atol=0)


def test_what_is_neither_true_nor_false_is_refused():
    with pytest.raises(
        ConfigError, match="encoder_conf: own_weights: 'all' must be true or false"
    ):
        make_encoder(own_weights="all")


def test_a_quantised_supernet_is_refused():
    model = make_model(OWN, SCHEDULE).eval()
    model.state.freeze(torch.randperm(model.encoder.num_units))
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    with pytest.raises(ConfigError, match="own_weights: .* quantise that"):
        quantised.set_size(model.encoder.sizes[0])
    with pytest.raises(ConfigError, match="own_weights: .* quantise that"):
        quantised.encoder.blocks_for(model.encoder.sizes[0])


def test_of_layers_that_an_update_lacks_a_size_moves_nothing():
    """Momentum would move all of it."""
    model = make_model({"sizes": "any", "smallest_size": 2} | OWN, SCHEDULE).train()
    model.state.freeze(torch.arange(8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    anchor = model.encoder.sizes[1]
    own, lacked = model.encoder.own.of_sizes[f"size{anchor}"], set()
    for t in range(10):
        model.state.updates.fill_(20 + t)
        optimizer.zero_grad()
        model(**make_batch())[0].backward()
        model.before_step()
        before = {name: value.clone() for name, value in own.items()}
        optimizer.step()
        moved = {name for name in before if not torch.equal(before[name], own[name])}
        runs = model.encoder.parts_of(set(model.encoder.kept_units(anchor)))
        for q, layer in enumerate(model.encoder.layers):
            block = model.encoder.encoders[layer.block]
            modules = model.encoder.block_type.modules(block, layer.kind)
            mine = {id(p) for module in modules for p in module.parameters()}
            names = {
                name.replace(".", "/")
                for name, p in model.encoder.encoders.named_parameters()
                if id(p) in mine
            }
            assert q in runs or not names & moved
            lacked |= names - moved
        assert moved
    assert lacked


def test_what_is_frozen_is_frozen_at_every_size():
    encoder = make_model(OWN, SCHEDULE).encoder
    encoder.encoders[0].requires_grad_(False)
    encoder.own.freeze_with(encoder.encoders)
    for added in encoder.own.of_sizes.values():
        for name, parameter in added.items():
            assert parameter.requires_grad == name.startswith("1/")
