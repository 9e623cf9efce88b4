"""One residual layer of an ESPnet Conformer block, run on its own.

A *layer* is one residual module with its pre-norm. ESPnet keeps the modules of
a block together in ``EncoderLayer``; here they are called one at a time, with
the same modules, names and arithmetic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer
from espnet_des.method.layers import ORDERS, Layer
from espnet_des.nn.batch_norm import BATCH_NORMS

# What a block calls the module of a layer; None where it has none.
ATTRIBUTES = {
    "ff_macaron": "feed_forward_macaron",
    "mhsa": "self_attn",
    "conv": "conv_module",
    "ff": "feed_forward",
}


def list_layers(blocks: list[EncoderLayer], order: str) -> list[Layer]:
    """All layers of an encoder in the order in which they run."""
    return [
        Layer(number, kind)
        for number, block in enumerate(blocks)
        for kind in ORDERS[order]
        if getattr(block, ATTRIBUTES[kind]) is not None
    ]


def scale(block: EncoderLayer, kind: str) -> float:
    """Residual scale: 0.5 for feed-forwards in macaron style, else 1."""
    return block.ff_scale if kind in ("ff", "ff_macaron") else 1.0


def modules(block: EncoderLayer, kind: str) -> list[torch.nn.Module]:
    """Modules that belong to the layer: they go where it goes."""
    if kind == "ff_macaron":
        return [block.norm_ff_macaron, block.feed_forward_macaron]
    if kind == "conv":
        return [block.norm_conv, block.conv_module]
    if kind == "ff":
        return [block.norm_ff, block.feed_forward]
    extra = [block.concat_linear] if block.concat_after else []
    return [block.norm_mha, block.self_attn] + extra


def branch(
    block: EncoderLayer,
    kind: str,
    x: torch.Tensor,
    pos_emb: torch.Tensor | None,
    mask: torch.Tensor,
) -> torch.Tensor:
    """f(x) of ``x + scale * f(x)``: pre-norm, module, dropout.

    Args:
        x: ``(batch, time, dim)``.
        pos_emb: relative positions ``(1, 2 * time - 1, dim)``, or None.
        mask: True on real frames, ``(batch, 1, time)``.
    """
    if kind == "ff_macaron":
        return block.dropout(block.feed_forward_macaron(block.norm_ff_macaron(x)))
    if kind == "ff":
        return block.dropout(block.feed_forward(block.norm_ff(x)))
    if kind == "conv":
        return block.dropout(block.conv_module(block.norm_conv(x), mask_pad=mask))
    x = block.norm_mha(x)
    args = (mask,) if pos_emb is None else (pos_emb, mask)
    attended = block.self_attn(x, x, x, *args)
    if block.concat_after:
        return block.concat_linear(torch.cat((x, attended), dim=-1))
    return block.dropout(attended)


def add_branch(
    block: EncoderLayer,
    kind: str,
    x: torch.Tensor,
    pos_emb: torch.Tensor | None,
    mask: torch.Tensor,
    factor: float | torch.Tensor = 1.0,
) -> torch.Tensor:
    """``x + factor * scale * f(x)``, all ``(batch, time, dim)``."""
    out = branch(block, kind, x, pos_emb, mask)
    factor = factor * scale(block, kind)
    if isinstance(factor, float) and factor == 1.0:
        return x + out
    return x + factor * out


# Types in which y - x still tells the branch.
FINE = (torch.float32, torch.float64)


class _OpenGate(torch.autograd.Function):
    """``x + gate * factor * out`` that keeps nothing of its own for the gate's gradient.

    It is <dy, factor * out> = <dy, y - x> / gate, and x and y are kept anyway, as inputs
    of layer norms. Equal up to the rounding of y.
    """

    @staticmethod
    def forward(ctx, x, gate, out, factor):
        y = x + (gate * factor) * out
        ctx.save_for_backward(x, y, gate)
        ctx.factor = factor
        return y

    @staticmethod
    def backward(ctx, grad):
        x, y, gate = ctx.saved_tensors
        of_gate = torch.dot(grad.flatten(), (y - x).flatten()) / gate
        return grad, of_gate, (gate * ctx.factor) * grad, None


def add_gated_branch(
    block: EncoderLayer,
    kind: str,
    x: torch.Tensor,
    pos_emb: torch.Tensor | None,
    mask: torch.Tensor,
    gate: torch.Tensor,
) -> torch.Tensor:
    """:func:`add_branch` with a gate of at least ``FAINT``, in less memory."""
    out = branch(block, kind, x, pos_emb, mask)
    if not (x.dtype == out.dtype == gate.dtype and x.dtype in FINE):
        return x + (gate * scale(block, kind)) * out  # y would be rounded too coarsely
    return _OpenGate.apply(x, gate, out, scale(block, kind))


class _ClosedGate(torch.autograd.Function):
    """``x + gate * factor * out`` where the gate is 0 and ``out`` has no graph."""

    @staticmethod
    def forward(ctx, x, gate, out, factor):
        ctx.save_for_backward(out)
        ctx.factor, ctx.dtype = factor, gate.dtype
        return x.clone()  # a view could not be changed in place, as ESPnet does

    @staticmethod
    def backward(ctx, grad):
        (out,) = ctx.saved_tensors
        # One pass over memory, where a product and its sum would take three.
        of_gate = torch.dot(grad.flatten().to(ctx.dtype), out.flatten().to(ctx.dtype))
        return grad, ctx.factor * of_gate, None, None


def add_closed_branch(
    block: EncoderLayer,
    kind: str,
    x: torch.Tensor,
    pos_emb: torch.Tensor | None,
    mask: torch.Tensor,
    gate: torch.Tensor,
) -> torch.Tensor:
    """:func:`add_branch` with a hard gate of 0: x stays, and the gate learns.

    Through the branch no gradient flows back (its factor is 0), so it is run
    without recording a graph. The gate's gradient is <dy, scale * f(x)>.

    Args:
        gate: its value is 0; a scalar.
    """
    with torch.no_grad():
        out = branch(block, kind, x, pos_emb, mask)
    return _ClosedGate.apply(x, gate, out, scale(block, kind))


class RowDraw(NamedTuple):
    """Which utterances keep a layer: their numbers, on the device, and how many."""

    rows: torch.Tensor
    number: int


def add_branch_to_rows(
    block: EncoderLayer,
    kind: str,
    x: torch.Tensor,
    pos_emb: torch.Tensor | None,
    mask: torch.Tensor,
    keep: RowDraw,
    factor: float,
) -> torch.Tensor:
    """Stochastic depth: the branch is added to the kept utterances only.

    Dropped rows are not computed, except where BatchNorm would then see other
    statistics.

    Args:
        keep: the rows that keep the layer.
        factor: what the kept branch is multiplied with, 1 / (1 - p).
    """
    if keep.number == x.size(0):
        return add_branch(block, kind, x, pos_emb, mask, factor)
    if kind == "conv" and isinstance(block.conv_module.norm, BATCH_NORMS):
        rows = torch.zeros(x.size(0), 1, 1, dtype=x.dtype, device=x.device)
        rows[keep.rows] = factor
        return add_branch(block, kind, x, pos_emb, mask, rows)
    if not keep.number:
        params = [p for m in modules(block, kind) for p in m.parameters()]
        return touch(x, params)
    out = branch(block, kind, x[keep.rows], pos_emb, mask[keep.rows])
    return x.index_add(0, keep.rows, (factor * scale(block, kind)) * out.to(x.dtype))


def draw_rows(
    layers: Sequence[int], batch: int, drop_rate: float, device: torch.device
) -> dict[int, RowDraw]:
    """Draw stochastic depth for every layer and utterance, and move it at once.

    Drawn on the CPU, where the number of rows must be known anyway.

    Args:
        layers: numbers of the layers with stochastic depth.
        batch: number of utterances.
        drop_rate: probability with which a layer is dropped for an utterance.
    """
    keep = torch.rand(len(layers), batch) >= drop_rate
    counts = keep.sum(1).tolist()
    rows = keep.nonzero()[:, 1].to(device, non_blocking=True).split(counts)
    return {q: RowDraw(*drawn) for q, drawn in zip(layers, zip(rows, counts))}


class _Touch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, *params):
        ctx.params = params
        return x.clone()  # a view could not be changed in place, as ESPnet does

    @staticmethod
    def backward(ctx, grad):
        needed = ctx.needs_input_grad[1:]
        zeros = (torch.zeros_like(p) if n else None for p, n in zip(ctx.params, needed))
        return (grad, *zeros)


def touch(x: torch.Tensor, params: list[torch.nn.Parameter]) -> torch.Tensor:
    """Return ``x``; give ``params`` a zero gradient when it is back-propagated.

    DDP with ESPnet's default ``unused_parameters: false`` waits for a gradient
    of every parameter in every update, also of those that had nothing to do.
    """
    return _Touch.apply(x, *params) if params and torch.is_grad_enabled() else x
