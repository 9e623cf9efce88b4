"""From waveforms to the first layer's input, as in ESPnet's ``encode``."""

from typing import Tuple

import torch

from espnet2.asr.espnet_model import autocast_type
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet_des.layered import Subsampled
from espnet_des.waveforms import mirrored_samples


def extract_features(
    model: torch.nn.Module, speech: torch.Tensor, lengths: torch.Tensor
) -> Subsampled:
    """Front end, augmentation, normalisation and subsampling, once for all sizes.

    Args:
        model: whose modules they are.
        speech: ``(batch, samples, ...)``.
        lengths: in samples, ``(batch,)``.
    """
    speech, lengths = as_long_as_the_stft_needs(model, speech, lengths)
    with torch.amp.autocast("cuda", enabled=model.autocast_frontend, dtype=autocast_type):
        feats, lengths = model._extract_feats(speech, lengths)
        if model.specaug is not None and model.training:
            # ESPnet's time warp reads the lengths one by one.
            feats, lengths = model.specaug(feats, lengths.cpu())
            lengths = lengths.to(feats.device, non_blocking=True)
        if model.normalize is not None:
            feats, lengths = model.normalize(feats, lengths)
    if model.preencoder is not None:
        feats, lengths = model.preencoder(feats, lengths)
    try:
        return model.encoder.subsample(feats, lengths)
    except TooShortUttError as error:
        # All of them: padded as beside a longer one, they teach nothing, and do no harm.
        lacking = error.limit + 1 - feats.size(1)
        feats = torch.nn.functional.pad(feats, [0, 0, 0, lacking])
        return model.encoder.subsample(feats, lengths)


def as_long_as_the_stft_needs(
    model: torch.nn.Module, speech: torch.Tensor, lengths: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor]:
    """A batch with silence behind it where all of its utterances are too short.

    Beside a longer one they are no obstacle, being padded up to it.

    Args:
        speech: ``(batch, samples, ...)``.
        lengths: ``(batch,)``.
    """
    lacking = mirrored_samples(model) + 1 - speech.size(1)
    if lacking <= 0:
        return speech, lengths
    after = [0, 0] * (speech.dim() - 2) + [0, lacking]
    speech = torch.nn.functional.pad(speech, after)
    return speech, lengths.clamp(min=speech.size(1))
