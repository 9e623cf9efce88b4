"""ESPnet's modules in the form in which they are exported to ONNX.

Same parameters and, up to rounding, the same outputs. What is different: time
and batch stay symbolic, and pointwise convolutions are matrix products, which ONNX
Runtime computes in int8. Front ends are in ``front_ends.py``.
"""

import math
from typing import Any

import torch
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
from espnet_des.errors import ConfigError
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
