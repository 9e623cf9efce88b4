"""ESPnet's Conformer encoder, run layer by layer.

The base of the supernet and of the encoders extracted from it: same parameter
names and arithmetic as ESPnet's, but any set of layers can be run.
"""

import inspect
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch

from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.layer_norm import LayerNorm
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    Conv2dSubsampling,
    Conv2dSubsampling1,
    Conv2dSubsampling2,
    Conv2dSubsampling6,
    Conv2dSubsampling8,
    TooShortUttError,
    check_short_utt,
)
from espnet_des.errors import ConfigError
from espnet_des.method.layers import ORDERS
from espnet_des.method.options import check_sizes
from espnet_des.method.selection import SimpleTopK
from espnet_des.method.state import SelectionState
from espnet_des.nn.batch_norm import FiniteBatchNorm1d
from espnet_des.nn.block import (
    add_branch,
    add_branch_to_rows,
    add_closed_branch,
    add_gated_branch,
    draw_rows,
    list_layers,
    modules,
    touch,
)
from espnet_des.nn.encoder_conf import check_values
from espnet_des.nn.vgg import VGGSubsampling
from espnet_des.utils.signature import merge_signature

SUBSAMPLING = (
    Conv2dSubsampling,
    Conv2dSubsampling1,
    Conv2dSubsampling2,
    Conv2dSubsampling6,
    Conv2dSubsampling8,
)
# Stock keys that cannot be meant: values that are accepted, and why.
REFUSED: dict[str, tuple[Any, str]] = {
    "interctc_use_conditioning": (False, "exits would change what follows them"),
    "ctc_trim": (False, "sizes must give outputs of the same length"),
    "normalize_before": (
        True,
        "in a post-norm block the norm stands on the residual "
        "path, so a layer cannot be left out",
    ),  # fmt: skip
}


class Subsampled(NamedTuple):
    """Output of the front end, shared by all sizes of one step.

    Attributes:
        x: ``(batch, time, dim)``.
        pos_emb: relative positions ``(1, 2 * time - 1, dim)``, or None.
        mask: True on real frames, ``(batch, 1, time)``.
    """

    x: torch.Tensor
    pos_emb: torch.Tensor | None
    mask: torch.Tensor


@merge_signature(ConformerEncoder)
class LayeredConformerEncoder(ConformerEncoder):
    """ESPnet's Conformer encoder of which any layers can be run.

    Args:
        input_size: number of features.
        layer_order: ``espnet`` or ``paper``, the order of the modules in a block.
        conv_norm: ``layer_norm`` over channels, or ESPnet's ``batch_norm``.
        **conformer: arguments of ESPnet's ConformerEncoder; ``input_layer``
            may also be ``vgg``.
    """

    REFUSED: dict[str, tuple[Any, str]] = REFUSED
    embed: Any  # ESPnet's: a class of its own for each kind of subsampling
    encoders: Any  # ESPnet's blocks, one behind the other

    def __init__(
        self,
        input_size: int,
        *,
        layer_order: str = "espnet",
        conv_norm: str = "layer_norm",
        **conformer,
    ):
        self._check_keys(layer_order, conv_norm, conformer)
        vgg = conformer.get("input_layer") == "vgg"
        # ESPnet does not know vgg: it builds a linear layer, replaced below.
        super().__init__(
            input_size, **(conformer | {"input_layer": "linear"} if vgg else conformer)
        )
        self.input_size = input_size
        if vgg:
            self.embed = VGGSubsampling(input_size, self.output_size(), self.embed[-1])
        for block in self.encoders:
            if block.conv_module is not None:
                block.conv_module.norm = (
                    LayerNorm(self.output_size(), dim=1)
                    if conv_norm == "layer_norm"
                    else FiniteBatchNorm1d(self.output_size())
                )
        self.set_layers(layer_order)

    def set_layers(self, layer_order: str) -> None:
        """Number the layers that the blocks have."""
        self.layer_order = layer_order
        self.layers = list_layers(self.encoders, layer_order)
        self._of_block = [
            [q for q, layer in enumerate(self.layers) if layer.block == number]
            for number in range(len(self.encoders))
        ]

    @classmethod
    def _check_keys(cls, layer_order, conv_norm, conformer):
        known = inspect.signature(cls).parameters
        for key in conformer:
            if key not in known:
                raise ConfigError(
                    f"encoder_conf: {key}: {conformer[key]!r} is unknown; "
                    f"the encoder takes {list(known)}"
                )
        for key, (right, why) in cls.REFUSED.items():
            if conformer.get(key, right) != right:
                raise ConfigError(
                    f"encoder_conf: {key}: {conformer[key]!r} cannot be meant "
                    f"here ({why}); leave it at {right!r}"
                )
        if not isinstance(layer_order, str) or layer_order not in ORDERS:
            raise ConfigError(
                f"encoder_conf: layer_order: {layer_order!r} must be one of {list(ORDERS)}"
            )
        norms = ["layer_norm", "batch_norm"]
        if conv_norm not in norms:
            raise ConfigError(f"encoder_conf: conv_norm: {conv_norm!r} must be one of {norms}")
        check_values({k: conformer.get(k, p.default) for k, p in known.items()})

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def active_layers(self) -> Sequence[int] | None:
        """Layers that ``forward`` runs; None for all."""
        return None

    def extra_repr(self) -> str:
        kept = self.active_layers()
        active = range(self.num_layers) if kept is None else kept
        lines = [f"{len(active)} of {self.num_layers} layers active:"]
        for number, layers in enumerate(self._of_block):
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
        kept = self.active_layers()
        # Blocks of the full encoder: of a smaller size these exits would mean nothing.
        has_exits = self.interctc_layer_idx and kept is None
        wanted = return_all_hs or has_exits
        out = self.run_layers(front, kept=kept, hidden=hidden if wanted else None)
        lengths = front.mask.squeeze(1).sum(1)
        if has_exits:
            # Exits for the losses of ESPnet's interctc_weight, numbered from 1.
            return (out, self.exits(hidden)), lengths, None
        return ((out, hidden) if hidden else out), lengths, None

    def exits(self, hidden: list[torch.Tensor]) -> list[tuple[int, torch.Tensor]]:
        """What ESPnet's ``interctc_layer_idx`` names, of the output of every block."""
        return [(n, self.after_norm(hidden[n - 1])) for n in self.interctc_layer_idx]

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
        if isinstance(self.embed, SUBSAMPLING):
            too_short, limit = check_short_utt(self.embed, xs_pad.size(1))
            if too_short:
                raise TooShortUttError(
                    f"has {xs_pad.size(1)} frames and is too short for subsampling (it "
                    f"needs more than {limit} frames), return empty results",
                    xs_pad.size(1),
                    limit,
                )
        if isinstance(self.embed, SUBSAMPLING + (VGGSubsampling,)):
            x, mask = self.embed(xs_pad, mask)
        else:
            x = self.embed(xs_pad)
        x, pos_emb = x if isinstance(x, tuple) else (x, None)
        return Subsampled(x, pos_emb, mask)

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
    ) -> torch.Tensor:
        """Run the layers once.

        Args:
            front: output of :meth:`subsample`.
            kept: layers to run, the others are skipped; None runs all.
            gates: multiplies each layer's branch, ``(num_layers,)``.
            closed: layers whose gate is exactly 0; they only teach the gate.
            faint: those whose gate is below ``layers.FAINT``, and not 0.
            dropped: layers with stochastic depth, drawn per utterance.
            drop_rate: probability with which each of them is dropped.
            hidden: a list that takes the output of every block.

        Returns:
            Output ``(batch, time, dim)``.
        """
        x, pos_emb, mask = front
        runs = set(range(self.num_layers) if kept is None else kept)
        keep_rows = {}
        if self.training and drop_rate > 0.0 and dropped:
            keep_rows = draw_rows(dropped, x.size(0), drop_rate, x.device)
        gate_of = () if gates is None else gates.unbind()
        # ESPnet's stochastic_depth_rate means blocks of the full encoder.
        is_full_pass = kept is None and gates is None
        for number, block in enumerate(self.encoders):
            coeff, rate = 1.0, block.stochastic_depth_rate
            if self.training and is_full_pass and rate > 0:
                coeff = 1.0 / (1.0 - rate)
                if torch.rand(1).item() < rate:
                    x = touch(x, list(block.parameters()))
                    if hidden is not None:
                        hidden.append(x)
                    continue
            for q in self._of_block[number]:
                if q not in runs:
                    continue
                kind = self.layers[q].kind
                if q in keep_rows:
                    more = coeff / (1.0 - drop_rate)
                    x = add_branch_to_rows(block, kind, x, pos_emb, mask, keep_rows[q], more)
                elif q in closed:
                    x = add_closed_branch(block, kind, x, pos_emb, mask, gate_of[q])
                elif gates is not None and q not in faint:
                    x = add_gated_branch(block, kind, x, pos_emb, mask, gate_of[q])
                else:
                    factor = coeff if gates is None else gate_of[q]
                    x = add_branch(block, kind, x, pos_emb, mask, factor)
            if hasattr(block, "norm_final"):
                x = block.norm_final(x)
            if hidden is not None:
                hidden.append(x)
        return self.after_norm(x)


@merge_signature(LayeredConformerEncoder)
class DESConformerEncoder(LayeredConformerEncoder):
    """Drop-in for ESPnet's ``conformer`` that can run at several sizes.

    Args:
        input_size: number of features.
        sizes: numbers of layers, ascending, the last one all of them; by
            default a third, two thirds and all.
        layer_order: ``espnet`` or ``paper``, the order of the modules in a block.
        **conformer: see :class:`LayeredConformerEncoder`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        sizes: Sequence[int] | None = None,
        layer_order: str = "espnet",
        **conformer,
    ):
        super().__init__(input_size, layer_order=layer_order, **conformer)
        self.sizes = check_sizes(sizes, self.num_layers)
        self.size = self.sizes[-1]
        self.scores = torch.nn.Parameter(torch.full((self.num_layers,), 0.5))
        self.selection = SelectionState(self.sizes, layer_order)
        self.rank_by(SimpleTopK())

    def rank_by(self, selector) -> None:
        """Let scores be read in a method's way while stage 1 has not ended.

        Args:
            selector: see :meth:`SelectionOptions.selector`.
        """
        self.selector = selector

    def ranking(self) -> list[int]:
        """All layers (0-based), most important first; final in stage 2."""
        return self.selection.current_ranking(self.scores, self.selector)

    def kept_layers(self, size: int) -> list[int]:
        """Layers of a size, 0-based, ascending; sizes are nested.

        Before stage 2 this is the provisional choice of the current scores, or of their
        mean where the last iterations are averaged.
        """
        return sorted(self.ranking()[: self._known(size)])

    def set_size(self, size: int) -> None:
        """Run at this size from now on, until it is set again."""
        self.size = self._known(size)

    def _known(self, size: int) -> int:
        if size not in self.sizes:
            raise ConfigError(f"size: {size!r} must be one of {self.sizes}")
        return size

    def active_layers(self) -> Sequence[int] | None:
        return None if self.size == self.num_layers else self.kept_layers(self.size)

    def extra_repr(self) -> str:
        return f"sizes={self.sizes}, size={self.size}, {super().extra_repr()}"

    def count_parameters(self, size: int) -> int:
        """Number of parameters of the encoder of this size alone."""
        absent = set(range(self.num_layers)) - set(self.kept_layers(size))
        gone = sum(
            p.numel()
            for q in absent
            for m in modules(self.encoders[self.layers[q].block], self.layers[q].kind)
            for p in m.parameters()
        )
        return sum(p.numel() for p in self.parameters()) - self.scores.numel() - gone
