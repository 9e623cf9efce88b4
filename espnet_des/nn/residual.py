"""Adding the branch of a residual layer: plainly, through a gate, to some utterances."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch

from espnet_des.nn.blocks.base import BlockType
from espnet_des.nn.components import cut
from espnet_des.nn.copies import with_module, with_values


class Branch(NamedTuple):
    """f of ``x + scale * f(source)``: a layer, and what it reads.

    Attributes:
        type, block, kind: whose layer, and which.
        source: what it reads, ``(batch, time, dim)``: x itself, but for the second of two
            layers side by side.
        pos_emb: relative positions ``(1, 2 * time - 1, dim)``, or None.
        mask: True on real frames, ``(batch, 1, time)``.
        with_bias: see :meth:`BlockType.branch`.
        is_group: the layers side by side, all of them, as ESPnet computes them at once.
    """

    type: BlockType
    block: torch.nn.Module
    kind: str
    source: torch.Tensor
    pos_emb: torch.Tensor | None
    mask: torch.Tensor
    with_bias: bool = True
    is_group: bool = False

    @property
    def scale(self) -> float:
        return self.type.scale(self.block, self.kind)

    def of_components(
        self,
        components: Sequence[int],
        gates: torch.Tensor | None = None,
        with_bias: bool = True,
    ) -> "Branch":
        """The branch with some of its components; see :func:`espnet_des.nn.components.cut`."""
        module = cut(self.type.module(self.block, self.kind), components, gates, with_bias)
        name = self.type.parts[self.kind][1]
        return self._replace(block=with_module(self.block, name, module))

    def detached(self) -> "Branch":
        """The branch without a graph: nothing flows back to its block or its source."""
        own = {name: p.detach() for name, p in self.block.named_parameters()}
        block = with_values(self.block, own)
        pos_emb = None if self.pos_emb is None else self.pos_emb.detach()
        return self._replace(block=block, source=self.source.detach(), pos_emb=pos_emb)

    def of_rows_behind_norm(self, rows: torch.Tensor) -> "Branch":
        """The branch whose BatchNorm sees all utterances, and hands on these alone."""
        name, norm = self.type.parts[self.kind][1], self.type.batch_norms[self.kind]
        module = self.type.module(self.block, self.kind)
        module = with_module(module, norm, _HandsOn(getattr(module, norm), rows))
        return self._replace(block=with_module(self.block, name, module))

    def modules(self) -> list[torch.nn.Module]:
        return self.type.modules(self.block, self.kind)

    def out(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Run it, on all utterances or on these: ``(batch, time, dim)``."""
        x, mask = self.source, self.mask
        if rows is not None:
            x, mask = x[rows], mask[rows]
        if self.is_group:
            return self.type.together(self.block, x, self.pos_emb, mask)
        return self.type.branch(self.block, self.kind, x, self.pos_emb, mask, self.with_bias)


class _HandsOn(torch.nn.Module):
    """A norm that is given the whole batch, and gives some utterances of it."""

    def __init__(self, norm: torch.nn.Module, rows: torch.Tensor):
        super().__init__()
        self.norm, self.rows = norm, rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, dim, time)`` to ``(rows, dim, time)``."""
        return self.norm(x)[self.rows]


def add_branch(
    x: torch.Tensor, branch: Branch, factor: float | torch.Tensor = 1.0
) -> torch.Tensor:
    """``x + factor * scale * f(source)``, all ``(batch, time, dim)``."""
    out = branch.out()
    factor = factor * branch.scale
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


def add_gated_branch(x: torch.Tensor, branch: Branch, gate: torch.Tensor) -> torch.Tensor:
    """:func:`add_branch` with a gate of at least ``FAINT``, in less memory."""
    out = branch.out()
    if not (x.dtype == out.dtype == gate.dtype and x.dtype in FINE):
        return x + (gate * branch.scale) * out  # y would be rounded too coarsely
    return _OpenGate.apply(x, gate, out, branch.scale)


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


def add_closed_branch(x: torch.Tensor, branch: Branch, gate: torch.Tensor) -> torch.Tensor:
    """:func:`add_branch` with a hard gate of 0: x stays, and the gate learns.

    Through the branch no gradient flows back (its factor is 0), so it is run
    without recording a graph. The gate's gradient is <dy, scale * f(source)>.

    Args:
        gate: its value is 0; a scalar.
    """
    with torch.no_grad():
        out = branch.out()
    return _ClosedGate.apply(x, gate, out, branch.scale)


class _Beside(torch.autograd.Function):
    """x, whose gradient goes to ``factor * out`` as well, as if that were added."""

    @staticmethod
    def forward(ctx, x, out, factor):
        ctx.factor, ctx.dtype = factor, out.dtype
        return x.clone()  # a view could not be changed in place, as ESPnet does

    @staticmethod
    def backward(ctx, grad):
        return grad, (ctx.factor * grad).to(ctx.dtype), None


def add_closed_components(
    x: torch.Tensor, branch: Branch, components: Sequence[int], gates: torch.Tensor
) -> torch.Tensor:
    """:func:`add_closed_branch` of several components of a layer, which run at once.

    Only what is behind the gates has a graph: the weight that adds the components up.

    Args:
        components: their numbers, ascending.
        gates: their values are 0, ``(len(components),)``.
    """
    closed = branch.detached().of_components(components, gates, with_bias=False)
    return _Beside.apply(x, closed.out(), branch.scale)


class RowDraw(NamedTuple):
    """Which utterances keep a layer: their numbers, on the device, and how many."""

    rows: torch.Tensor
    number: int


def add_branch_to_rows(
    x: torch.Tensor, branch: Branch, keep: RowDraw, factor: float, needs_all: bool = False
) -> torch.Tensor:
    """Stochastic depth: the branch is added to the kept utterances only.

    Dropped rows are not computed, but for BatchNorm's statistics, which would be others.

    Args:
        keep: the rows that keep the layer.
        factor: what the kept branch is multiplied with, 1 / (1 - p).
        needs_all: of a layer with BatchNorm.
    """
    if keep.number == x.size(0):
        return add_branch(x, branch, factor)
    if not keep.number and not needs_all:
        return touch(x, [p for module in branch.modules() for p in module.parameters()])
    out = branch.of_rows_behind_norm(keep.rows).out() if needs_all else branch.out(keep.rows)
    return x.index_add(0, keep.rows, (factor * branch.scale) * out.to(x.dtype))


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

    DDP with ESPnet's default ``unused_parameters: false`` waits for a gradient of every
    parameter in every update, also of those that had nothing to do. A supernet gives it such
    zeros itself; there they let one process move such a parameter as several do.
    """
    return _Touch.apply(x, *params) if params and torch.is_grad_enabled() else x


class Run(NamedTuple):
    """How the layers of one pass are run.

    Gates are of units: of a layer, or of each of its components.

    Attributes:
        runs: numbers of the layers that run at all.
        units_of: of each layer, the numbers of its units.
        some: of layers that run in part, the components that do.
        gates: multiplies what a unit gives, ``(num_units,)``, or None.
        closed: units whose gate is exactly 0; they only teach the gate.
        faint: those whose gate is below ``passes.FAINT``, and not 0.
        keep_rows: of layers with stochastic depth, the utterances that keep them.
        more: what the branch is multiplied with for these, 1 / (1 - p).
        need_all: layers with BatchNorm, whose statistics are of all utterances even so.
        watch: told of each layer, what its branch was added to, and the sum.
    """

    runs: Collection[int]
    units_of: Sequence[Sequence[int]]
    some: Mapping[int, Sequence[int]]
    gates: Sequence[torch.Tensor] | None
    closed: Collection[int]
    faint: Collection[int]
    keep_rows: Mapping[int, RowDraw]
    more: float
    need_all: Collection[int] = ()
    watch: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None

    def adds_plainly(self, layers: Sequence[int]) -> bool:
        """True where nothing is done to these layers' branches."""
        return (
            self.gates is None
            and self.watch is None
            and not any(q in self.keep_rows or q in self.some for q in layers)
        )

    def open_gates(self, layers: Sequence[int]) -> list[torch.Tensor]:
        """Gates of these layers' units that are not closed."""
        assert self.gates is not None, "a pass without gates"
        units = [u for q in layers for u in self.units_of[q] if u not in self.closed]
        return [self.gates[u] for u in units]

    def add(self, x: torch.Tensor, branch: Branch, q: int, coeff: float) -> torch.Tensor:
        """Add the branch of layer q, ``(batch, time, dim)``.

        Args:
            coeff: what it is multiplied with besides.
        """
        y = self._added(x, branch, q, coeff)
        if self.watch is not None:
            self.watch(q, x, y)
        return y

    def _added(self, x: torch.Tensor, branch: Branch, q: int, coeff: float) -> torch.Tensor:
        if q in self.keep_rows:
            factor, needs_all = coeff * self.more, q in self.need_all
            return add_branch_to_rows(x, branch, self.keep_rows[q], factor, needs_all)
        if self.gates is None:
            if q in self.some:
                branch = branch.of_components(self.some[q])
            return add_branch(x, branch, coeff)
        if len(self.units_of[q]) > 1:
            return self._add_gated_components(x, branch, q)
        (u,) = self.units_of[q]
        if u in self.closed:
            return add_closed_branch(x, branch, self.gates[u])
        if u in self.faint:
            return add_branch(x, branch, self.gates[u])
        return add_gated_branch(x, branch, self.gates[u])

    def _add_gated_components(self, x: torch.Tensor, branch: Branch, q: int) -> torch.Tensor:
        """Add a layer whose components have a gate each.

        What they share, their bias, is as open as the widest gate.
        """
        assert self.gates is not None, "a pass without gates"
        numbered = list(enumerate(self.units_of[q]))
        opened = [(c, self.gates[u]) for c, u in numbered if u not in self.closed]
        if opened:
            gates = torch.stack([gate for _, gate in opened])
            widest = gates.max().clamp(min=torch.finfo(gates.dtype).tiny)
            cut_branch = branch.of_components([c for c, _ in opened], gates / widest)
            x_with_open = add_branch(x, cut_branch, widest)
        else:
            x_with_open = x
        closed = [(c, self.gates[u]) for c, u in numbered if u in self.closed]
        if closed:
            components, of_each = [c for c, _ in closed], torch.stack([g for _, g in closed])
            x_with_open = add_closed_components(x_with_open, branch, components, of_each)
        return x_with_open
