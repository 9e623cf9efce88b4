"""ESPnet's encoders, run layer by layer.

The same parameter names and arithmetic as ESPnet's, but any set of layers can be run.
Which layers there are, a block type says (``nn/blocks``).
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import torch

from espnet_des.nn.blocks.base import BlockType
from espnet_des.nn.encoder_conf import check_keys
from espnet_des.nn.front_end import (
    OWN_KEYS,
    UPSAMPLING,
    Subsampled,
    known_to_espnet,
    made,
    subsample,
)
from espnet_des.nn.residual import (
    Branch,
    Run,
    add_branch,
    draw_rows,
    touch,
)
from espnet_des.nn.upsampling import Upsampling


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
        factor = conf.get(UPSAMPLING) or 1
        self.upsample = Upsampling(self.output_size(), factor) if factor > 1 else None
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
            if self.block_type.has_batch_norm(self.encoders[layer.block], layer.kind)
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

    @property
    def has_components(self) -> bool:
        """Whether some layer is divided, so that units are no whole layers."""
        return self.num_units > self.num_layers

    def parameters_of_layers(self) -> list[int]:
        """Number of parameters of each layer, its norm included."""
        return [
            self.block_type.count_parameters(self.encoders[layer.block], layer.kind)
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
            Output ``(batch, time, dim)``, with ``upsampling_factor`` of so many times as many
            frames as the layers have; in a tuple with the exits or the blocks' outputs
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
        lengths = self.output_lengths(front.lengths)
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
        return self._upsampled(
            self.after_norm(x) if self.block_type.exits_are_normalised else x
        )

    def _upsampled(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.upsample is None else self.upsample(x)

    def output_lengths(self, frames: torch.Tensor) -> torch.Tensor:
        """How many frames of output become of so many of the front end, ``(batch,)``."""
        return frames if self.upsample is None else frames * self.upsample.factor

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
        runs, some = self.layers_that_run(kept)
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
        return self._upsampled(self.after_norm(x))

    def layers_that_run(
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
        whole = self.block_type.layer_drop_rate(self)
        return whole > 0 and torch.rand(1).item() < whole, 1.0 / (1.0 - rate)

    def _is_conditioned_after(self, block: int) -> bool:
        conditions = getattr(self, "interctc_use_conditioning", False)
        return conditions and block + 1 in self.interctc_layer_idx
