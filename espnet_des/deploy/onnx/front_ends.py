"""Front ends of the encoders in the form in which they are exported to ONNX.

Same parameters and, up to rounding, the same outputs. Time and batch stay symbolic, and
channels are last: ``(batch, time, features, channels)``. In float a convolution stays what it
is, for which ONNX Runtime has fast kernels. In int8 it has none as fast as its matrix
products: there a convolution of channels with channels is one, of patches.
"""

from typing import Any

import torch
from torch.nn.functional import max_pool2d, pad

from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import Conv2dSubsampling
from espnet_des.deploy.onnx.modules import Positions, mask_of
from espnet_des.errors import ConfigError
from espnet_des.nn.dw_striding import DWStridingSubsampling
from espnet_des.nn.front_end import SUBSAMPLING_2D
from espnet_des.nn.vgg import VGGSubsampling


def front_end(embed: torch.nn.Module, int8: bool) -> torch.nn.Module:
    """The front end in the form in which it is exported.

    Args:
        embed: of an encoder.
        int8: whether matrix products will be quantised.

    Raises:
        ConfigError: where it has none.
    """
    if isinstance(embed, VGGSubsampling):
        return VGG(embed, int8)
    if isinstance(embed, DWStridingSubsampling):
        return DWStriding(embed, int8)
    if isinstance(embed, SUBSAMPLING_2D):
        return ConvSubsampling(embed, int8)
    if isinstance(embed, torch.nn.Sequential):
        return LinearInput(embed)
    raise ConfigError(
        f"encoder_conf: input_layer: {type(embed).__name__} cannot be exported; train with "
        "vgg, dw_striding, linear, or one of conv2d, conv2d1, conv2d2, conv2d6 and conv2d8"
    )


class Convolution(torch.nn.Module):
    """A 2-d convolution as it is; transpositions between two of them fall away.

    Args:
        conv: over ``(batch, channels, time, features)``, here channels last.
        relu: whether a ReLU follows.
        pool: frames at a time of which the largest value is taken.
    """

    def __init__(self, conv: torch.nn.Conv2d, relu: bool = True, pool: int = 1):
        super().__init__()
        self.conv, self.relu, self.pool = conv, relu, pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x.permute(0, 3, 1, 2))
        # ReLU right behind the convolution becomes a part of it.
        y = y.relu() if self.relu else y
        y = max_pool2d(y, (self.pool, 1)) if self.pool > 1 else y
        return y.permute(0, 2, 3, 1)


class PatchConv2d(torch.nn.Module):
    """A 2-d convolution as one matrix product of patches.

    With stride 1 and few channels, gathering single values would cost more than
    the product. There two neighbouring features are computed together, from
    patches of whole pairs; a quarter of the weights is then zero.

    Args:
        conv, relu, pool: see :class:`Convolution`.
    """

    def __init__(self, conv: torch.nn.Conv2d, relu: bool = True, pool: int = 1):
        super().__init__()
        assert not isinstance(conv.padding, str) and conv.bias is not None  # ESPnet's have
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        self.relu, self.pool = relu, pool
        self.padding = conv.padding[0]
        self.together = 2 if (self.kernel, self.stride, self.padding) == (3, 1, 1) else 1
        width = self.kernel + self.together - 1
        channels_out, channels_in = conv.weight.shape[:2]
        kernel = conv.weight.detach().permute(0, 2, 3, 1)  # (out, rows, columns, in)
        weight = torch.zeros(self.together, channels_out, self.kernel, width, channels_in)
        for i in range(self.together):
            weight[i, :, :, i : i + self.kernel] = kernel
        weight = weight.view(self.together * channels_out, -1)
        self.linear = torch.nn.Linear(weight.size(1), weight.size(0))
        bias = conv.bias.detach().repeat(self.together)
        self.linear.load_state_dict({"weight": weight, "bias": bias})
        self.channels = channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p, k, s, n = self.padding, self.kernel, self.stride, self.together
        features = (x.size(2) + 2 * p - k) // s + 1
        odd = features % n  # one more, cut off again below
        x = pad(x, (0, 0, p, p + odd, p, p)) if p else x
        x = x.view(x.size(0), x.size(1), -1, n * x.size(3))  # blocks of n features
        times = ((x.size(1) - k) // s + 1) // self.pool
        groups, blocks = (features + odd) // n, (k + n - 1) // n
        # The places of a patch, the same at all times, are added up before these are.
        rows = torch.arange(k)[:, None] * x.size(2)
        columns = (s * torch.arange(groups))[:, None, None] + torch.arange(blocks)
        begins = s * x.size(2) * torch.arange(self.pool * times)
        index = begins[:, None] + (rows + columns).flatten()
        patches = x.flatten(1, 2).index_select(1, index.flatten())
        y = self.linear(patches.reshape(-1, self.linear.in_features))
        if self.pool > 1:
            y = y.view(x.size(0), times, self.pool, features + odd, self.channels).amax(2)
        y = y.view(x.size(0), times, features + odd, self.channels)
        y = y[:, :, :features] if odd else y
        return y.relu() if self.relu else y


class Pointwise(torch.nn.Module):
    """A 1x1 convolution and ReLU as a matrix product."""

    def __init__(self, conv: torch.nn.Conv2d):
        super().__init__()
        self.linear = torch.nn.Linear(conv.in_channels, conv.out_channels)
        state = {k: v.flatten(1) if k == "weight" else v for k, v in conv.state_dict().items()}
        self.linear.load_state_dict(state)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu()


def exported(
    conv: torch.nn.Conv2d, int8: bool, relu: bool = True, pool: int = 1
) -> torch.nn.Module:
    """A convolution in its fastest form, see :class:`Convolution`."""
    # Products with so few inputs as that of one channel would stay in float.
    if not int8 or conv.in_channels == 1 or conv.groups > 1:
        return Convolution(conv, relu, pool)
    return Pointwise(conv) if conv.kernel_size == (1, 1) else PatchConv2d(conv, relu, pool)


def channels_last(linear: torch.nn.Linear, channels: int) -> torch.nn.Linear:
    """A linear layer over channels x features, for features x channels."""
    out = torch.nn.Linear(linear.in_features, linear.out_features)
    weight = linear.weight.detach().view(linear.out_features, channels, -1)
    weight = weight.transpose(1, 2).flatten(1)
    out.load_state_dict({"weight": weight, "bias": linear.bias.detach()})
    return out


class ConvSubsampling(torch.nn.Module):
    """ESPnet's ``conv2d``, ``conv2d1``, 2, 6 and 8."""

    convs: Any  # a list of convolutions

    def __init__(self, embed: Conv2dSubsampling, int8: bool):
        super().__init__()
        convs = [m for m in embed.conv if isinstance(m, torch.nn.Conv2d)]
        self.strides = [(conv.kernel_size[0], conv.stride[0]) for conv in convs]
        self.convs = torch.nn.ModuleList(exported(conv, int8) for conv in convs)
        self.out = channels_last(embed.out, convs[-1].out_channels)
        self.pos_enc = Positions(embed.pos_enc)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """``(batch, time, features)`` to what the layers take, and new lengths."""
        x = x.unsqueeze(-1)
        for conv, (kernel, stride) in zip(self.convs, self.strides):
            x = conv(x)
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return self.pos_enc(self.out(x.flatten(2))), lengths.clamp(min=0)


class VGG(torch.nn.Module):
    """The authors' front end, ``input_layer: vgg``."""

    convs: Any  # a list of convolutions

    def __init__(self, embed: VGGSubsampling, int8: bool):
        super().__init__()
        self.convs = torch.nn.ModuleList()
        for first, second in (embed.convs[:2], embed.convs[2:]):
            self.convs.append(exported(first, int8, relu=False))
            self.convs.append(exported(second, int8, pool=2))
        self.out = channels_last(embed.linear, embed.convs[-1].out_channels)
        self.pos_enc = Positions(embed.pos_enc)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """``(batch, time, features)`` to what the layers take, and new lengths."""
        x = x.unsqueeze(-1)
        for first, second in (self.convs[:2], self.convs[2:]):
            # Multiplied: over these large tensors cheaper than a selection.
            real = mask_of(lengths, x)[:, :, None, None].to(x.dtype)
            x = second(first(x * real) * real)
            lengths = lengths // 2
        return self.pos_enc(self.out(x.flatten(2))), lengths


class DWStriding(torch.nn.Module):
    """FastConformer's front end, ``input_layer: dw_striding``."""

    separable: Any  # a list of pairs of convolutions

    def __init__(self, embed: DWStridingSubsampling, int8: bool):
        super().__init__()
        self.factor, self.reach = embed.factor, embed.reach
        self.first = exported(embed.first, int8)
        self.separable = torch.nn.ModuleList(
            torch.nn.Sequential(
                exported(depthwise, int8, relu=False), exported(pointwise, int8)
            )
            for depthwise, pointwise in embed.separable
        )
        self.out = channels_last(embed.linear, embed.first.out_channels)
        self.pos_enc = Positions(embed.pos_enc)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """``(batch, time, features)`` to what the layers take, and new lengths."""
        x = x * mask_of(lengths, x)[:, :, None].to(x.dtype)
        x = pad(x, (0, 0, self.reach, self.reach)).unsqueeze(-1)
        x = self.first(x)
        for convs in self.separable:
            x = convs(x)
        lengths = torch.div(lengths + self.reach, self.factor, rounding_mode="floor")
        return self.pos_enc(self.out(x.flatten(2))), lengths


class LinearInput(torch.nn.Module):
    """``input_layer: linear`` and none: no subsampling."""

    def __init__(self, embed: torch.nn.Sequential):
        super().__init__()
        self.layers, self.pos_enc = embed[:-1], Positions(embed[-1])

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        return self.pos_enc(self.layers(x)), lengths
