"""What the passes of an update are compared with, fetched from the device at once.

Every value that Python reads from an accelerator makes it wait until all that was asked
for before is done; so one transfer serves all passes.
"""

from typing import List, NamedTuple

import torch


class Targets(NamedTuple):
    """What every pass of an update is compared with.

    Attributes:
        text: token ids ``(batch, length)``.
        text_lengths: ``(batch,)``.
        frames: lengths of the encoder's output ``(batch,)``.
        text_lengths_cpu, frames_cpu: the same on the CPU.
    """

    text: torch.Tensor
    text_lengths: torch.Tensor
    frames: torch.Tensor
    text_lengths_cpu: torch.Tensor
    frames_cpu: torch.Tensor


def to_cpu(*tensors: torch.Tensor) -> List[torch.Tensor]:
    """The same values on the CPU, in one transfer: each waits for the device.

    Args:
        tensors: of any shapes, and dtypes that float64 can hold; the first one is
            on the device.
    """
    device = tensors[0].device
    flat = [t.detach().to(device, non_blocking=True).flatten().double() for t in tensors]
    flat = torch.cat(flat).cpu()
    parts = flat.split([t.numel() for t in tensors])
    return [part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors)]
