"""The authors' subsampling front end, ``input_layer: vgg``.

3x3 convolutions 1-32-64, ReLU, max-pool of 2 in time, 64-64-32, ReLU,
max-pool of 2 in time, and a linear layer to the model's dimension
(Xu et al. 2024, section 4.1; the layout of their public configs).
"""

from typing import Any

import torch


class VGGSubsampling(torch.nn.Module):
    """Reduce the frame rate by four.

    Args:
        idim: number of features.
        odim: dimension of the encoder.
        pos_enc: ESPnet's positional encoding, applied at the end.
    """

    MIN_FRAMES = 4
    convs: Any  # a list of four Conv2d

    def __init__(self, idim: int, odim: int, pos_enc: torch.nn.Module):
        super().__init__()

        def conv(channels_in: int, channels_out: int) -> torch.nn.Conv2d:
            return torch.nn.Conv2d(channels_in, channels_out, 3, padding=1)

        self.convs = torch.nn.ModuleList(
            [conv(1, 32), conv(32, 64), conv(64, 64), conv(64, 32)]
        )
        self.linear = torch.nn.Linear(32 * idim, odim)
        self.pos_enc = pos_enc

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Subsample.

        Args:
            x: features ``(batch, time, idim)``.
            mask: True on real frames, ``(batch, 1, time)``.

        Returns:
            Output ``(batch, time // 4, odim)``, in a tuple with the positional
            embedding where the encoding makes one, and its mask.
        """
        x = x.unsqueeze(1)  # (batch, channels, time, features)
        for first, second in (self.convs[:2], self.convs[2:]):
            # Padding frames are held at zero before each convolution, so that
            # an utterance gives the same output alone and in a batch.
            real = mask.unsqueeze(-1)
            x = first(x.masked_fill(~real, 0.0))
            x = second(x.masked_fill(~real, 0.0)).relu()
            x = torch.nn.functional.max_pool2d(x, (2, 1))
            mask = mask[:, :, 1::2]  # frame j of the output needs frames 2j and 2j+1
        x = x.transpose(1, 2).flatten(2)  # (batch, time // 4, channels * features)
        return self.pos_enc(self.linear(x)), mask
