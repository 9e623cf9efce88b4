"""``sizes: any``: every size from the smallest on is trained, set and extracted."""

import collections

import pytest
import torch

from espnet_des.deploy.extract import subnet_state
from espnet_des.method.selection import Schedule
from tests.conftest import extracted, make_batch, make_model

SCHEDULE = Schedule(updates=(1, 1), zeroed=(2, 6))


def make(stage_2=True, **conf):
    model = make_model({"sizes": "any", "smallest_size": 2} | conf, SCHEDULE)
    if stage_2:
        model.state.freeze(torch.arange(8).flip(0))
        model.state.updates.fill_(3)
    return model


def test_the_middle_size_is_half_of_the_time_drawn_from_all_between():
    model = make()  # sizes 2, 5 and 8 are anchors
    drawn = collections.Counter(draws(model, 3, seeds=2000))
    chances = {3: 0.1, 4: 0.1, 5: 0.6, 6: 0.1, 7: 0.1}
    assert set(drawn) == set(chances)
    for size, chance in chances.items():
        assert drawn[size] / drawn.total() == pytest.approx(chance, abs=0.04)
    assert {make(size_step=3).middle_size(t) for t in range(3, 100)} == {5}


def draws(model, t, seeds):
    for seed in range(seeds):
        model.state.seed.fill_(seed)
        yield model.middle_size(t)


@torch.no_grad()
def test_a_size_between_two_has_a_mean_of_their_output_layers_and_weights():
    model = make()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    layer, own = model.ctc.ctc_lo.of_size, dict(model.encoder.own.of_sizes.items())
    shared, key = model.encoder.encoders[-1].feed_forward.w_1.bias, "1/feed_forward/w_1/bias"
    own["size8"] = {key: torch.zeros_like(shared)}  # the full size owns nothing
    for low, size, high, of_high in ((2, 3, 5, 1 / 3), (2, 4, 5, 2 / 3), (5, 7, 8, 2 / 3)):
        for name in ("weight", "bias"):
            mean = torch.lerp(*(getattr(layer(z), name) for z in (low, high)), of_high)
            torch.testing.assert_close(getattr(layer(size), name), mean)
        found = model.encoder.blocks_for(size)[-1].feed_forward.w_1.bias
        mean = shared + torch.lerp(own[f"size{low}"][key], own[f"size{high}"][key], of_high)
        torch.testing.assert_close(found, mean)


def test_each_size_has_statistics_of_its_own_which_stage_1_begins():
    model, batch = make(stage_2=False, conv_norm="batch_norm"), make_batch()
    norm = model.encoder.encoders[0].conv_module.norm
    assert all(hasattr(norm, f"running_mean_size{z}") for z in range(2, 8))
    for _ in range(5):
        stage = model.stage
        model(**batch)
        model.after_step()
    assert stage == 2
    model.state.updates.fill_(3)
    model.state.seed.fill_(next(z for z, m in enumerate(draws(model, 3, 99)) if m == 4))
    full = norm.running_mean.clone()
    before = {z: getattr(norm, f"running_mean_size{z}").clone() for z in range(3, 8)}
    assert any(bool(mean.any()) for mean in before.values())
    model(**batch)
    moved = {
        z for z in before if not torch.equal(before[z], getattr(norm, f"running_mean_size{z}"))
    }
    assert moved == {4} and not torch.equal(full, norm.running_mean)


def test_sizes_between_share_a_name():
    model, batch = make(), make_batch()
    told = set()
    for t in range(2, 12):
        model.state.updates.fill_(t)
        told |= set(model(**batch)[1])
    assert told <= model.names_of_stats(training=True)
    assert "loss_ctc_size5" in told and "loss_ctc_size4" not in told


def test_an_output_layer_is_idle_where_no_anchor_has_it():
    model = make()
    layers = model.ctc.ctc_lo.heads
    for t in range(3, 30):
        idle = {id(p) for p in model._idle_parameters(t)}
        idle -= {id(p) for p in model.encoder.own.parameters()}
        of_middle = () if model.middle_size(t) == 5 else layers["size5"].parameters()
        assert idle == {id(model.encoder.scores), *map(id, of_middle)}


def test_what_no_size_of_an_update_uses_of_what_sizes_own_stays():
    model = make().train()
    batch = make_batch()
    for t in range(3, 12):
        model.state.updates.fill_(t)
        model.zero_grad()
        model(**batch)[0].backward()
        idle = {id(p) for p in model._idle_parameters(t)}
        for name, parameter in model.encoder.own.named_parameters():
            if name.endswith("linear_k/bias"):
                continue  # softmax does not see it: its gradient is rounding
            assert (parameter.grad is None or not parameter.grad.any()) == (
                id(parameter) in idle
            )


@torch.no_grad()
def test_masked_is_extracted_at_every_size():
    model, batch = make().eval().double(), make_batch()
    for size in model.encoder.all_sizes:
        model.set_size(size)
        assert model.encoder.kept_layers(size) == list(range(8 - size, 8))
        out, lengths = model.encode(batch["speech"].double(), batch["speech_lengths"])
        subnet, state = extracted(model, size), subnet_state(model, size)
        alone, _, _ = subnet(batch["speech"].double(), batch["speech_lengths"])
        assert torch.equal(out, alone)
        logits = torch.nn.functional.linear(
            alone, state["ctc.ctc_lo.weight"], state["ctc.ctc_lo.bias"]
        )
        assert torch.equal(logits, model.ctc.ctc_lo(out))


def test_a_size_that_has_nothing_to_train_is_no_obstacle():
    """With the encoder frozen a size between two has no parameter of its own."""
    model, batch = make().train(), make_batch()
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(name == "scores")
    for t in range(3, 9):
        model.state.updates.fill_(t)
        model.zero_grad()
        model(**batch)[0].backward()
        for size in (2, 5, 8):
            grad = model.ctc.ctc_lo.of_size(size).weight.grad
            is_trained = grad is not None and bool(grad.any())
            assert is_trained == (size in (2, model.middle_size(t), 8))
