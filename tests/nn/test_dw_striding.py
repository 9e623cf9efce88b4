"""FastConformer's front end, and ESPnet's with fewer channels."""

import pytest
import torch

from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet_des.errors import ConfigError
from espnet_des.nn.dw_striding import DWStridingSubsampling
from espnet_des.nn.waveforms import shortest_input
from tests.conftest import TINY_OF, extracted, make_encoder, make_model

BOTH_FACTORS = pytest.mark.parametrize("factor", [4, 8])


def alone(factor=4, channels=6):
    """The front end over 13 features without positions, in float64."""
    return DWStridingSubsampling(13, 8, torch.nn.Identity(), factor, channels).double().eval()


def with_biases(module):
    """As trained: biases that are zero would hide what padding does."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return module


def dw_striding(**conf):
    return {"input_layer": "dw_striding", "subsampling_channels": 6} | conf


def test_shapes_and_parameters_are_those_that_one_counts():
    def shapes(**conf):
        embed = make_encoder(input_layer="dw_striding", **conf).embed
        return embed, [tuple(p.shape) for p in embed.parameters() if p.dim() > 1]

    _, found = shapes()
    separable = [(256, 1, 3, 3), (256, 256, 1, 1)]
    assert found == [(256, 1, 3, 3), *separable, (8, 256 * 3)]  # 12 features: 6, 3
    _, found = shapes(subsampling_factor=8)
    assert found == [(256, 1, 3, 3), *separable, *separable, (8, 256 * 2)]  # 6, 3, 2
    small, _ = shapes(subsampling_channels=6)
    first, depthwise, pointwise = 6 * 9 + 6, 6 * 9 + 6, 6 * 6 + 6
    linear = 8 * (6 * 3) + 8
    count = sum(p.numel() for p in small.parameters())
    assert count == first + depthwise + pointwise + linear == 314


@BOTH_FACTORS
def test_each_frame_stands_in_the_middle_of_what_it_is_made_of(factor):
    embed, mask = alone(factor), torch.ones(1, 1, 60, dtype=torch.bool)
    x = torch.randn(1, 60, 13, dtype=torch.float64, requires_grad=True)
    y, out_mask = embed(x, mask)
    assert y.shape == (1, -(-60 // factor), 8) == (1, out_mask.size(2), 8)
    for frame in range(y.size(1)):
        (gradient,) = torch.autograd.grad(y[0, frame].sum(), x, retain_graph=True)
        seen = gradient[0].abs().sum(1).nonzero().flatten().tolist()
        first, last = frame * factor - factor + 1, frame * factor + factor - 1
        assert seen[0] >= max(0, first) and seen[-1] <= min(59, last)


@BOTH_FACTORS
@torch.no_grad()
def test_the_output_follows_the_audio_from_the_start(factor):
    """By 8, with PyTorch's initialisation, it is nearly a constant: .01 of this power varies."""
    embed, mask = alone(factor, channels=64), torch.ones(8, 1, 160, dtype=torch.bool)
    y, _ = embed(torch.randn(8, 160, 13, dtype=torch.float64), mask)
    frames = y[:, 2:-2].flatten(0, 1)
    assert frames.var(0).sum() > 0.1 * frames.pow(2).mean(0).sum()


@BOTH_FACTORS
@torch.no_grad()
def test_away_from_the_ends_it_is_the_published_one(factor):
    """That pads before each convolution, and so has other values in the first and last."""
    embed = with_biases(alone(factor))
    x = torch.randn(1, 61, 13, dtype=torch.float64)
    found, _ = embed(x, torch.ones(1, 1, 61, dtype=torch.bool))
    y = x[:, None]
    for conv in (embed.first, *(depthwise for depthwise, _ in embed.separable)):
        conv.padding = (1, 1)
    y = embed.first(y).relu()
    for convs in embed.separable:
        y = convs(y).relu()
    expected = embed.linear(y.transpose(1, 2).flatten(2))
    assert found.shape == expected.shape
    torch.testing.assert_close(found[:, 1:-1], expected[:, 1:-1], atol=1e-12, rtol=0)
    assert not torch.allclose(found[:, 0], expected[:, 0])


@BOTH_FACTORS
@pytest.mark.parametrize("name", TINY_OF)
@torch.no_grad()
def test_an_utterance_gives_beside_a_longer_one_what_it_gives_alone(name, factor):
    encoder = make_encoder(name, **dw_striding(subsampling_factor=factor)).double().eval()
    with_biases(encoder.embed)
    for frames in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 33, 47, 48):
        x = torch.randn(2, 48, 12, dtype=torch.float64)
        x[1, frames:] = 1e4  # of no account
        both, n, _ = encoder(x, torch.tensor([48, frames]))
        one, m, _ = encoder(x[1:, :frames], torch.tensor([frames]))
        assert n.tolist() == [-(-48 // factor), -(-frames // factor)] and m.item() == n[1]
        torch.testing.assert_close(both[1, :m], one[0], atol=1e-10, rtol=0)


def test_without_a_frame_it_says_so():
    encoder, lengths = make_encoder(**dw_striding()).eval(), torch.tensor([0])
    with pytest.raises(TooShortUttError, match="has 0 frames and is too short") as error:
        encoder(torch.zeros(1, 0, 12), lengths)
    assert error.value.limit == 1 == shortest_input(make_model(dw_striding()), "features")
    assert encoder(torch.zeros(1, 1, 12), torch.tensor([1]))[0].shape == (1, 1, 8)


CONFS = [dw_striding(), dw_striding(subsampling_factor=8), {"upsampling_factor": 2},
         {"input_layer": "conv2d", "subsampling_channels": 5}]  # fmt: skip


@pytest.mark.parametrize("conf", CONFS, ids=str)
@pytest.mark.parametrize("name", TINY_OF)
@torch.no_grad()
def test_a_size_is_the_extracted_model(name, conf):
    """Exported it is the same: tests/deploy and tests/properties."""
    model = make_model({"encoder": name, **conf}).eval()
    model.encoder.scores.normal_()
    size = model.encoder.sizes[0]
    model.set_size(size)
    subnet = extracted(model, size, name, **conf).double()
    model.double()
    x, lengths = torch.randn(2, 30, 12, dtype=torch.float64), torch.tensor([30, 21])
    (a, n, _), (b, m, _) = model.encoder(x, lengths), subnet(x, lengths)
    # A copy of a half of a projection may be added up in another order.
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    assert torch.equal(n, m)


@pytest.mark.parametrize("name", TINY_OF)
def test_a_narrow_conv2d_is_espnets_but_for_its_width(name):
    def embed(**conf):
        torch.manual_seed(0)
        encoder = make_encoder(name, input_layer="conv2d", **conf)
        return encoder.embed, encoder.state_dict()

    (narrow, _), (same, state), (stock, before) = (
        embed(**conf)
        for conf in ({"subsampling_channels": 5}, {"subsampling_channels": None}, {})
    )
    assert all(torch.equal(state[key], before[key]) for key in before)
    assert state.keys() == before.keys() and type(narrow) is type(stock) is type(same)
    assert narrow.state_dict().keys() == stock.state_dict().keys()
    assert type(narrow.pos_enc) is type(stock.pos_enc)
    shapes = [tuple(p.shape) for p in narrow.parameters() if p.dim() > 1]
    assert shapes[:3] == [(5, 1, 3, 3), (5, 5, 3, 3), (8, 5 * 2)]  # 12 features: 5, 2


@pytest.mark.parametrize(
    ("conf", "says"),
    [
        (
            {"subsampling_factor": 4},
            "subsampling_factor: 4 belongs to input_layer: dw_striding",
        ),
        ({"input_layer": "conv2d", "subsampling_factor": 8}, "with input_layer: conv2d$"),
        ({"input_layer": "vgg", "subsampling_channels": 8}, "dw_striding or conv2d; leave it"),
        ({"input_layer": None, "subsampling_channels": 8}, "with input_layer: None"),
        (dw_striding(subsampling_factor=6), r"factor: 6 must be one of \[4, 8\]"),
        (dw_striding(subsampling_factor=[4]), r"factor: \[4\] must be one of \[4, 8\]"),
        (dw_striding(subsampling_channels=0), "channels: 0 must be an integer above 0"),
        (dw_striding(subsampling_channels=True), "channels: True must be an integer"),
        ({"upsampling_factor": 3}, r"upsampling_factor: 3 must be one of \[1, 2\]"),
        ({"upsampling_factor": True}, "upsampling_factor: True must be one of"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["des_conformer", "des_transformer"])
def test_keys_that_do_not_belong_are_refused(name, conf, says):
    with pytest.raises(ConfigError, match=f"^encoder_conf: .*{says}"):
        make_encoder(name, **conf)
