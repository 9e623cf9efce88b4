"""Backward of each size right after its forward.

The sum of several losses keeps the graphs of all their passes until the Trainer
calls backward. Here a pass's graph is gone before the next pass begins: memory is
that of the largest pass alone, and the shared front end is back-propagated once,
with the gradients of all sizes (docs/method.md, "Cost"). Only the last pass is left to
the Trainer. What it gets is a loss whose backward hands out what was computed and goes
through that pass, so that its scaling of the loss, DDP and gradient accumulation work
as ever. DDP sends the gradients that the last pass adds nothing to at once, and the
others while it is back-propagated.
"""

from collections.abc import Sequence

import torch

from espnet_des.espnet_api import add_to_all, multiply_all
from espnet_des.utils.ranks import is_in_group


class _Computed(torch.autograd.Function):
    """A loss of which the gradients are known."""

    @staticmethod
    def forward(ctx, loss, gradients, scale, *inputs):
        ctx.gradients, ctx.scale = gradients, scale
        return loss.clone()

    @staticmethod
    def backward(ctx, incoming):
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("a supernet's loss can be back-propagated only once")
        # At once: divided by the scale first, small ones would be 0 in fp16.
        factor = incoming / ctx.scale
        if not (factor.is_cpu and factor == 1.0):  # a GPU's number would be waited for
            multiply_all([g for g in gradients if g is not None], factor)
        return (None, None, None, *gradients)


class BackwardPerPass:
    """Sums the losses of an update and their gradients, pass by pass.

    >>> sums = BackwardPerPass(front.x, parameters)
    >>> sums.add(loss_of(sums.front))        # its graph is freed
    >>> sums.add(other_loss_of(sums.front))
    >>> loss = sums.loss(last=third_loss_of(front.x))    # backward as of a plain sum

    Args:
        front: output of the front end, ``(batch, time, dim)``; what made it gets
            its gradients in the backward of the sum.
        parameters: all that come after it. Those that took no part get no gradient, but
            zeros under DDP, which waits for one of each.
        scale: of the losses while their gradients are computed: fp16 needs the
            GradScaler's here, because its own comes only afterwards.
    """

    def __init__(
        self, front: torch.Tensor, parameters: Sequence[torch.nn.Parameter], scale: float = 1.0
    ):
        self.made_by, self.scale = front, scale
        self.front = front.detach().requires_grad_(front.requires_grad)
        self._leaves = [p for p in (self.front, *parameters) if p.requires_grad]
        self._inputs = [front] * front.requires_grad + self._leaves[front.requires_grad :]
        self._gradients: list[torch.Tensor | None] = [None] * len(self._leaves)
        self._loss: torch.Tensor | None = None

    def add(self, loss: torch.Tensor) -> None:
        """Add a loss, and free its graph."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        if not loss.requires_grad:  # all that it trains is frozen
            return
        # Its operations know their precision already.
        with torch.autocast(loss.device.type, enabled=False):
            new = torch.autograd.grad(loss * self.scale, self._leaves, allow_unused=True)
        if torch.is_autocast_enabled(loss.device.type):
            torch.clear_autocast_cache()  # casts of weights, which belong to that graph
        known = zip(self._gradients, new)
        both = [(old, g) for old, g in known if old is not None and g is not None]
        if both:
            add_to_all([old for old, _ in both], [g for _, g in both])
        first = [i for i, g in enumerate(new) if g is not None and self._gradients[i] is None]
        for i, gradient in zip(first, _apart([new[i] for i in first])):
            self._gradients[i] = gradient

    def loss(self, last: torch.Tensor) -> torch.Tensor:
        """The sum of the losses; to be back-propagated once.

        Args:
            last: one more loss, of the front end's output itself, whose graph is kept
                until then.
        """
        gradients, self._gradients = self._gradients, []
        if is_in_group():
            known = zip(self._leaves, gradients)
            gradients = [torch.zeros_like(leaf) if g is None else g for leaf, g in known]
        sum_so_far = torch.zeros_like(last) if self._loss is None else self._loss
        return last + _Computed.apply(sum_so_far, gradients, self.scale, *self._inputs)


def _apart(gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same values, each of which can be changed in place.

    Two gradients may be one tensor, as those of a and b in a + b; that of a sum's
    terms is one number, spread over their shape.
    """
    apart, end = list(gradients), 0
    for i in sorted(range(len(apart)), key=lambda i: gradients[i].data_ptr()):
        gradient = gradients[i]
        if gradient.data_ptr() < end or 0 in gradient.stride():
            apart[i] = gradient.clone(memory_format=torch.contiguous_format)
        end = max(end, gradient.data_ptr() + _bytes_of(gradient))
    # No views, and nobody has asked for their storages: either leaves a reference, with which
    # autograd would not add to them in place, but make a third copy of all gradients.
    return [gradient.detach() for gradient in apart]


def _bytes_of(tensor: torch.Tensor) -> int:
    """From its first element to its last, whatever lies between."""
    if not tensor.numel():
        return 0
    steps = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
    return (1 + steps) * tensor.element_size()
