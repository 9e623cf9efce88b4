"""Attention and cgMLP side by side: what Branchformer and E-Branchformer have in common.

ESPnet merges both by one projection of their concatenation. A projection of two halves is
the sum of two projections, so each branch is a residual layer of its own: its module, and
its half of what merges. Where both run as they are, ESPnet's one projection is computed;
where one is left out, the other's half alone. The bias of the projection belongs to both:
it stays as long as one of them does.
"""

from typing import Any, ClassVar

import torch

from espnet_des.nn.blocks.base import BlockType

SIDES = ("mhsa", "cgmlp")


class TwoBranches(BlockType):
    """Base of the two.

    Attributes:
        merging: what a block calls the modules that merge, which have a half for each branch.
    """

    parts = {"mhsa": ("norm_mha", "attn"), "cgmlp": ("norm_mlp", "cgmlp")}
    merging: ClassVar[tuple[str, ...]] = ("merge_proj",)

    def branch(self, block, kind, x, pos_emb, mask, with_bias=True):
        if kind not in SIDES:
            return super().branch(block, kind, x, pos_emb, mask)
        h = self.side(block, kind, x, pos_emb, mask)
        half = self.half(block, kind)
        h = self.fuse(block, h, mask, half)
        return block.dropout(project(block.merge_proj, h, half, with_bias))

    def side(self, block: Any, kind: str, x, pos_emb, mask) -> torch.Tensor:
        """Output of one branch before it is merged, ``(batch, time, dim)``."""
        if kind == "mhsa":
            return super().branch(block, kind, x, pos_emb, mask)
        return block.dropout(block.cgmlp(block.norm_mlp(x), mask))

    def fuse(self, block: Any, h: torch.Tensor, mask: torch.Tensor, half: slice | None):
        """What comes between the branches and the projection.

        Args:
            h: both, ``(batch, time, 2 * dim)``, or one, ``(batch, time, dim)``.
            half: of which channels of the block's modules; None for all.
        """
        return h

    def together(self, block, x, pos_emb, mask):
        h = torch.cat([self.side(block, kind, x, pos_emb, mask) for kind in SIDES], dim=-1)
        return block.dropout(block.merge_proj(self.fuse(block, h, mask, None)))

    def shared_bias(self, block):
        return block.merge_proj.bias

    def half(self, block: Any, kind: str) -> slice | None:
        """Channels of a branch in what merges both; None where it has them all."""
        if not all(self.has(block, k) for k in SIDES):
            return None
        start = SIDES.index(kind) * block.size
        return slice(start, start + block.size)

    def count_parameters(self, block, kind):
        count = super().count_parameters(block, kind)
        if kind not in SIDES:
            return count
        for merged in (getattr(block, name) for name in self.merging):
            if self.half(block, kind) is None:  # nothing of it stays
                count += sum(p.numel() for p in merged.parameters())
            else:
                halved = [merged.weight]
                if not isinstance(merged, torch.nn.Linear):  # whose bias belongs to both
                    halved += [] if merged.bias is None else [merged.bias]
                count += sum(p.numel() for p in halved) // 2
        return count

    def remove(self, block, kind):
        if kind in SIDES:
            of_other = self.half(block, SIDES[1 - SIDES.index(kind)])
            for name in self.merging:
                module = getattr(block, name)
                setattr(block, name, of_other and half_of(module, of_other))
        super().remove(block, kind)


def project(
    projection: torch.nn.Module, h: torch.Tensor, half: slice | None, with_bias: bool
) -> torch.Tensor:
    """One branch, ``(batch, time, dim)``, through its half of the projection of both."""
    if half is None:
        return projection(h)
    if not isinstance(projection, torch.nn.Linear):  # quantised: its weights are packed
        both = torch.zeros(*h.shape[:-1], 2 * h.size(-1), dtype=h.dtype, device=h.device)
        both[..., half] = h
        return projection(both)
    bias = projection.bias if with_bias else None
    return torch.nn.functional.linear(h, projection.weight[:, half], bias)


def half_of(module: Any, half: slice) -> torch.nn.Module:
    """A projection of, or a depth-wise convolution over, some of the input channels.

    Args:
        module: ``Linear``, or ``Conv1d`` with as many groups as channels.
        half: the channels that stay.
    """
    size = half.stop - half.start
    like = {"device": module.weight.device, "dtype": module.weight.dtype}
    if isinstance(module, torch.nn.Linear):
        new: Any = torch.nn.Linear(size, module.out_features, module.bias is not None, **like)
        weights = module.weight[:, half], module.bias
    else:
        new = torch.nn.Conv1d(
            size, size, module.kernel_size, padding=module.padding, groups=size, **like
        )
        weights = module.weight[half], module.bias[half]
    with torch.no_grad():
        for own, found in zip((new.weight, new.bias), weights):
            if own is not None:
                own.copy_(found)
    return new
