"""ESPnet's encoders, run layer by layer, and the supernet made of one.

The same parameter names and arithmetic as ESPnet's, but any set of layers can be run.
Which layers there are, a block type says (``nn/blocks``).
"""

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import torch

from espnet_des.errors import ConfigError, need
from espnet_des.method.layers import Layer
from espnet_des.method.selection import Selector, SimpleTopK
from espnet_des.method.sizes import sizes_of_supernet
from espnet_des.method.state import SelectionState
from espnet_des.nn.batch_norm import FiniteBatchNorm1d, begin_as_the_full_size
from espnet_des.nn.blocks.base import BlockType
from espnet_des.nn.components import count_components, shrink
from espnet_des.nn.encoder_conf import check_keys
from espnet_des.nn.front_end import OWN_KEYS, Subsampled, known_to_espnet, made, subsample
from espnet_des.nn.own_weights import OwnWeights
from espnet_des.nn.residual import (
    Branch,
    Run,
    add_branch,
    draw_rows,
    has_batch_norm,
    touch,
)


def num_parameters(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


class LayeredEncoder(torch.nn.Module):
    """Base of encoders of which any layers can be run; ESPnet's own comes behind it.

    ``nn/encoders.py`` makes the classes: this base, and ESPnet's encoder.

    Args:
        input_size: number of features.
        **conf: ``encoder_conf``: the keys of ESPnet's encoder, where ``input_layer`` may
            also be ``vgg`` or ``dw_striding``, those of ``nn/front_end.py``, and those of
            the block type.
    """

    block_type: ClassVar[BlockType]

    # Of ESPnet's encoder.
    embed: Any
    encoders: Any
    after_norm: Any
    conditioning_layer: Any
    output_size: Any

    def __init__(self, input_size: int, **conf: Any):
        kind = self.block_type
        ours = kind.own_keys.keys() | OWN_KEYS.keys()
        stock = {key: value for key, value in conf.items() if key not in ours}
        own = kind.own_keys | {key: conf[key] for key in kind.own_keys if key in conf}
        check_keys(type(self), conf)
        if "input_layer" in stock:
            stock["input_layer"] = known_to_espnet(stock["input_layer"])
        super().__init__(input_size, **stock)
        self.input_size = input_size
        self.embed = made(self.embed, input_size, self.output_size(), conf)
        # Some of ESPnet's encoders have no exits, or None.
        self.interctc_layer_idx = list(getattr(self, "interctc_layer_idx", None) or [])
        kind.prepare(self, **own)
        self.set_layers(own.get("layer_order", "espnet"))

    def set_layers(self, layer_order: str) -> None:
        """Number the layers that the blocks have."""
        self.layer_order = layer_order
        self.layers = self.block_type.layers(self.encoders, layer_order)
        numbers = iter(range(len(self.layers)))
        # Numbers of the layers, those side by side together, of each block.
        self.groups = [
            [
                [next(numbers) for _ in group]
                for group in self.block_type.side_by_side(block, layer_order)
            ]
            for block in self.encoders
        ]
        self.divide([1] * len(self.layers))
        # Looked for here, once, and not in every pass.
        self.with_batch_norm = {
            q
            for q, layer in enumerate(self.layers)
            if has_batch_norm(self.block_type.modules(self.encoders[layer.block], layer.kind))
        }

    def divide(self, counts: Sequence[int]) -> None:
        """Number the units, of which any can be run: layers, or components of layers.

        Args:
            counts: of each layer, how many it has.
        """
        numbers = iter(range(sum(counts)))
        self.units_of = [[next(numbers) for _ in range(count)] for count in counts]

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def module_of(self, q: int) -> torch.nn.Module:
        """The module of a layer, without its norm."""
        layer = self.layers[q]
        return self.block_type.module(self.encoders[layer.block], layer.kind)

    @property
    def num_units(self) -> int:
        return sum(map(len, self.units_of))

    def parameters_of_layers(self) -> list[int]:
        """Number of parameters of each layer, its norm included."""
        kind = self.block_type
        return [
            num_parameters(*kind.modules(self.encoders[layer.block], layer.kind))
            for layer in self.layers
        ]

    def parts_of(self, units: Collection[int]) -> dict[int, list[int]]:
        """Layers that have any of these units, ascending, with the components of each."""
        found = {q: [c for c, u in enumerate(own) if u in units]
                 for q, own in enumerate(self.units_of)}  # fmt: skip
        return {q: components for q, components in found.items() if components}

    def active_units(self) -> Sequence[int] | None:
        """Units that ``forward`` runs; None for all."""
        return None

    def active_blocks(self) -> Any:
        """The blocks that ``forward`` runs."""
        return self.encoders

    def extra_repr(self) -> str:
        kept = self.active_units()
        active = range(self.num_layers) if kept is None else list(self.parts_of(kept))
        lines = [f"{len(active)} of {self.num_layers} layers active:"]
        for number, groups in enumerate(self.groups):
            layers = [q for group in groups for q in group]
            names = [f"{q}:{self.layers[q].kind}" for q in layers if q in active]
            lines.append(f"  block {number}: {' '.join(names) or '-'}")
        return "\n".join(lines)

    def forward(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,
        ctc=None,
        return_all_hs: bool = False,
    ) -> tuple[torch.Tensor | tuple, torch.Tensor, None]:
        """Encode with the active layers; arguments and results as in ESPnet.

        Args:
            xs_pad: features ``(batch, time, input_size)``.
            ilens: numbers of frames ``(batch,)``.
            masks: True on padding, ``(batch, time)``; by default from ilens.
            return_all_hs: also return the output of every block.

        Returns:
            Output ``(batch, time, dim)``, in a tuple with the exits or the blocks' outputs
            where there are such; lengths ``(batch,)``; None.
        """
        front = self.subsample(xs_pad, ilens, masks)
        hidden: list[torch.Tensor] = []
        kept = self.active_units()
        # Blocks of the full encoder: of a smaller size these exits would mean nothing.
        has_exits = self.interctc_layer_idx and kept is None
        wanted = return_all_hs or has_exits
        out = self.run_layers(
            front, kept=kept, hidden=hidden if wanted else None, ctc=ctc,
            blocks=self.active_blocks(),
        )  # fmt: skip
        lengths = front.mask.squeeze(1).sum(1)
        if has_exits:
            return (out, self.exits(hidden, self.interctc_layer_idx)), lengths, None
        return ((out, hidden) if hidden else out), lengths, None

    def exits(
        self, hidden: list[torch.Tensor], blocks: Sequence[int]
    ) -> list[tuple[int, torch.Tensor]]:
        """Outputs of blocks, with their numbers.

        Args:
            hidden: the output of every block, ``(batch, time, dim)``.
            blocks: numbers from 1, as in ``interctc_layer_idx``.
        """
        return [(n, self._exit(hidden[n - 1])) for n in blocks]

    def _exit(self, x: torch.Tensor) -> torch.Tensor:
        return self.after_norm(x) if self.block_type.exits_are_normalised else x

    def blocks_at_thirds(self) -> list[int]:
        """Numbers of the blocks, from 1, after which a third and two thirds have run."""
        count = len(self.encoders)
        return sorted({round(i * count / 3) for i in (1, 2)} - {0, count})

    def subsample(
        self, xs_pad: torch.Tensor, ilens: torch.Tensor, masks: torch.Tensor | None = None
    ) -> Subsampled:
        """Run the front end, which no size goes without.

        Args:
            xs_pad: features ``(batch, time, input_size)``.
            ilens: numbers of frames ``(batch,)``.
            masks: True on padding, ``(batch, time)``; by default from ilens.
        """
        padding = masks
        if padding is None:
            # ESPnet's own is only as wide as the longest utterance, and waits for its length.
            padding = torch.arange(xs_pad.size(1), device=ilens.device) >= ilens[:, None]
        mask = (~padding[:, None, :]).to(xs_pad.device)
        return subsample(self.embed, xs_pad, mask)

    def run_layers(
        self,
        front: Subsampled,
        *,
        kept: Sequence[int] | None = None,
        gates: torch.Tensor | None = None,
        closed: Collection[int] = (),
        faint: Collection[int] = (),
        dropped: Sequence[int] = (),
        drop_rate: float = 0.0,
        hidden: list[torch.Tensor] | None = None,
        ctc: Any = None,
        watch: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
        blocks: Any = None,
    ) -> torch.Tensor:
        """Run the layers once.

        Args:
            front: output of :meth:`subsample`.
            kept: units to run, the others are skipped; None runs all.
            gates: multiplies what each unit gives, ``(num_units,)``.
            closed: units whose gate is exactly 0; they only teach the gate.
            faint: those whose gate is below ``passes.FAINT``, and not 0.
            dropped: units with stochastic depth; a layer has it, drawn per utterance, where
                all of its units do.
            drop_rate: probability with which each of them is dropped.
            hidden: a list that takes the output of every block.
            ctc: ESPnet's, with the output layer of this size; asked at the exits where
                ``interctc_use_conditioning`` is on.
            watch: told of each layer: its number, what it was added to, and the sum.
            blocks: to run in place of the encoder's, see :meth:`SupernetEncoder.blocks_for`.

        Returns:
            Output ``(batch, time, dim)``.
        """
        x = front.x
        runs, some = self._layers_that_run(kept)
        keep_rows = {}
        if self.training and drop_rate > 0.0 and dropped:
            gone = set(dropped)
            layers = [q for q, own in enumerate(self.units_of) if gone.issuperset(own)]
            keep_rows = draw_rows(layers, x.size(0), drop_rate, x.device)
        split = None if gates is None else gates.unbind()
        more = 1.0 / (1.0 - drop_rate)
        run = Run(runs, self.units_of, some, split, closed, faint, keep_rows, more,
                  self.with_batch_norm, watch)  # fmt: skip
        # ESPnet's stochastic_depth_rate and layer_drop_rate mean blocks of the full encoder.
        is_full_pass = kept is None and gates is None
        for number, block in enumerate(self.encoders if blocks is None else blocks):
            is_dropped, coeff = False, 1.0
            if self.training and is_full_pass:
                is_dropped, coeff = self._draw_block(block)
            if is_dropped:
                x = touch(x, list(block.parameters()))
            else:
                for group in self.groups[number]:
                    x = self._add_group(block, group, front._replace(x=x), run, coeff)
                x = self.block_type.after_block(block, x)
            if hidden is not None:
                hidden.append(x)
            if self._is_conditioned_after(number):
                x = x + self.conditioning_layer(ctc.softmax(self._exit(x)))
        return self.after_norm(x)

    def _layers_that_run(
        self, kept: Sequence[int] | None
    ) -> tuple[set[int], dict[int, list[int]]]:
        """Layers that have one of these units; of those that lack some, what they have."""
        if kept is None:
            return set(range(self.num_layers)), {}
        parts = self.parts_of(set(kept))
        some = {q: own for q, own in parts.items() if len(own) < len(self.units_of[q])}
        return set(parts), some

    def _add_group(
        self, block: Any, group: list[int], read: Subsampled, run: Run, coeff: float
    ) -> torch.Tensor:
        """Run a layer, or the layers that stand side by side.

        Args:
            group: their numbers.
            read: what they read, with positions and mask.
            coeff: what their branches are multiplied with.
        """
        source, pos_emb, mask = read
        x = source
        runs = [q for q in group if q in run.runs]
        branch = Branch(self.block_type, block, "", source, pos_emb, mask)
        if len(group) > 1 and runs == group and run.adds_plainly(group):
            return add_branch(x, branch._replace(is_group=True), coeff)
        for q in runs:
            # Side by side they share a bias. The first brings it, but where there are gates.
            with_bias = len(group) == 1 or (run.gates is None and q == runs[0])
            kind = self.layers[q].kind
            x = run.add(x, branch._replace(kind=kind, with_bias=with_bias), q, coeff)
        if len(group) > 1 and run.gates is not None:
            # It is as open as the widest gate.
            gates = run.open_gates(runs)
            if gates:
                bias = torch.stack(gates).max() * self.block_type.shared_bias(block)
                x = x + bias.to(x.dtype)  # half precision stays half
        return x

    def _draw_block(self, block: Any) -> tuple[bool, float]:
        """Draw what ESPnet draws of a block: whether it is dropped, and its factor if not."""
        rate = getattr(block, "stochastic_depth_rate", 0.0)
        if rate > 0 and torch.rand(1).item() < rate:
            return True, 1.0
        whole = self.block_type.block_drop_rate(self)
        return whole > 0 and torch.rand(1).item() < whole, 1.0 / (1.0 - rate)

    def _is_conditioned_after(self, block: int) -> bool:
        conditions = getattr(self, "interctc_use_conditioning", False)
        return conditions and block + 1 in self.interctc_layer_idx


# What the scores of a supernet are of.
GRANULARITIES = ("layer", "component")


class SupernetEncoder(LayeredEncoder):
    """Drop-in for one of ESPnet's encoders that can run at several sizes.

    Args:
        input_size: number of features.
        sizes: numbers of layers, ascending, the last one all of them; by
            default a third, two thirds and all; or ``any``.
        smallest_size, size_step: of ``any``, see :func:`sizes_of_supernet`.
        granularity: what is chosen: whole layers, or components of them.
        own_weights: let each smaller size add to what all share, see :class:`OwnWeights`.
        **conf: see :class:`LayeredEncoder`.

    Attributes:
        sizes: those that are told of by name, ascending.
        all_sizes: those that can be set; with ``any`` they are more.
    """

    def __init__(
        self,
        input_size: int,
        *,
        sizes: Sequence[int] | str | None = None,
        smallest_size: int | None = None,
        size_step: int | None = None,
        granularity: str = "layer",
        own_weights: bool = True,
        **conf: Any,
    ):
        super().__init__(input_size, **conf)
        if granularity not in GRANULARITIES:
            raise ConfigError(
                f"encoder_conf: granularity: {granularity!r} must be one of {list(GRANULARITIES)}"
            )
        is_known = isinstance(own_weights, bool)
        need(is_known, "encoder_conf: own_weights", own_weights, "true or false")
        if granularity == "component":
            self.divide([count_components(self.module_of(q)) for q in range(self.num_layers)])
        self._sizes = sizes_of_supernet(sizes, self.num_layers, smallest_size, size_step)
        self.sizes, self.all_sizes = self._sizes.anchors, self._sizes.all
        self.size = self.sizes[-1]
        # In a list: they are modules of the blocks.
        self._norms = [m for m in self.encoders.modules() if isinstance(m, FiniteBatchNorm1d)]
        for norm in self._norms:
            norm.keep_apart(self.sizes[:-1])
        self.own: Any = OwnWeights(self.encoders, self.sizes[:-1]) if own_weights else None
        self.register_load_state_dict_pre_hook(self.before_loading)
        self.scores = torch.nn.Parameter(torch.full((self.num_units,), 0.5))
        # Of a layer each component costs the same.
        costs = torch.tensor([1 / len(own) for own in self.units_of for _ in own])
        self.selection = SelectionState(self.sizes, self.layer_order, costs)
        self.rank_by(SimpleTopK())

    def before_loading(self, _, state_dict, prefix, *rest) -> None:
        """Let BatchNorm's statistics of sizes follow those that a stock checkpoint brings."""
        updates = state_dict.get(f"{prefix}selection.updates", torch.zeros(()))
        keys = [prefix + key for key in self.state_dict()]
        begin_as_the_full_size(state_dict, keys, is_new=not updates)

    def rank_by(self, selector: Selector) -> None:
        """Let scores be read in a method's way while stage 1 has not ended.

        Args:
            selector: see :class:`Selector`; it says what shape the scores have.
        """
        self.selector = selector
        shape = selector.score_shape(self.num_units)
        if self.scores.shape != shape:
            self.scores = torch.nn.Parameter(torch.empty(shape))
            selector.start(self.scores.data)

    @property
    def units(self) -> list[Layer]:
        """Of each unit, the layer that it is, or belongs to."""
        return [self.layers[q] for q, own in enumerate(self.units_of) for _ in own]

    def ranking(self) -> list[int]:
        """All units (0-based), most important first; final in stage 2."""
        return self.selection.current_ranking(self.scores, self.selector)

    def kept_units(self, size: int) -> list[int]:
        """Units of a size, 0-based, ascending; sizes are nested.

        Before stage 2 this is the provisional choice of the current scores, or of their
        mean where the last iterations are averaged.
        """
        return sorted(self.selection.first_of(self.ranking(), self._known(size)))

    def kept_layers(self, size: int) -> list[int]:
        """Layers of a size, 0-based, ascending: those that it has a unit of."""
        return list(self.parts_of(set(self.kept_units(size))))

    def described(self, kept: Sequence[int]) -> dict[str, Any]:
        """Keys of ``encoder_conf`` that say which units an encoder of one size keeps."""
        runs, some = self._layers_that_run(kept)
        return {"kept_layers": sorted(runs)} | ({"kept_components": some} if some else {})

    def anchor_of(self, size: int) -> int:
        """The size whose output layer and name a size has; see :class:`Sizes`."""
        return self._sizes.anchor_of(size)

    def set_size(self, size: int) -> None:
        """Run at this size from now on, until it is set again."""
        if self._adds_own(self._known(size)):
            self.own.check_visible(self.encoders)  # now, not when it runs
        self.size = size

    def use_statistics_of(self, size: int) -> None:
        """Let the next run use, and in training update, BatchNorm's statistics of this size."""
        anchor = self.anchor_of(size)
        for norm in self._norms:
            norm.size = None if anchor == self.num_layers else anchor

    def forward(self, *args: Any, **kwargs: Any):
        """As ESPnet's, at the size that is set."""
        self.use_statistics_of(self.size)
        return super().forward(*args, **kwargs)

    def _known(self, size: int) -> int:
        if size not in self.all_sizes:
            raise ConfigError(f"size: {size!r} must be one of {self.all_sizes}")
        return size

    def active_units(self) -> Sequence[int] | None:
        return None if self.size == self.num_layers else self.kept_units(self.size)

    def active_blocks(self) -> Any:
        return self.blocks_for(self.size)

    def blocks_for(self, size: int) -> Any:
        """The blocks that a size computes with: from stage 2 on with what it owns."""
        if not self._adds_own(size):
            return self.encoders
        lacking = self._lacking(size)
        return self.own.added_to(self.encoders, self.anchor_of(size), lacking)

    def idle_own_weights(self, sizes: Collection[int]) -> list[torch.nn.Parameter]:
        """Own weights without use in an update of these sizes: others', and of lacking layers."""
        if self.own is None:
            return []
        active = {self.anchor_of(size): size for size in sizes if self._adds_own(size)}
        idle = self.own.parameters_of_others(active)
        for anchor, size in active.items():
            idle += self.own.added_by(anchor, self.encoders, self._lacking(size))
        return idle

    def _lacking(self, size: int) -> list[torch.nn.Parameter]:
        """Parameters of the layers that a size has nothing of."""
        runs = self.parts_of(set(self.kept_units(size)))
        modules = (
            module for q, layer in enumerate(self.layers) if q not in runs
            for module in self.block_type.modules(self.encoders[layer.block], layer.kind)
        )  # fmt: skip
        return [p for module in modules for p in module.parameters()]

    def _adds_own(self, size: int) -> bool:
        is_full = self.anchor_of(size) == self.num_layers
        return self.own is not None and not is_full and self.selection.is_frozen

    def extra_repr(self) -> str:
        return f"sizes={self.sizes}, size={self.size}, {super().extra_repr()}"

    def blocks_of_size(self, size: int) -> torch.nn.Module:
        """The blocks with what this size keeps only, see :meth:`blocks_with`."""
        return self.blocks_with(self.kept_units(size), size)

    def blocks_with(self, kept: Sequence[int], size: int) -> torch.nn.Module:
        """The blocks with these units only; they share their parameters.

        Where a part of a module stays, its parameters are copies.

        Args:
            kept: numbers of units, 0-based.
            size: whose own weights they have.
        """
        # The blocks are copied, but no tensor is: not the parameters, and not what ESPnet's
        # modules remember of their last run.
        source = self.blocks_for(size)
        parts = [value for m in source.modules() for value in vars(m).values()]
        tensors = [*source.parameters(), *source.buffers()]
        tensors += [value for value in parts if isinstance(value, torch.Tensor)]
        blocks = copy.deepcopy(source, {id(t): t for t in tensors})
        runs, some = self._layers_that_run(kept)
        for q, layer in enumerate(self.layers):
            block = blocks[layer.block]
            if q not in runs:
                self.block_type.remove(block, layer.kind)
            elif q in some:
                shrink(self.block_type.module(block, layer.kind), some[q])
        return blocks

    def count_parameters(self, size: int) -> int:
        """Number of parameters of the encoder of this size alone."""
        gone = num_parameters(self.encoders) - num_parameters(self.blocks_of_size(size))
        own = () if self.own is None else (self.own,)
        return num_parameters(self) - num_parameters(*own) - self.scores.numel() - gone
