"""``encoder_conf: use_sdpa: true``: torch's fused attention gives what ESPnet's own gives."""

import argparse
import copy

import pytest
import torch

from espnet_des.deploy.extract import subnet_state
from espnet_des.deploy.onnx.graph import CTCGraph
from espnet_des.method.selection import Schedule
from espnet_des.nn.encoders import SubnetConformerEncoder
from espnet_des.task import leave_out_plots
from tests.conftest import TINY, make_batch, make_model
from tests.deploy.test_onnx import assert_equal, expected
from tests.deploy.test_onnx import make_model as make_onnx_model

SCHEDULE = Schedule((4, 4), (3, 5))  # 8 layers, sizes 3, 5, 8: E = 8
ATTENTIONS = [
    {}, {"rel_pos_type": "legacy"},
    {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
]  # fmt: skip


def pair(stage=1, method="simple_top_k", **conf):
    """The same model without and with it; no dropout, but stochastic depth."""
    models = [
        make_model(
            {"dropout_rate": 0.0, "positional_dropout_rate": 0.0, "use_sdpa": sdpa, **conf},
            SCHEDULE, method=method, stochastic_depth_p1=0.4, stochastic_depth_p2=0.4,
        )
        for sdpa in (False, True)
    ]  # fmt: skip
    with torch.no_grad():
        # Of the two attentions, 1 and 5, one is in the small pass and one has a closed gate.
        models[0].encoder.scores.copy_(torch.arange(8) % 5 == 1)
    models[0].state.updates.fill_(5 if stage == 1 else 20)
    if stage == 2:
        models[0].state.freeze(torch.tensor([1, 3, 2, 5, 7, 0, 4, 6]))
    models[1].load_state_dict(models[0].state_dict())
    assert [models[1].encoder.encoders[i].self_attn.use_sdpa for i in range(2)] == [True, True]
    return models


@pytest.mark.parametrize("conf", ATTENTIONS, ids=str)
@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out", "ortho_softmax"])
@pytest.mark.parametrize("stage", [1, 2])
def test_an_update_has_the_same_loss_and_gradients(stage, method, conf):
    batch, results, models = make_batch(), [], pair(stage, method, **conf)
    if (stage, method) == (1, "simple_top_k"):
        assert 5 in models[0].passes(5)[1].closed and 1 not in models[0].passes(5)[1].closed
    batch["speech"] = batch["speech"].double()  # what BatchNorm takes the gradient of is noise
    for model in models:
        torch.manual_seed(3)  # the same rows are dropped
        loss, stats, _ = model.double().train()(**batch)
        loss.backward()
        results.append((loss, stats, {n: p.grad for n, p in model.named_parameters()}))
    (loss, stats, gradients), (loss2, stats2, gradients2) = results
    torch.testing.assert_close(loss2, loss)
    torch.testing.assert_close(stats2, stats, equal_nan=True)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients2[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("conf", ATTENTIONS, ids=str)
def test_every_size_and_its_subnet_give_the_same(conf):
    plain, fused = (model.eval() for model in pair(**conf))
    batch = make_batch()
    x, lengths = batch["speech"], batch["speech_lengths"]
    for size in (3, 5, 8):
        plain.set_size(size), fused.set_size(size)
        (want, n), (got, m) = plain.encode(x, lengths), fused.encode(x, lengths)
        assert torch.equal(n, m)
        torch.testing.assert_close(got, want)
        subnet = SubnetConformerEncoder(
            12,
            kept_layers=fused.encoder.kept_layers(size),
            **(TINY | conf | {"use_sdpa": True}),
        ).eval()
        subnet.load_state_dict(
            {k.removeprefix("encoder."): v for k, v in subnet_state(fused, size).items()
             if k.startswith("encoder.")}
        )  # fmt: skip
        assert torch.equal(subnet(x, lengths)[0], got)


@pytest.mark.parametrize("conf", ATTENTIONS, ids=str)
def test_a_row_without_a_frame_harms_no_other(conf):
    """All its keys are masked: a softmax over nothing would be NaN, in all gradients."""
    _, model = pair(**conf)
    encoder = model.encoder.train()
    front = encoder.subsample(torch.randn(3, 24, 12), torch.tensor([24, 16, 20]))
    front.mask[1] = False
    out = encoder.run_layers(front)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in encoder.parameters())


@pytest.mark.parametrize("conf", ATTENTIONS, ids=str)
def test_the_exported_form_gives_the_same(conf):
    plain, fused = (make_onnx_model(use_sdpa=sdpa, **conf) for sdpa in (False, True))
    graph = CTCGraph(copy.deepcopy(fused), "features")
    for frames in ((40,), (97, 60, 33)):
        feats, lengths = torch.randn(len(frames), max(frames), 12), torch.tensor(frames)
        with torch.no_grad():
            assert_equal(graph(feats, lengths), expected(plain, feats, lengths))


def test_attention_is_not_plotted(caplog):
    for sdpa, plots in ((True, 0), (False, 3)):
        args = argparse.Namespace(encoder_conf={"use_sdpa": sdpa}, num_att_plot=3)
        leave_out_plots(args)
        assert args.num_att_plot == plots
    assert caplog.text.count("num_att_plot: 3 is taken for 0") == 1
