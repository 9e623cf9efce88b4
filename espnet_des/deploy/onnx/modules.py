"""ESPnet's modules in the form in which they are exported to ONNX.

Same parameters and, up to rounding, the same outputs. What is different: time
and batch stay symbolic, and convolutions of channels with channels are matrix
products, which ONNX Runtime computes in int8.
"""

import math
from typing import Any

import torch
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule
from espnet2.legacy.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    LegacyRelPositionalEncoding,
    PositionalEncoding,
    RelPositionalEncoding,
    ScaledPositionalEncoding,
)
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import Conv2dSubsampling
from espnet_des.errors import ConfigError
from espnet_des.nn.vgg import VGGSubsampling
from espnet_des.nn.waveforms import mirror_ends


def mask_of(lengths: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """True on real frames: ``(batch,)`` and ``(batch, time, ...)`` to ``(batch, time)``."""
    return torch.arange(x.size(1), device=x.device) < lengths[:, None]


class Positions(torch.nn.Module):
    """ESPnet's sinusoidal positions, computed for the length at hand.

    ESPnet cuts them from a table with a slice whose bounds a trace takes for
    constants: that export is wrong at every other length.
    """

    frequencies: torch.Tensor
    alpha: Any  # of the scaled kind alone

    def __init__(self, encoding: PositionalEncoding | RelPositionalEncoding):
        super().__init__()
        self.kind = type(encoding)
        if self.kind not in (PositionalEncoding, ScaledPositionalEncoding,
                             RelPositionalEncoding, LegacyRelPositionalEncoding):  # fmt: skip
            raise ConfigError(
                "encoder_conf: pos_enc_layer_type: only rel_pos, abs_pos and scaled_abs_pos "
                f"can be exported, not {self.kind.__name__}"
            )
        self.xscale, dim = encoding.xscale, encoding.d_model
        # The old relative encoding counts down from the end of its table.
        self.table_length = encoding.pe.size(1)
        self.alpha = getattr(encoding, "alpha", None)
        steps = torch.arange(0, dim, 2, dtype=torch.float32)
        self.register_buffer("frequencies", torch.exp(steps * -(math.log(10000.0) / dim)))

    def forward(self, x: torch.Tensor):
        frames = x.size(1)
        if self.kind is RelPositionalEncoding:
            return x * self.xscale, self._sinusoids(
                frames - 1 - torch.arange(2 * frames - 1, device=x.device)
            )
        count = torch.arange(frames, device=x.device)
        if self.kind is LegacyRelPositionalEncoding:
            return x * self.xscale, self._sinusoids(self.table_length - 1 - count)
        if self.kind is ScaledPositionalEncoding:
            return x + self.alpha * self._sinusoids(count)
        return x * self.xscale + self._sinusoids(count)

    def _sinusoids(self, positions: torch.Tensor) -> torch.Tensor:
        angles = positions.to(torch.float32)[:, None] * self.frequencies
        return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)[None]


class PatchConv2d(torch.nn.Module):
    """A 2-d convolution as one matrix product of patches, channels last.

    With stride 1 and few channels, gathering single values would cost more than
    the product. There two neighbouring features are computed together, from
    patches of whole pairs; a quarter of the weights is then zero.

    Args:
        conv: over ``(batch, channels, time, features)``, here
            ``(batch, time, features, channels)``.
    """

    def __init__(self, conv: torch.nn.Conv2d):
        super().__init__()
        assert not isinstance(conv.padding, str) and conv.bias is not None  # ESPnet's have
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
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
        times = (x.size(1) - k) // s + 1
        groups, blocks = (features + odd) // n, (k + n - 1) // n
        rows = (s * torch.arange(times))[:, None, None, None] + torch.arange(k)[:, None]
        columns = (s * torch.arange(groups))[:, None, None] + torch.arange(blocks)
        index = (rows * x.size(2) + columns).flatten()
        patches = x.flatten(1, 2).index_select(1, index)
        y = self.linear(patches.reshape(-1, self.linear.in_features))
        y = y.view(x.size(0), times, features + odd, self.channels)
        return y[:, :, :features] if odd else y


class ConvSubsampling(torch.nn.Module):
    """ESPnet's ``conv2d``, ``conv2d1``, 2, 6 and 8."""

    convs: Any  # a list of PatchConv2d

    def __init__(self, embed: Conv2dSubsampling):
        super().__init__()
        self.convs = torch.nn.ModuleList(
            PatchConv2d(m) for m in embed.conv if isinstance(m, torch.nn.Conv2d)
        )
        self.out = _channels_last(embed.out, self.convs[-1].channels)
        self.pos_enc = Positions(embed.pos_enc)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """``(batch, time, features)`` to what the layers take, and new lengths."""
        x = x.unsqueeze(-1)
        for conv in self.convs:
            x = conv(x).relu()
            lengths = torch.div(lengths - conv.kernel, conv.stride, rounding_mode="floor") + 1
        return self.pos_enc(self.out(x.flatten(2))), lengths.clamp(min=0)


class VGG(torch.nn.Module):
    """The authors' front end, ``input_layer: vgg``."""

    convs: Any  # a list of PatchConv2d

    def __init__(self, embed: VGGSubsampling):
        super().__init__()
        self.convs = torch.nn.ModuleList(PatchConv2d(conv) for conv in embed.convs)
        self.out = _channels_last(embed.linear, self.convs[-1].channels)
        self.pos_enc = Positions(embed.pos_enc)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """``(batch, time, features)`` to what the layers take, and new lengths."""
        x = x.unsqueeze(-1)
        for first, second in (self.convs[:2], self.convs[2:]):
            # Multiplied: over these large tensors cheaper than a selection.
            real = mask_of(lengths, x)[:, :, None, None].to(x.dtype)
            x = second(first(x * real) * real)
            pairs = 2 * torch.arange(x.size(1) // 2)
            x = torch.maximum(x.index_select(1, pairs), x.index_select(1, pairs + 1)).relu()
            lengths = lengths // 2
        return self.pos_enc(self.out(x.flatten(2))), lengths


class LinearInput(torch.nn.Module):
    """``input_layer: linear`` and none: no subsampling."""

    def __init__(self, embed: torch.nn.Sequential):
        super().__init__()
        self.layers, self.pos_enc = embed[:-1], Positions(embed[-1])

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        return self.pos_enc(self.layers(x)), lengths


def _channels_last(linear: torch.nn.Linear, channels: int) -> torch.nn.Linear:
    """A linear layer over channels x features, for features x channels."""
    out = torch.nn.Linear(linear.in_features, linear.out_features)
    weight = linear.weight.detach().view(linear.out_features, channels, -1)
    weight = weight.transpose(1, 2).flatten(1)
    out.load_state_dict({"weight": weight, "bias": linear.bias.detach()})
    return out


class ChannelsLastConvolution(torch.nn.Module):
    """A Conformer's convolution module; its pointwise convolutions are linear layers."""

    def __init__(self, module: ConvolutionModule):
        super().__init__()
        self.first, self.second = (
            _as_linear(conv) for conv in (module.pointwise_conv1, module.pointwise_conv2)
        )
        self.depthwise = module.depthwise_conv
        self.norm: torch.nn.Module = torch.nn.Identity()
        if isinstance(module.norm, torch.nn.BatchNorm1d):
            self.depthwise = fuse_conv_bn_eval(self.depthwise, module.norm)
        else:
            self.norm = torch.nn.LayerNorm(module.norm.normalized_shape, module.norm.eps)
            self.norm.load_state_dict(module.norm.state_dict())
        self.activation = module.activation

    def forward(self, x: torch.Tensor, mask_pad: torch.Tensor) -> torch.Tensor:
        """``(batch, time, dim)`` and ``(batch, 1, time)``, as ESPnet's."""
        x = torch.nn.functional.glu(self.first(x), dim=-1)
        x = x.masked_fill(~mask_pad.transpose(1, 2), 0.0)
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.second(self.activation(self.norm(x)))


def exportable(block: Any) -> None:
    """Give the modules of a block the form in which they are exported."""
    for name, module in list(block.named_children()):
        if isinstance(module, ConvolutionModule):
            setattr(block, name, ChannelsLastConvolution(module))
        elif isinstance(module, MultiHeadedAttention):
            module.use_flash_attn = module.use_sdpa = False


def _as_linear(conv: torch.nn.Conv1d) -> torch.nn.Linear:
    linear = torch.nn.Linear(conv.in_channels, conv.out_channels, conv.bias is not None)
    state = {k: v[..., 0] if k == "weight" else v for k, v in conv.state_dict().items()}
    linear.load_state_dict(state)
    return linear


class LogMel(torch.nn.Module):
    """ESPnet's default frontend: waveform to log-mel features.

    The Fourier transform is a convolution with its windowed basis. Each utterance of a batch
    gives what it gives alone: it is mirrored at its own end, not at that of the batch.
    """

    basis: torch.Tensor

    def __init__(self, frontend: DefaultFrontend):
        super().__init__()
        stft = getattr(frontend, "stft", None)
        enhancer = getattr(frontend, "frontend", None)
        has_beamformer = enhancer is not None and (enhancer.use_wpe or enhancer.use_beamformer)
        if type(frontend) is not DefaultFrontend or stft is None or has_beamformer:
            raise ConfigError(
                f"frontend: {type(frontend).__name__}: only frontend: default without "
                "beamforming is exported; export from features (--source features)"
            )
        self.logmel, self.hop = frontend.logmel, stft.hop_length
        width, self.n_fft = stft.win_length, stft.n_fft
        self.padding = stft.n_fft // 2 if stft.center else 0
        # The window stands in the middle of the frame; beside it are zeros.
        self.offset = (stft.n_fft - width) // 2
        window = torch.ones(width, dtype=torch.float64)
        if stft.window is not None:
            window = getattr(torch, f"{stft.window}_window")(width, dtype=torch.float64)
        if stft.normalized:
            window = window / math.sqrt(stft.n_fft)
        bins = torch.arange(stft.n_fft // 2 + 1, dtype=torch.float64)
        times = torch.arange(width, dtype=torch.float64) + self.offset
        angles = 2 * math.pi / stft.n_fft * torch.outer(bins, times)
        basis = torch.cat((angles.cos(), -angles.sin())) * window
        self.register_buffer("basis", basis[:, None].float())

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple:
        """``(batch, samples)`` to ``(batch, frames, mels)``, and its lengths."""
        x = mirror_ends(x, lengths, self.padding)[:, None]
        lengths = lengths + 2 * self.padding
        lengths = torch.div(lengths - self.n_fft, self.hop, rounding_mode="floor") + 1
        right = self.n_fft - self.offset - self.basis.size(-1)
        x = x[:, :, self.offset : x.size(2) - right]
        spectrum = torch.nn.functional.conv1d(x, self.basis, stride=self.hop)
        real, imaginary = spectrum.square().chunk(2, dim=1)
        mels = torch.matmul((real + imaginary).transpose(1, 2), self.logmel.melmat)
        mels = mels.clamp(min=1e-10).log()
        return mels.masked_fill(~mask_of(lengths, mels)[:, :, None], 0.0), lengths
