"""``sizes: any``: every size from the smallest on is trained, set and extracted."""

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


def test_the_middle_size_is_drawn_from_all_between():
    model = make()
    assert {model.middle_size(t) for t in range(100)} == {3, 4, 5, 6, 7}
    assert {make(size_step=3).middle_size(t) for t in range(100)} == {5}


def test_sizes_between_share_an_output_layer_and_a_name():
    model, batch = make(), make_batch()
    layers = {z: id(model.ctc.ctc_lo.of_size(z)) for z in model.encoder.all_sizes}
    assert len({layers[2], layers[5], layers[8]}) == 3
    assert {layers[z] for z in (3, 4, 6, 7)} == {layers[5]}
    told = set()
    for t in range(2, 12):
        model.state.updates.fill_(t)
        told |= set(model(**batch)[1])
    assert told <= model.names_of_stats(training=True)
    assert "loss_ctc_size5" in told and "loss_ctc_size4" not in told


def test_no_output_layer_is_idle_in_an_update_of_stage_2():
    model = make()
    for t in range(3, 9):
        idle = {id(p) for p in model._idle_parameters(t)}
        idle -= {id(p) for p in model.encoder.own.parameters()}
        assert idle == {id(model.encoder.scores)}


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
