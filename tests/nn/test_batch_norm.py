"""BatchNorm of a supernet: each size has statistics of its own."""

import pytest
import torch

from espnet_des.deploy.extract import subnet_state
from espnet_des.method.selection import Schedule
from espnet_des.nn.batch_norm import FiniteBatchNorm1d, of_full_size
from espnet_des.nn.encoders import SubnetConformerEncoder
from tests.conftest import TINY, make_batch, make_model

SIZES = (3, 5, 8)
CONF = {"sizes": list(SIZES), "conv_norm": "batch_norm"}
OWN = {3: 3, 5: 5, 8: None}  # whose statistics a size has


def norms(model) -> list[FiniteBatchNorm1d]:
    return [m for m in model.encoder.modules() if isinstance(m, FiniteBatchNorm1d)]


def all_statistics(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if "running_" in k}


def trained(model) -> None:
    """Statistics as after a training, of each size others."""
    for norm in norms(model):
        for name, value in norm.named_buffers():
            if "running_" in name:
                value.uniform_(0.5, 2.0)


@pytest.mark.parametrize("size", SIZES)
def test_a_pass_changes_those_of_its_size_only(size):
    model = make_model(CONF).train()
    seen = []
    norm = norms(model)[0]
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    model.set_size(size)
    before = all_statistics(model)
    kept = None if size == 8 else [0, 1, 2, 3, 4][:size]  # 2 is the convolution
    model.encoder.use_statistics_of(size)
    batch = make_batch()
    front = model.encoder.subsample(batch["speech"], batch["speech_lengths"])
    model.encoder.run_layers(front, kept=kept)
    end = "" if size == 8 else f"_size{size}"
    changed = {k for k, v in all_statistics(model).items() if not torch.equal(v, before[k])}
    runs = range(2) if size == 8 else range(1)
    assert changed == {
        f"encoder.encoders.{block}.conv_module.norm.running_{name}{end}"
        for block in runs for name in ("mean", "var")
    }  # fmt: skip
    mean, _ = norm.statistics()
    torch.testing.assert_close(mean, 0.1 * seen[0].mean((0, 2)))


def test_an_update_teaches_every_size_its_own(tmp_path):
    model = make_model(CONF, schedule=Schedule((2,), (5,))).train()
    for _ in range(3):  # into stage 2
        loss, *_ = model(**make_batch())
        loss.backward()
        model.after_step()
    assert model.stage == 2
    model(**make_batch())
    first = norms(model)[0]
    means = [getattr(first, name) for name in ("running_mean", "running_mean_size3")]
    assert not torch.equal(*means)


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_extracted_with_its_own(size):
    model = make_model(CONF).eval()
    trained(model)
    model.set_size(3), model.set_size(size)
    kept = model.encoder.kept_layers(size)
    alone = SubnetConformerEncoder(
        12, kept_layers=kept, **(TINY | {"conv_norm": "batch_norm"})
    )
    state = {k.removeprefix("encoder."): v for k, v in subnet_state(model, size).items()
             if k.startswith("encoder.")}  # fmt: skip
    assert not [k for k in state if "_size" in k]
    alone.load_state_dict(state)
    x, lengths = torch.randn(2, 30, 12), torch.tensor([30, 21])
    assert torch.equal(model.encoder(x, lengths)[0], alone.eval()(x, lengths)[0])
    # Whatever ran in between.
    model.encoder.use_statistics_of(3 if size == 8 else 8)
    assert torch.equal(model.encoder(x, lengths)[0], alone(x, lengths)[0])


def test_sizes_begin_with_those_of_a_stock_checkpoint():
    model, other = make_model(CONF), make_model(CONF)
    trained(model)
    stock = of_full_size(model.state_dict())
    assert len(stock) == len(model.state_dict()) - 2 * 2 * len(norms(model))
    # As ESPnet's init_param: what the file lacks comes from the new model.
    plain = {k: v for k, v in stock.items() if ".selection." not in k}
    other.load_state_dict(other.state_dict() | plain)
    for one, two in zip(norms(model), norms(other)):
        for size in SIZES:
            two.size = OWN[size]
            assert torch.equal(two.statistics()[0], one.running_mean)
            assert torch.equal(two.statistics()[1], one.running_var)
    # So do those of a supernet from before sizes had their own.
    older = make_model(CONF)
    older.load_state_dict(stock)
    assert torch.equal(norms(older)[0].running_mean_size3, norms(model)[0].running_mean)
    # Those that a supernet's checkpoint brings stay, also of a size that has not run yet.
    norms(model)[0].running_mean_size3.zero_(), norms(model)[0].running_var_size3.fill_(1.0)
    model.encoder.selection.updates.fill_(9)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in all_statistics(other).items())


def test_a_batch_that_is_no_number_changes_nothing():
    norm = FiniteBatchNorm1d(2).train()
    norm.keep_apart([3])
    norm.size = 3
    norm(torch.full((2, 2, 4), torch.nan))
    assert torch.equal(norm.running_mean_size3, torch.zeros(2))
    norm(torch.ones(1, 2, 1))
    assert torch.equal(norm.running_mean_size3, torch.zeros(2))
    norm(torch.ones(1, 2, 2))
    assert torch.equal(norm.running_mean_size3, torch.full((2,), 0.1))
    assert torch.equal(norm.running_mean, torch.zeros(2))
