"""The encoder's front end (ESPnet's ``input_layer``), which all sizes share."""

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
from espnet_des.nn.vgg import VGGSubsampling

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

    def of_utterances(self, rows: torch.Tensor) -> "Subsampled":
        """The part of some utterances, given by their numbers in the batch."""
        return self._replace(x=self.x[rows], mask=self.mask[rows])


def subsample(embed: Any, x: torch.Tensor, mask: torch.Tensor) -> Subsampled:
    """Run ESPnet's ``embed``, whichever of its classes it is.

    Args:
        embed: None where the features are the layers' input as they are.
        x: features ``(batch, time, input_size)``.
        mask: True on real frames, ``(batch, 1, time)``.

    Raises:
        TooShortUttError: where too few frames are left for the convolutions.
    """
    if isinstance(embed, SUBSAMPLING):
        too_short, limit = check_short_utt(embed, x.size(1))
        if too_short:
            raise TooShortUttError(
                f"has {x.size(1)} frames and is too short for subsampling (it "
                f"needs more than {limit} frames), return empty results",
                x.size(1),
                limit,
            )
    out: Any = x
    if isinstance(embed, (*SUBSAMPLING, VGGSubsampling)):
        out, mask = embed(x, mask)
    elif embed is not None:
        out = embed(x)
    x, pos_emb = out if isinstance(out, tuple) else (out, None)
    return Subsampled(x, pos_emb, mask)
