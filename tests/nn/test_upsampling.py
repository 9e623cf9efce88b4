"""Several frames of output for each of the layers'."""

import pytest
import torch

from espnet_des.errors import ConfigError
from espnet_des.nn.front_end import is_own
from espnet_des.nn.upsampling import Upsampling
from tests.conftest import TINY_OF, make_encoder, make_model


@torch.no_grad()
def test_the_frames_of_one_stand_side_by_side():
    upsample = Upsampling(4, 2).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    first, second = upsample.linear.weight.double().split(4)
    y = upsample(x)
    assert y.shape == (2, 6, 4)
    torch.testing.assert_close(y[:, ::2], x @ first.T, atol=1e-12, rtol=0)
    torch.testing.assert_close(y[:, 1::2], x @ second.T, atol=1e-12, rtol=0)
    # What it begins with loses nothing, and the two differ.
    torch.testing.assert_close(y[:, ::2].norm(), x.norm(), atol=1e-5, rtol=0)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("name", TINY_OF)
@torch.no_grad()
def test_at_every_size_there_are_twice_as_many_frames_and_no_new_ones_inside(name):
    torch.manual_seed(0)
    plain = make_encoder(name).eval()
    twice = make_encoder(name, upsampling_factor=2).eval()
    twice.load_state_dict(plain.state_dict() | {
        key: value for key, value in twice.state_dict().items() if key.startswith("upsample.")
    })  # fmt: skip
    x, lengths = torch.randn(2, 40, 12), torch.tensor([40, 29])
    for size in plain.sizes:
        plain.set_size(size), twice.set_size(size)
        (a, n, _), (b, m, _) = plain(x, lengths), twice(x, lengths)
        assert m.tolist() == [2 * frames for frames in n.tolist()]
        assert b.shape == (2, 2 * a.size(1), a.size(2))
        torch.testing.assert_close(b, twice.upsample(a))


def test_exits_have_the_frames_of_the_output():
    model = make_model(
        {"upsampling_factor": 2, "num_blocks": 3}, ctc_weight=1.0, exit_weight=0.3
    )
    assert model.exits
    front = model.encoder.subsample(torch.randn(2, 40, 12), torch.tensor([40, 29]))
    hidden = []
    out = model.encoder.run_layers(front, hidden=hidden)
    for _, exit_ in model.encoder.exits(hidden, model.exits):
        assert exit_.shape == out.shape


def test_text_that_fits_only_with_it_teaches_ctc():
    """Eight frames of the front end, twelve tokens."""
    text = torch.arange(2, 5).repeat(1, 4)
    losses = {}
    for factor in (1, 2):
        conf = {"input_layer": "dw_striding", "subsampling_factor": 8}
        model = make_model(conf | {"upsampling_factor": factor}, ctc_weight=1.0).eval()
        speech, lengths = torch.randn(1, 64, 12), torch.tensor([64])
        _, stats, _ = model(speech, lengths, text, torch.tensor([12]))
        losses[factor] = float(stats["loss_ctc"])
    assert losses[1] == 0.0 < losses[2]


def test_it_is_a_front_end_that_espnet_does_not_have():
    assert is_own({"upsampling_factor": 2}) and not is_own({"input_layer": "conv2d"})


def test_what_is_fed_back_would_have_other_frames():
    with pytest.raises(
        ConfigError, match="^encoder_conf: upsampling_factor: 2 does not go with"
    ):
        make_encoder(
            upsampling_factor=2, interctc_layer_idx=[1], interctc_use_conditioning=True
        )
