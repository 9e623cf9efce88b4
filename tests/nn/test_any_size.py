"""``sizes: any``: every size from the smallest on can be set and extracted; three are trained."""

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


@pytest.mark.parametrize("conf", [{}, {"granularity": "component", "conv_parts": 4}], ids=str)
def test_it_is_trained_as_the_three_sizes_are(conf):
    """Bit by bit: what lies between is free."""
    conf = conf | {"conv_norm": "batch_norm", "own_weights": True}
    trained = []
    for sizes in ({"sizes": "any", "smallest_size": 2}, {"sizes": [2, 5, 8]}):
        torch.manual_seed(0)
        model = make_model(conf | sizes, SCHEDULE, distillation_weight=0.2).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(6):
            optimizer.zero_grad()
            torch.manual_seed(1)
            model(**make_batch())[0].backward()
            model.before_step()
            optimizer.step()
            model.after_step()
        assert model.stage == 2
        trained.append(model.state_dict())
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())


@torch.no_grad()
@pytest.mark.parametrize("parts", [1, 4])
def test_a_size_between_two_has_a_mean_of_their_statistics(parts):
    """But of what the smaller one has not got, it has those of the larger one."""
    conf = {"granularity": "component", "conv_parts": parts} if parts > 1 else {}
    model = make(stage_2=False, conv_norm="batch_norm", **conf)
    encoder = model.encoder
    model.state.freeze(torch.randperm(encoder.num_units))
    for q, norm in encoder._norms:
        for value in norm.buffers():
            if value.dim():
                value.uniform_(0.5, 2.0)
        for low, size, high, of_high in ((2, 4, 5, 2 / 3), (5, 6, 8, 1 / 3)):
            encoder.use_statistics_of(size)
            above = "" if high == 8 else f"_size{high}"
            chunks = [
                value.chunk(parts) for value in (
                    getattr(norm, f"running_mean_size{low}"), getattr(norm, f"running_mean{above}"),
                    norm.statistics()[0],
                )
            ]  # fmt: skip
            for unit, *of_unit in zip(encoder.units_of[q], *chunks):
                share = of_high if unit in encoder.kept_units(low) else 1.0
                torch.testing.assert_close(of_unit[2], torch.lerp(*of_unit[:2], share))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    encoder.set_size(4)
    model.train().encode(**{k: v for k, v in make_batch().items() if "speech" in k})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()
               if "num_batches" not in key)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm"])
def test_masked_is_extracted_at_every_size(norm):
    model, batch = make(conv_norm=norm).eval().double(), make_batch()
    for name, value in model.named_buffers():
        if "running_" in name:
            value.uniform_(0.5, 2.0)
    for size in model.encoder.all_sizes:
        model.set_size(size)
        assert model.encoder.kept_layers(size) == list(range(8 - size, 8))
        out, lengths = model.encode(batch["speech"].double(), batch["speech_lengths"])
        subnet, state = extracted(model, size, conv_norm=norm), subnet_state(model, size)
        alone, _, _ = subnet(batch["speech"].double(), batch["speech_lengths"])
        assert torch.equal(out, alone)
        logits = torch.nn.functional.linear(
            alone, state["ctc.ctc_lo.weight"], state["ctc.ctc_lo.bias"]
        )
        assert torch.equal(logits, model.ctc.ctc_lo(out))
