"""One CTC output layer per size, behind the name of ESPnet's single one."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from espnet2.asr.ctc import CTC
from espnet_des.nn.encoder import SupernetEncoder


class SizedLinear(torch.nn.Linear):
    """ESPnet's ``ctc.ctc_lo`` for the full size, and one more for each smaller.

    It takes the place of ``ctc.ctc_lo``, so that losses, best-path decoding and
    the scorers of beam search, which keep a reference to ``ctc``, all use the
    output layer of the encoder's current size.

    Args:
        full: the stock output layer; its parameters are taken over.
        encoder: the supernet, asked for its sizes and its current size.
        shared: one output layer for all sizes.
    """

    def __init__(self, full: torch.nn.Linear, encoder: SupernetEncoder, shared: bool = False):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = full.in_features, full.out_features
        self.weight, self.bias = full.weight, full.bias
        self.heads = torch.nn.ModuleDict(
            {
                f"size{size}": torch.nn.Linear(full.in_features, full.out_features)
                for size in ([] if shared else encoder.sizes[:-1])
            }
        )
        # In a tuple: the encoder is a neighbour, not a submodule.
        self._encoder = (encoder,)
        self.copy_full_to(encoder.sizes)
        self.register_load_state_dict_pre_hook(self.before_loading)

    def copy_full_to(self, sizes: Sequence[int]) -> None:
        """Let these sizes go on from the full size's output layer."""
        for size in sizes:
            if (layer := self._of_anchor(size)) is not self:
                layer.load_state_dict({"weight": self.weight, "bias": self.bias})

    def of_size(self, size: int) -> torch.nn.Module:
        """That of a size, which is the full one's where all share it.

        A size between two that have one has a mean of theirs.
        """
        shares = self._encoder[0].shares_of(size) if self.heads else {size: 1.0}
        layers = [self._of_anchor(anchor) for anchor in shares]
        if len(layers) == 1:
            return layers[0]
        low, high = (_FullSize(layer) if layer is self else layer for layer in layers)
        return _Mean(low, high, shares[max(shares)])

    def _of_anchor(self, size: int) -> torch.nn.Module:
        name = f"size{size}"
        return self.heads[name] if name in self.heads else self  # noqa: SIM401 (no get)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, time, dim)`` to logits ``(batch, time, vocab)``."""
        layer = self.of_size(self._encoder[0].size)
        return super().forward(x) if layer is self else layer(x)

    def parameters_of_others(self, sizes: list[int]) -> list[torch.nn.Parameter]:
        """Parameters of the output layers that none of these sizes trains."""
        used = {f"size{size}" for size in sizes}
        return [
            p
            for name, head in self.heads.items()
            if name not in used
            for p in head.parameters()
        ]

    def before_loading(self, _, state_dict, prefix, *rest) -> None:
        """Let the sizes that a checkpoint does not bring follow the one that it brings.

        A stock checkpoint has one output layer. After the first update they are what
        they have learned. (The encoder is loaded first.)
        """
        is_new = not self._encoder[0].selection.updates
        for name, head in self.heads.items() if is_new else ():
            for part in ("weight", "bias"):
                key, mine = f"{prefix}heads.{name}.{part}", getattr(head, part)
                loaded = state_dict.get(prefix + part)
                untouched = torch.equal(mine, getattr(self, part)) and torch.equal(
                    state_dict.get(key, mine).to(mine), mine
                )
                if loaded is not None and untouched:
                    state_dict[key] = loaded


def ctc_of_size(ctc: CTC, size: int) -> CTC:
    """ESPnet's CTC with the output layer of one size, which it shares with ``ctc``.

    Args:
        ctc: its ``ctc_lo`` is a :class:`SizedLinear`.
        size: of the supernet, whichever is set there.
    """
    layer = ctc.ctc_lo.of_size(size)
    if layer is ctc.ctc_lo:  # its forward would ask for the size that is set
        layer = _FullSize(layer)
    # Nothing but the output layer has parameters: the rest of the copy costs nothing.
    return copy.deepcopy(ctc, {id(ctc.ctc_lo): layer})


class _Mean(torch.nn.Module):
    """An output layer between two others, with a share of each."""

    def __init__(self, low: Any, high: Any, of_high: float):
        super().__init__()
        self._layers, self._of_high = (low, high), of_high  # neighbours, not submodules

    @property
    def weight(self) -> torch.Tensor:
        return self._between(*(layer.weight for layer in self._layers))

    @property
    def bias(self) -> torch.Tensor:
        return self._between(*(layer.bias for layer in self._layers))

    def _between(self, low, high) -> torch.Tensor:
        return torch.lerp(low, high, self._of_high)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if all(isinstance(layer, (torch.nn.Linear, _FullSize)) for layer in self._layers):
            return torch.nn.functional.linear(x, self.weight, self.bias)
        # Quantised, and torch hides their weights.
        return self._between(*(layer(x) for layer in self._layers))


class _FullSize(torch.nn.Module):
    """The full size's part of a :class:`SizedLinear`."""

    def __init__(self, shared: SizedLinear):
        super().__init__()
        self._shared = (shared,)  # in a tuple: a neighbour, not a submodule

    @property
    def weight(self) -> torch.Tensor:
        return self._shared[0].weight

    @property
    def bias(self) -> torch.Tensor:
        return self._shared[0].bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)
