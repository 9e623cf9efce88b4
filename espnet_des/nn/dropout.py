"""Dropout whose masks cost little on a CPU.

torch draws a double for each value there, which takes longer than many a layer's own
arithmetic: about 7% of a training step of a Conformer. Sixteen random bits are enough.
"""

import torch

STEPS = 1 << 16  # of the probability, whose error is at most half of one


class QuickDropout(torch.nn.Dropout):
    """torch's dropout; on a CPU the probability is a multiple of 1 / 65536.

    What stays is divided by the probability with which it really stays, so that the mean is that
    of the input. Its graph keeps one byte for a value, where torch's keeps four.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Of any shape, to the same."""
        dropped = round(self.p * STEPS)
        is_ours = self.training and input.is_cpu and 0 < dropped < STEPS and not self.inplace
        if not is_ours:
            return super().forward(input)
        kept = _bits(input.shape) >= dropped - STEPS // 2
        return _Drop.apply(input, kept.view(torch.uint8), STEPS / (STEPS - dropped))


class _Drop(torch.autograd.Function):
    """``factor * kept * x``; torch's own product with what is no float is twenty times slower."""

    @staticmethod
    def forward(ctx, x, kept, factor):
        ctx.save_for_backward(kept)
        ctx.factor = factor
        return kept.to(x.dtype).mul_(x).mul_(factor)

    @staticmethod
    def backward(ctx, grad):
        (kept,) = ctx.saved_tensors
        return kept.to(grad.dtype).mul_(grad).mul_(ctx.factor), None, None


def _bits(shape: torch.Size) -> torch.Tensor:
    """Uniform draws of int16; four of them come from one draw of int64."""
    count = shape.numel()
    drawn = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return drawn.view(torch.int16)[:count].view(shape)


def draw_quickly(module: torch.nn.Module) -> None:
    """Put it in the place of every dropout of a module."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(parent, name, QuickDropout(child.p, child.inplace))
