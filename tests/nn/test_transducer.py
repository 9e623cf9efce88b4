"""Losses that stand in for what pip cannot install, and for kernels that need a GPU."""

import copy
import importlib.util
import sys

import pytest
import torch

from espnet2.asr.transducer.rnnt_multi_blank import rnnt_multi_blank
from espnet_des.errors import ConfigError
from espnet_des.nn.multi_blank import multi_blank_loss
from espnet_des.nn.transducer import MultiBlankLoss, RNNTLoss, trainable_transducers
from tests.conftest import make_model

INT = torch.int32


def batch(vocabulary=8):
    logits = torch.randn(3, 7, 5, vocabulary)
    labels = torch.randint(1, vocabulary, (3, 4), dtype=INT)
    return (
        logits,
        labels,
        torch.tensor([7, 6, 1], dtype=INT),
        torch.tensor([4, 2, 0], dtype=INT),
    )


@pytest.mark.parametrize("blank", [0, 7])
def test_it_computes_what_espnets_numba_loss_computes(blank):
    """Whose authors took it from warprnnt_pytorch, mean and gradients included."""
    logits, labels, frames, lengths = batch()
    labels = (labels - int(blank == 7)).contiguous()
    values = []
    for loss in (RNNTLoss(blank=blank), rnnt_multi_blank.RNNTLossNumba(blank=blank)):
        x = logits.clone().requires_grad_()
        found = loss(x, labels, frames, lengths)
        (2 * found).sum().backward()
        values.append((found.reshape(()), x.grad))
    torch.testing.assert_close(values[0], values[1])


def test_it_is_the_multi_blank_loss_without_big_blanks():
    logits, labels, frames, lengths = batch()
    expected = multi_blank_loss(logits, labels, frames, lengths, 0, []).mean()
    torch.testing.assert_close(RNNTLoss()(logits, labels, frames, lengths), expected)


def test_half_precision_and_texts_without_labels():
    logits, _, frames, _ = batch()
    none = torch.zeros(3, dtype=INT)
    given = logits[:, :, :1].bfloat16(), torch.zeros(3, 0, dtype=INT), frames, none
    found = RNNTLoss()(*given)
    expected = multi_blank_loss(*given, 0, []).mean()
    torch.testing.assert_close(found, expected)


def test_fastemit_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"fastemit_lambda: 0\.1 .* warprnnt_pytorch"):
        RNNTLoss(blank=0, fastemit_lambda=0.1)


def test_the_multi_blank_loss_runs_on_the_cpu():
    logits, labels, frames, lengths = batch()
    given = logits, labels.clamp(min=4), frames, lengths
    loss = MultiBlankLoss(blank=3, big_blank_durations=[2, 4], sigma=0.1)
    with pytest.raises(NotImplementedError):
        rnnt_multi_blank.MultiblankRNNTLossNumba(3, [2, 4])(*given)
    expected = multi_blank_loss(*given, 3, [2, 4], 0.1).mean()
    torch.testing.assert_close(loss(*given), expected)


@pytest.mark.skipif(
    importlib.util.find_spec("warprnnt_pytorch") is not None,
    reason="the real one is installed",
)
def test_models_that_are_built_meanwhile_have_them():
    model = make_model(transducer=True)
    assert isinstance(model.criterion_transducer, RNNTLoss)
    assert isinstance(copy.deepcopy(model).criterion_transducer, RNNTLoss)
    assert "warprnnt_pytorch" not in sys.modules
    conf = {"transducer_multi_blank_durations": [2], "report_cer": False, "report_wer": False}
    model = make_model(transducer=True, **conf)
    assert isinstance(model.criterion_transducer, MultiBlankLoss)


def test_the_real_package_goes_first(monkeypatch):
    class Real(torch.nn.Module):
        def __init__(self, blank, fastemit_lambda):
            super().__init__()

    real = type(sys)("warprnnt_pytorch")
    real.RNNTLoss = Real
    monkeypatch.setitem(sys.modules, "warprnnt_pytorch", real)
    with trainable_transducers():
        assert sys.modules["warprnnt_pytorch"] is real
    assert sys.modules["warprnnt_pytorch"] is real
    assert isinstance(make_model(transducer=True).criterion_transducer, Real)
