"""What a block type says: which residual layers its blocks have, and how one is run.

A *layer* is one residual module with its pre-norm. ESPnet keeps the modules of a block
together in one class; here they are called one at a time, with the same modules, names
and arithmetic. All else (gates, stochastic depth, sizes, extraction) is written once, for
any block type, and calls these methods.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from espnet2.asr.layers.fastformer import FastSelfAttention
from espnet_des.method.layers import Layer
from espnet_des.nn.batch_norm import BATCH_NORMS

Order = tuple[str | tuple[str, ...], ...]


class BlockType:
    """One of ESPnet's encoders, seen as residual layers in blocks.

    Attributes:
        stock: ESPnet's class of the encoder.
        orders: kinds of layers in the order in which they run, by the name of the order.
            Kinds within a tuple stand side by side: they read the same input.
        parts: what a block calls the norm, the module and whatever else belongs to a
            kind of layer. A block has that layer where it has the module.
        batch_norms: what the module of a kind of layer calls its BatchNorm, where it may have
            one; all that it does behind that is done to each frame by itself.
        own_keys: keys of ``encoder_conf`` that ESPnet does not have, and their defaults.
        refused: ESPnet's keys that cannot be meant: values that are accepted, and why.
        exits_are_normalised: whether ESPnet applies ``after_norm`` to the outputs of the
            blocks in ``interctc_layer_idx``.
    """

    stock: type[torch.nn.Module]
    orders: ClassVar[dict[str, Order]]
    parts: ClassVar[dict[str, tuple[str, ...]]]
    batch_norms: ClassVar[dict[str, str]] = {}
    own_keys: ClassVar[dict[str, Any]] = {}
    refused: ClassVar[dict[str, tuple[Any, str]]] = {
        "normalize_before": (
            True,
            "in a post-norm block the norm stands on the residual path, so a layer cannot "
            "be left out",
        ),
        "ctc_trim": (False, "sizes must give outputs of the same length"),
        "gradient_checkpoint_layers": (
            [],
            "the graph of each size is freed before the next one runs, and that of all "
            "layers is never kept",
        ),
    }
    exits_are_normalised: ClassVar[bool] = True

    # ---- what blocks have -----------------------------------------------------------

    def kinds(self, order: str = "espnet") -> list[str]:
        """Kinds of layers in running order, of a block that has all of them."""
        return [kind for group in self._groups(order) for kind in group]

    def _groups(self, order: str) -> list[tuple[str, ...]]:
        return [(g,) if isinstance(g, str) else g for g in self.orders[order]]

    def side_by_side(self, block: torch.nn.Module, order: str) -> list[tuple[str, ...]]:
        """Kinds of the block's layers in running order, those side by side together."""
        there = [
            tuple(k for k in group if self.has(block, k)) for group in self._groups(order)
        ]
        return [group for group in there if group]

    def layers(self, blocks: torch.nn.Module, order: str = "espnet") -> list[Layer]:
        """All layers of an encoder in the order in which they run.

        Args:
            blocks: one behind the other, as ESPnet's ``encoders``.
        """
        return [
            Layer(number, kind)
            for number, block in enumerate(blocks.children())
            for group in self.side_by_side(block, order)
            for kind in group
        ]

    def has(self, block: torch.nn.Module, kind: str) -> bool:
        return getattr(block, self.parts[kind][1], None) is not None

    def module(self, block: torch.nn.Module, kind: str) -> torch.nn.Module:
        """The module of a layer that is there, without its norm."""
        return getattr(block, self.parts[kind][1])

    def modules(self, block: torch.nn.Module, kind: str) -> list[torch.nn.Module]:
        """Modules that are the layer's alone: they go where it goes."""
        parts = [getattr(block, name, None) for name in self.parts[kind]]
        return [part for part in parts if part is not None]

    def count_parameters(self, block: torch.nn.Module, kind: str) -> int:
        """Number of parameters that go with a layer where it is the first of a block to go."""
        return sum(p.numel() for m in self.modules(block, kind) for p in m.parameters())

    def has_batch_norm(self, block: torch.nn.Module, kind: str) -> bool:
        """True of a layer whose statistics are those of all utterances of the batch."""
        norm = getattr(self.module(block, kind), self.batch_norms.get(kind, ""), None)
        return isinstance(norm, BATCH_NORMS)

    def remove(self, block: torch.nn.Module, kind: str) -> None:
        """Take a layer with its pre-norm out of a block."""
        for name in self.parts[kind]:
            if getattr(block, name, None) is not None:
                setattr(block, name, None)

    # ---- how a layer is run ---------------------------------------------------------

    def scale(self, block: Any, kind: str) -> float:
        """s of ``x + s * f(x)``: 0.5 for feed-forwards in macaron style, else 1."""
        return getattr(block, "ff_scale", 1.0) if kind in ("ff", "ff_macaron") else 1.0

    def branch(
        self,
        block: Any,
        kind: str,
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor,
        with_bias: bool = True,
    ) -> torch.Tensor:
        """f(x) of ``x + s * f(x)``: pre-norm, module, dropout.

        Args:
            block: of ESPnet's encoder.
            x: ``(batch, time, dim)``.
            pos_emb: relative positions ``(1, 2 * time - 1, dim)``, or None.
            mask: True on real frames, ``(batch, 1, time)``.
            with_bias: add the bias that layers side by side share; only one of them does.
        """
        norm, module = (getattr(block, name) for name in self.parts[kind][:2])
        x = norm(x)
        if kind != "mhsa":
            return block.dropout(module(x))
        attended = attend(module, x, pos_emb, mask)
        if getattr(block, "concat_after", False):
            return block.concat_linear(torch.cat((x, attended), dim=-1))
        return block.dropout(attended)

    def together(
        self, block: Any, x: torch.Tensor, pos_emb: torch.Tensor | None, mask: torch.Tensor
    ) -> torch.Tensor:
        """The sum of the branches that stand side by side, as ESPnet computes it."""
        raise NotImplementedError

    def shared_bias(self, block: Any) -> torch.Tensor:
        """The bias that layers side by side share, ``(dim,)``."""
        raise NotImplementedError

    def after_block(self, block: Any, x: torch.Tensor) -> torch.Tensor:
        """What stands behind the layers of a block, on the residual path: its final norm."""
        norm = getattr(block, "norm_final", None)
        return x if norm is None else norm(x)

    # ---- the encoder ----------------------------------------------------------------

    def check(self, conf: Mapping[str, Any]) -> None:
        """Refuse values of ``encoder_conf`` that this block type cannot mean."""

    def prepare(self, encoder: Any, **own: Any) -> None:
        """Change ESPnet's encoder, newly built, to what ``own_keys`` ask for."""

    def layer_drop_rate(self, encoder: Any) -> float:
        """Probability with which ESPnet drops a whole block in training, without scaling.

        Of ``layer_drop_rate``, which some of ESPnet's encoders do not look at.
        """
        return 0.0


def attend(
    attention: torch.nn.Module,
    x: torch.Tensor,
    pos_emb: torch.Tensor | None,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Self-attention of ``x``, ``(batch, time, dim)``, whichever of ESPnet's it is."""
    if isinstance(attention, FastSelfAttention):
        return attention(x, mask)
    args = (mask,) if pos_emb is None else (pos_emb, mask)
    return attention(x, x, x, *args)
