"""Which waveforms a model takes: their rate, how short they may be, and which together."""

import argparse

import humanfriendly
import torch

from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    ConvolutionalPositionalEmbedding,
    LegacyRelPositionalEncoding,
)
from espnet_des.errors import ConfigError
from espnet_des.nn.front_end import fewest_frames


def sampling_rate(train_args: argparse.Namespace) -> int:
    """Samples per second that a model takes, as ESPnet's front ends read it.

    Raises:
        ConfigError: where it takes features instead.
    """
    if train_args.input_size is not None:
        raise ConfigError(
            f"input_size: {train_args.input_size!r} means that the model takes features; "
            "only models that take waveforms (input_size: null) can decode audio"
        )
    rate = (train_args.frontend_conf or {}).get("fs", 16000)
    return humanfriendly.parse_size(rate) if isinstance(rate, str) else int(rate)


def mirrored_samples(model: torch.nn.Module) -> int:
    """Samples that ESPnet's STFT mirrors at the ends; audio must have more."""
    stft = _stft(model)
    return stft.n_fft // 2 if stft is not None and stft.center else 0


def _stft(model):
    """That of ESPnet's default front end; None of another."""
    frontend = getattr(model, "frontend", None)
    return frontend.stft if isinstance(frontend, DefaultFrontend) else None


def shortest_input(model, source: str = "waveform") -> int:
    """The fewest samples with which there is a frame of output; 0 where that is not known.

    Args:
        model: it is known of ESPnet's default front end.
        source: ``features``: the fewest frames of features.
    """
    frames = fewest_frames(model.encoder.embed)
    if source == "features":
        return frames
    stft = _stft(model)
    if stft is None:
        return 0
    if stft.center:
        return max((frames - 1) * stft.hop_length, mirrored_samples(model) + 1)
    return stft.n_fft + (frames - 1) * stft.hop_length


def mirror_ends(waves: torch.Tensor, lengths: torch.Tensor, border: int) -> torch.Tensor:
    """Each utterance between its mirror images, as an STFT sees it that has it alone.

    ESPnet's STFT mirrors a batch as a whole: what follows a shorter utterance there is padding.

    Args:
        waves: ``(batch, samples)``, or ``(batch, samples, channels)``.
        lengths: numbers of samples ``(batch,)``, each above ``border``.
        border: samples that are mirrored at each end.

    Returns:
        ``(batch, border + samples + border, ...)``; what is after the second mirror image of an
        utterance is of no account.
    """
    last = lengths[:, None] - 1
    places = (torch.arange(waves.size(1) + 2 * border, device=waves.device) - border).abs()
    places = (last - (last - places).abs()).clamp(min=0)
    for _ in range(waves.dim() - 2):
        places = places[..., None]
    return waves.gather(1, places.expand(-1, -1, *waves.shape[2:]))


def can_have_speech(model: torch.nn.Module, wave: torch.Tensor) -> bool:
    """False for a wave that is empty, all zero, or too short for the STFT."""
    return len(wave) > mirrored_samples(model) and bool(wave.any())


def sees_padding(model: torch.nn.Module) -> bool:
    """True where an utterance's positions depend on how much padding follows it."""
    kinds = (ConvolutionalPositionalEmbedding, LegacyRelPositionalEncoding)
    return any(isinstance(module, kinds) for module in model.modules())
