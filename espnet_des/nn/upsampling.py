"""Several frames of output for each frame that the layers run on."""

import torch


class Upsampling(torch.nn.Module):
    """A linear map of its own for each frame of output, all of one frame of the layers.

    The layers of an encoder behind a front end that leaves few frames cost as little as before;
    CTC, which needs a frame for each token, has enough of them.

    Args:
        dim: of the encoder.
        factor: how many frames become of one.
    """

    def __init__(self, dim: int, factor: int):
        super().__init__()
        self.factor = factor
        self.linear = torch.nn.Linear(dim, factor * dim)
        with torch.no_grad():
            for part in self.linear.weight.split(dim):  # each passes on what it reads
                torch.nn.init.orthogonal_(part)
            self.linear.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, time, dim)`` to ``(batch, factor * time, dim)``."""
        return self.linear(x).unflatten(2, (self.factor, -1)).flatten(1, 2)
