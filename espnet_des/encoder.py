"""The supernet: ESPnet's Conformer encoder, of which any layers can be kept.

    encoder: des_conformer
    encoder_conf:
        sizes: [16, 32, 48]   # the rest as for encoder: conformer

Source: Xu et al., Interspeech 2024. Layers are residual modules, not blocks;
a block's final layer norm and the subsampling front end are always kept.
"""

from typing import List, Optional, Sequence

import torch

from espnet_des.layered import LayeredConformerEncoder
from espnet_des.layers import modules
from espnet_des.options import ConfigError, check_sizes
from espnet_des.selection import SimpleTopK
from espnet_des.signature import merge_signature
from espnet_des.state import SelectionState


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

    REFUSED = LayeredConformerEncoder.REFUSED | {
        "interctc_layer_idx": ([], "use sizes: every size has a CTC loss of its own"),
    }

    def __init__(
        self,
        input_size: int,
        *,
        sizes: Optional[Sequence[int]] = None,
        layer_order: str = "espnet",
        **conformer,
    ):
        super().__init__(input_size, layer_order=layer_order, **conformer)
        self.sizes = check_sizes(sizes, self.num_layers)
        self.size = self.sizes[-1]
        self.scores = torch.nn.Parameter(torch.full((self.num_layers,), 0.5))
        self.selection = SelectionState(self.sizes, layer_order)
        # How scores are read while stage 1 has not ended; the model sets it.
        self.selector = SimpleTopK()

    def ranking(self) -> List[int]:
        """All layers (0-based), most important first; final in stage 2."""
        if self.selection.is_frozen:
            return self.selection.frozen_ranking()
        scores = self.scores.detach().cpu()
        if self.selection.score_sum.any():  # their mean will decide, as in the tracker
            scores = self.selection.score_sum
        return self.selector.ranking(scores, self.selection.record).tolist()

    def kept_layers(self, size: int) -> List[int]:
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

    def active_layers(self) -> Optional[Sequence[int]]:
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
