"""``granularity: component``: chunks of feed-forwards and heads are chosen, run and extracted."""

import copy

import numpy
import pytest
import torch

from espnet_des.errors import ConfigError
from espnet_des.method.selection import Schedule
from espnet_des.nn.components import cut, divided
from espnet_des.nn.encoders import SUBNETS
from tests.conftest import (
    TINY_OF,
    check_sum_of_plain_losses,
    extracted,
    make_batch,
    make_encoder,
    make_model,
)
from tests.nn.test_encoders import KINDS, randomised

SCHEDULE = Schedule(updates=(1, 1), zeroed=(2, 4))
COMPONENTS = {"granularity": "component"}
PARTS = {"conv_parts": 4}
METHODS = ["simple_top_k", "iterative_zero_out", "ortho_softmax"]


def batch_for(conf):
    dim = conf["output_size"] if conf.get("input_layer") == "wav2vec" else 12
    lengths = torch.tensor([40, 33, 21])
    return dim, (torch.randn(3, 40, dim, dtype=torch.float64), lengths)


def some_units(encoder, seed=0, share=0.6):
    rng = numpy.random.default_rng(seed)
    count = max(1, int(share * encoder.num_units))
    return sorted(rng.choice(encoder.num_units, count, replace=False).tolist())


def silence_others(encoder, units):
    """Set what other units give to 0, in the weight that adds a layer's components up."""
    for q, own in enumerate(encoder.units_of):
        module = encoder.module_of(q)
        of = divided(module)
        for c, u in enumerate(own):
            if of is not None and u not in units:
                weight = dict(module.named_parameters())[of.last]
                weight.unflatten(1, (of.number, -1))[:, c] = 0.0


@pytest.mark.parametrize("name, conf", [*KINDS, ("des_conformer", PARTS)])
@torch.no_grad()
def test_some_units_are_the_layers_whose_other_components_give_nothing(name, conf):
    dim, batch = batch_for(conf)
    encoder = randomised(make_encoder(name, dim, **COMPONENTS, **conf))
    assert encoder.num_units >= encoder.num_layers
    front = encoder.subsample(*batch)
    everything = encoder.run_layers(front, kept=list(range(encoder.num_units)))
    assert torch.equal(everything, encoder.run_layers(front))
    for seed in range(3):
        units = some_units(encoder, seed)
        found = encoder.run_layers(front, kept=units)
        layers = encoder.parts_of(set(units))
        whole = [u for q in layers for u in encoder.units_of[q]]
        kept = {key: value.clone() for key, value in encoder.state_dict().items()}
        silence_others(encoder, units)
        expected = encoder.run_layers(front, kept=whole)
        encoder.load_state_dict(kept)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize(
    "name, conf",
    [(name, {}) for name in TINY_OF]
    + [("des_transformer", {"concat_after": True}), ("des_conformer", PARTS)],
)
def test_gates_are_those_of_a_dense_reference(name, conf, hard):
    """The gate of a component scales what it gives; what they share has the widest one."""
    encoder = randomised(make_encoder(name, 12, **COMPONENTS, **conf)).train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    _, batch = batch_for({})
    front = encoder.subsample(*batch)
    units = some_units(encoder, seed=3)
    values = torch.rand(encoder.num_units, dtype=torch.float64) + 0.1
    if hard:
        values = torch.tensor([float(u in units) for u in range(encoder.num_units)]).double()
    closed = [u for u in range(encoder.num_units) if hard and u not in units]
    gates = values.clone().requires_grad_()
    out = encoder.run_layers(front, gates=gates, closed=closed)
    if hard:
        torch.testing.assert_close(out, encoder.run_layers(front, kept=units))
    (found,) = torch.autograd.grad(out.square().sum(), gates)
    eps, others = 1e-6, []
    for u in range(encoder.num_units):
        both = []
        for sign in (1, -1):
            moved = values.clone()
            moved[u] += sign * eps
            moved_out = encoder.run_layers(front, gates=moved)
            both.append(moved_out.square().sum().item())
        others.append((both[0] - both[1]) / (2 * eps))
    expected = torch.tensor(others).double()
    if hard:
        # Beside an open gate a closed one learns what its component gives. Alone it would
        # open what all share, too. (Side by side any of equal gates is the widest.)
        opened = encoder.parts_of(set(units))
        sure = [u for q in opened for u in encoder.units_of[q] if u not in units]
        if "branchformer" not in name:
            sure += [own[0] for own in encoder.units_of if len(own) == 1 and own[0] in units]
        assert sure
        torch.testing.assert_close(found[sure], expected[sure], rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, conf", [*((name, {}) for name in TINY_OF), ("des_conformer", PARTS)]
)
@torch.no_grad()
def test_a_size_is_extracted_to_really_smaller_weights(name, conf):
    model = make_model({"encoder": name} | COMPONENTS | conf, SCHEDULE)
    randomised(model.encoder)
    for key, statistic in model.encoder.named_buffers():
        if "running_" in key:
            statistic.uniform_(0.5, 1.5)
    model = model.double().eval()
    units = torch.arange(model.encoder.num_units)
    model.state.freeze(torch.cat([units[::2], units[1::2]]))  # half of a layer first
    batch = make_batch(frames=40)
    small = model.encoder.sizes[0]
    assert "kept_components" in model.encoder.described(model.encoder.kept_units(small))
    sizes = []
    for size in model.encoder.sizes:
        model.set_size(size)
        masked, _ = model.encode(batch["speech"].double(), batch["speech_lengths"])
        subnet = extracted(model, size, name, **conf)
        alone, _, _ = subnet(batch["speech"].double(), batch["speech_lengths"])
        torch.testing.assert_close(masked, alone, rtol=0, atol=1e-12)
        sizes.append(sum(p.numel() for p in subnet.parameters()))
        assert sizes[-1] == model.encoder.count_parameters(size)
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("conf", [{}, PARTS])
@pytest.mark.parametrize("method", METHODS)
def test_an_update_of_each_stage(method, conf):
    """A small size costs no more than it may, sizes are nested, and all gradients are numbers."""
    model, batch = make_model(COMPONENTS | conf, SCHEDULE, method=method).train(), make_batch()
    encoder, state = model.encoder, model.state
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    before = encoder.scores.detach().clone()
    for _ in range(6):
        optimizer.zero_grad()
        loss, _, _ = model(**batch)
        loss.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in grads)
        model.before_step()
        optimizer.step()
        model.after_step()
    assert model.stage == 2 and not torch.equal(before, encoder.scores)
    smaller = set()
    for size in encoder.sizes:
        kept = encoder.kept_units(size)
        cost = float(state.costs[kept].sum())
        assert size - 1 < cost <= size + 1e-4 and smaller <= set(kept)
        smaller = set(kept)
    assert smaller == set(range(encoder.num_units))


@pytest.mark.parametrize("parts", [[0, 1], [0, 2], [1, 3], [2]])
def test_a_part_of_a_convolution_learns_the_statistics_of_its_channels(parts):
    encoder = randomised(make_encoder(**COMPONENTS | PARTS, sizes=[4, 8])).train()
    module, size = encoder.module_of(2), 4
    whole, some = (copy.deepcopy(module) for _ in range(2))
    x, mask = torch.randn(3, 20, 8).double(), torch.ones(3, 1, 20, dtype=torch.bool)
    for conv, used in ((whole, whole), (some, cut(some, parts))):
        for norm in (conv.norm, used.norm):
            norm.size = size
        used(x, mask_pad=mask)
    channels = torch.isin(torch.arange(8) // 2, torch.tensor(parts))
    for name in ("running_mean_size4", "running_var_size4"):
        before, alone, all_of_it = (getattr(m.norm, name) for m in (module, some, whole))
        torch.testing.assert_close(alone[channels], all_of_it[channels])
        assert torch.equal(alone[~channels], before[~channels])
        assert not torch.equal(alone[channels], before[channels])


@pytest.mark.parametrize(
    "conf, says",
    [
        ({"conv_parts": 3}, "conv_parts: 3 must be a number of parts into which"),
        ({"conv_parts": 0}, "conv_parts: 0 must be a number of parts"),
        ({"conv_parts": 2, "conv_norm": "layer_norm"}, "1 with conv_norm: layer_norm"),
        ({"conv_parts": 2, "granularity": "layer"}, "belongs to granularity: component"),
    ],
)
def test_parts_of_convolutions_that_cannot_be_are_refused(conf, says):
    with pytest.raises(ConfigError, match=says):
        make_encoder(**COMPONENTS | conf)


@pytest.mark.parametrize("conf", [{}, PARTS])
def test_an_update_is_the_sum_of_plain_losses(conf):
    """Pass by pass with cut weights, beside one graph of everything."""
    model = make_model(COMPONENTS | conf, SCHEDULE).double()
    model.state.freeze(torch.randperm(model.encoder.num_units))
    assert check_sum_of_plain_losses(model)


@pytest.mark.parametrize(
    "conf, says",
    [
        ({9: [0]}, "must be of one of kept_layers"),
        ({1: [0, 0]}, "ascending numbers from 0 to 1"),
        ({1: [2]}, "ascending numbers from 0 to 1"),
        ({1: [0, 1]}, "some of its components"),
        ({2: [0]}, "must be left out: a layer of the kind conv is whole"),
    ],
)
def test_components_that_cannot_be_kept_are_refused(conf, says):
    own = {k: v for k, v in TINY_OF["des_conformer"].items() if k != "sizes"}
    with pytest.raises(ConfigError, match=f"kept_components: .*{says}"):
        SUBNETS["des_conformer_subnet"](12, **own, kept_layers=[0, 1, 2], kept_components=conf)


def test_a_quantised_supernet_of_components_is_refused():
    model = make_model(COMPONENTS | {"own_weights": False}, SCHEDULE).eval()
    model.state.freeze(torch.randperm(model.encoder.num_units))
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    quantised.set_size(model.encoder.sizes[0])
    batch = make_batch()
    with pytest.raises(ConfigError, match="granularity: component: .* quantise that"):
        quantised.encode(batch["speech"], batch["speech_lengths"])


def test_another_budget_is_refused():
    one, other = (make_model(None, SCHEDULE, budget=b) for b in ("macs", "params"))
    with pytest.raises(
        RuntimeError, match="budget: the checkpoint is of a training with params"
    ):
        one.load_state_dict(other.state_dict())
    older = make_model(None, SCHEDULE)
    old = {
        k: v for k, v in older.state_dict().items() if not k.endswith((".costs", ".budget"))
    }
    older.load_state_dict(old)
    with pytest.raises(
        RuntimeError, match="budget: the checkpoint is of a training with layers"
    ):
        one.load_state_dict(old)


def test_another_granularity_is_refused():
    with pytest.raises(ConfigError, match="granularity: 'head' must be one of"):
        make_encoder(granularity="head")
    one, other = make_model(COMPONENTS, SCHEDULE), make_model(None, SCHEDULE)
    with pytest.raises(
        RuntimeError, match="granularity: the checkpoint chooses among 8 units"
    ):
        one.load_state_dict(other.state_dict())
