"""FastConformer's subsampling front end, ``input_layer: dw_striding``.

A 3x3 convolution with stride 2 to all channels, ReLU, and for each further factor of two a
depthwise 3x3 convolution with stride 2, a pointwise one and ReLU; then a linear layer to the
model's dimension (Rekesh et al. 2023, arXiv 2305.05084; ``dw_striding`` in NeMo,
whose encoder has a factor of 8 and 256 channels).
"""

from typing import Any

import torch


class DWStridingSubsampling(torch.nn.Module):
    """Reduce the frame rate by four or eight.

    [DEVIATION] from NeMo, which pads before each convolution: all of the padding in time is
    zeros around the features. Number and places of the frames are the same. What follows an
    utterance is masked once, where it is small, and its result does not depend on its batch.

    Args:
        idim: number of features.
        odim: dimension of the encoder.
        pos_enc: ESPnet's positional encoding, applied at the end.
        factor: 4 or 8.
        channels: of the convolutions.
    """

    FACTORS = (4, 8)
    MIN_FRAMES = 1
    separable: Any  # a list of pairs of Conv2d: depthwise, pointwise

    def __init__(
        self,
        idim: int,
        odim: int,
        pos_enc: torch.nn.Module,
        factor: int = 4,
        channels: int = 256,
    ):
        super().__init__()
        strided: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": (0, 1)}
        further = self.FACTORS.index(factor) + 1
        self.factor = factor
        self.first = torch.nn.Conv2d(1, channels, **strided)
        self.separable = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Conv2d(channels, channels, groups=channels, **strided),
                torch.nn.Conv2d(channels, channels, 1),
            )
            for _ in range(further)
        )
        # Of the features every second is left, rounded up, each time.
        self.linear = torch.nn.Linear(channels * -(-idim // factor), odim)
        self.pos_enc = pos_enc
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation: every convolution passes on the variance that it reads.

        [DEVIATION] from NeMo, which leaves PyTorch's. That one shrinks it and adds a bias: after
        the five convolutions of a factor of 8 what depends on the audio is 2% of the power of
        the output, and an encoder takes a good part of a short training to find it.
        """
        for conv in (self.first, *self.separable.modules()):
            if isinstance(conv, torch.nn.Conv2d):
                # By what follows it: the depthwise ones have a pointwise one behind them.
                followed_by: Any = "relu" if conv.groups == 1 else "linear"
                torch.nn.init.kaiming_normal_(conv.weight, nonlinearity=followed_by)
                torch.nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    @property
    def reach(self) -> int:
        """Frames before and after its own place that a frame of the output is made of."""
        return self.factor - 1

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Subsample.

        Args:
            x: features ``(batch, time, idim)``.
            mask: True on real frames, ``(batch, 1, time)``.

        Returns:
            Output ``(batch, time / factor, odim)``, rounded up, in a tuple with the
            positional embedding where the encoding makes one, and its mask.
        """
        x = x.masked_fill(~mask.transpose(1, 2), 0.0)
        x = torch.nn.functional.pad(x, (0, 0, self.reach, self.reach))
        x = self.first(x.unsqueeze(1)).relu()  # (batch, channels, time, features)
        for convs in self.separable:
            x = convs(x).relu()
        x = x.transpose(1, 2).flatten(2)  # (batch, time / factor, channels * features)
        # Frame j of the output stands in the middle of its input, at frame factor * j.
        return self.pos_enc(self.linear(x)), mask[:, :, :: self.factor]
