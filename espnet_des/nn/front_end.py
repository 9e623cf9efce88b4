"""The encoder's front end (ESPnet's ``input_layer``), which all sizes share."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    Conv1dSubsampling1,
    Conv1dSubsampling2,
    Conv1dSubsampling3,
    Conv2dSubsampling,
    Conv2dSubsampling1,
    Conv2dSubsampling2,
    Conv2dSubsampling6,
    Conv2dSubsampling8,
    TooShortUttError,
    check_short_utt,
)
from espnet_des.errors import ConfigError
from espnet_des.nn.dw_striding import DWStridingSubsampling
from espnet_des.nn.vgg import VGGSubsampling

# Kinds of input_layer that ESPnet does not have, and their classes.
OWN: dict[str, type[torch.nn.Module]] = {
    "vgg": VGGSubsampling,
    "dw_striding": DWStridingSubsampling,
}
# Keys of encoder_conf that ESPnet does not have, and the kinds of input_layer that have them.
KINDS_WITH = {
    "subsampling_factor": ("dw_striding",),
    "subsampling_channels": ("dw_striding", "conv2d"),
}
# Of which, behind any kind: how many frames of output become of one, see nn/upsampling.py.
UPSAMPLING, UPSAMPLING_FACTORS = "upsampling_factor", (1, 2)
# None: what the kind has by itself, and no upsampling.
OWN_KEYS: dict[str, Any] = dict.fromkeys([*KINDS_WITH, UPSAMPLING])

SUBSAMPLING_2D = (
    Conv2dSubsampling,
    Conv2dSubsampling1,
    Conv2dSubsampling2,
    Conv2dSubsampling6,
    Conv2dSubsampling8,
)
SUBSAMPLING = (
    *SUBSAMPLING_2D,
    Conv1dSubsampling1,
    Conv1dSubsampling2,
    Conv1dSubsampling3,
)
WITH_MASK: tuple[type[torch.nn.Module], ...] = (*SUBSAMPLING, *OWN.values())


class Subsampled(NamedTuple):
    """Output of the front end, shared by all sizes of one step.

    Attributes:
        x: ``(batch, time, dim)``.
        pos_emb: relative positions ``(1, 2 * time - 1, dim)``, or None.
        mask: True on real frames, ``(batch, 1, time)``.
    """

    x: torch.Tensor
    pos_emb: torch.Tensor | None
    mask: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """Frames of each utterance, ``(batch,)``."""
        return self.mask.squeeze(1).sum(1)

    def of_utterances(self, rows: torch.Tensor) -> "Subsampled":
        """The part of some utterances, given by their numbers in the batch."""
        return self._replace(x=self.x[rows], mask=self.mask[rows])


def check_front_end(values: Mapping[str, Any]) -> None:
    """Refuse keys that a front end does not have, and values that it cannot have.

    Args:
        values: of all keys of ``encoder_conf``.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    kind, factors = values["input_layer"], DWStridingSubsampling.FACTORS
    for key, kinds in KINDS_WITH.items():
        value = values[key]
        if value is not None and kind not in kinds:
            raise ConfigError(
                f"encoder_conf: {key}: {value!r} belongs to input_layer: "
                f"{' or '.join(kinds)}; leave it out with input_layer: {kind}"
            )
    for key, allowed, right in (
        ("subsampling_factor", factors, f"one of {list(factors)}"),
        ("subsampling_channels", range(1, sys.maxsize), "an integer above 0"),
        (UPSAMPLING, UPSAMPLING_FACTORS, f"one of {list(UPSAMPLING_FACTORS)}"),
    ):
        value = values[key]
        if value is not None and (type(value) is not int or value not in allowed):
            raise ConfigError(f"encoder_conf: {key}: {value!r} must be {right}")
    factor = values[UPSAMPLING]
    if factor not in (None, 1) and values.get("interctc_use_conditioning"):
        raise ConfigError(
            f"encoder_conf: {UPSAMPLING}: {factor!r} does not go with interctc_use_conditioning: "
            "what an exit says has more frames than the layers; leave one of them out"
        )


def is_own(conf: Mapping[str, Any]) -> bool:
    """Whether ``encoder_conf`` has a front end that ESPnet does not have."""
    given = [key for key in OWN_KEYS if conf.get(key) is not None]
    return conf.get("input_layer") in list(OWN) or bool(given)


def known_to_espnet(input_layer: Any) -> Any:
    """What ESPnet builds in place of a kind that it does not know, see :func:`made`."""
    return "linear" if input_layer in list(OWN) else input_layer


def made(embed: Any, input_size: int, dim: int, conf: Mapping[str, Any]) -> Any:
    """The front end that a config means.

    Args:
        embed: what ESPnet built; the positions are its.
        input_size: number of features.
        dim: of the encoder.
        conf: ``encoder_conf``, or those of its keys that were given.
    """
    kind, channels = conf.get("input_layer"), conf.get("subsampling_channels")
    if kind == "vgg":
        return VGGSubsampling(input_size, dim, embed[-1])
    if kind == "dw_striding":
        factor = conf.get("subsampling_factor") or DWStridingSubsampling.FACTORS[0]
        return DWStridingSubsampling(input_size, dim, embed[-1], factor, channels or 256)
    if channels is None:
        return embed
    # ESPnet's has as many channels as the encoder has dimensions, and leads to as many.
    narrow = Conv2dSubsampling(input_size, channels, 0.0, embed.pos_enc)
    narrow.out = torch.nn.Linear(narrow.out.in_features, dim)
    return narrow


def fewest_frames(embed: Any) -> int:
    """With so many frames of features there is one of output."""
    if isinstance(embed, SUBSAMPLING):
        return check_short_utt(embed, 0)[1]  # what is shorter than that is too short
    return getattr(embed, "MIN_FRAMES", 1)


def subsample(embed: Any, x: torch.Tensor, mask: torch.Tensor) -> Subsampled:
    """Run ESPnet's ``embed``, whichever of its classes it is.

    Args:
        embed: None where the features are the layers' input as they are.
        x: features ``(batch, time, input_size)``.
        mask: True on real frames, ``(batch, 1, time)``.

    Raises:
        TooShortUttError: where too few frames are left for the convolutions.
    """
    frames, limit = x.size(1), fewest_frames(embed)
    if frames < limit:
        raise TooShortUttError(
            f"has {frames} frames and is too short for subsampling (it needs at least {limit}), "
            "return empty results",
            frames,
            limit,
        )
    out: Any = x
    if isinstance(embed, WITH_MASK):
        out, mask = embed(x, mask)
    elif embed is not None:
        out = embed(x)
    x, pos_emb = out if isinstance(out, tuple) else (out, None)
    return Subsampled(x, pos_emb, mask)
