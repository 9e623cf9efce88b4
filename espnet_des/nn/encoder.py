"""The supernet: an encoder that runs at several sizes, each of some of its layers."""

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch

from espnet_des.errors import ConfigError, need
from espnet_des.method.layers import Layer
from espnet_des.method.selection import Selector, SimpleTopK
from espnet_des.method.sizes import sizes_of_supernet
from espnet_des.method.state import SelectionState
from espnet_des.nn.batch_norm import FiniteBatchNorm1d, begin_as_the_full_size
from espnet_des.nn.components import count_components, shrink
from espnet_des.nn.dropout import draw_quickly
from espnet_des.nn.layered import LayeredEncoder, num_parameters
from espnet_des.nn.own_weights import OwnWeights

# What the scores of a supernet are of.
GRANULARITIES = LAYER, COMPONENT = ("layer", "component")


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
        sizes: those that are trained, ascending.
        all_sizes: those that can be set; with ``any`` they are more.
    """

    def __init__(
        self,
        input_size: int,
        *,
        sizes: Sequence[int] | str | None = None,
        smallest_size: int | None = None,
        size_step: int | None = None,
        granularity: str = LAYER,
        own_weights: bool = True,
        **conf: Any,
    ):
        super().__init__(input_size, **conf)
        draw_quickly(self)
        if granularity not in GRANULARITIES:
            raise ConfigError(
                f"encoder_conf: granularity: {granularity!r} must be one of {list(GRANULARITIES)}"
            )
        is_known = isinstance(own_weights, bool)
        need(is_known, "encoder_conf: own_weights", own_weights, "true or false")
        parts = conf.get("conv_parts", 1)
        if parts != 1 and granularity != COMPONENT:
            raise ConfigError(
                f"encoder_conf: conv_parts: {parts!r} belongs to granularity: component; "
                "leave it out"
            )
        if granularity == COMPONENT:
            self.divide([count_components(self.module_of(q)) for q in range(self.num_layers)])
        self._sizes = sizes_of_supernet(sizes, self.num_layers, smallest_size, size_step)
        self.sizes, self.all_sizes = self._sizes.anchors, self._sizes.all
        self.size = self.sizes[-1]
        # In a list: they are modules of the blocks. Each with the number of its layer.
        self._norms = [
            (q, norm) for q in range(self.num_layers) for norm in self.module_of(q).modules()
            if isinstance(norm, FiniteBatchNorm1d)
        ]  # fmt: skip
        for _, norm in self._norms:
            norm.keep_apart(self.sizes[:-1])
        self._with_statistics = set(self.sizes)
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
        runs, some = self.layers_that_run(kept)
        return {"kept_layers": sorted(runs)} | ({"kept_components": some} if some else {})

    def shares_of(self, size: int) -> dict[int, float]:
        """What a size has of what those that are trained have apart; see :class:`Sizes`."""
        return self._sizes.shares_of(size)

    def set_size(self, size: int) -> None:
        """Run at this size from now on, until it is set again."""
        if self._adds_own(self._known(size)):
            self.own.check_visible(self.encoders)  # now, not when it runs
        self.size = size

    def use_statistics_of(self, size: int) -> None:
        """Let the next run use, and in training update, BatchNorm's statistics of this size."""
        if size in self._with_statistics:
            for _, norm in self._norms:
                norm.use(self._or_none(size))
            return
        shares = self.shares_of(size)
        low, high = sorted(shares)
        of_low = set(self.kept_units(low))
        for q, norm in self._norms:
            # What the smaller one has not got there, it has no statistics of.
            of_high = [shares[high] if u in of_low else 1.0 for u in self.units_of[q]]
            norm.use_between(low, self._or_none(high), of_high)

    def keep_statistics_of(self, size: int) -> None:
        """Give a size statistics of its own, where it has a mean of others'."""
        self.use_statistics_of(size)
        if size not in self._with_statistics:
            for _, norm in self._norms:
                norm.keep_mean_as(size)
            self._with_statistics.add(size)

    def _or_none(self, size: int) -> int | None:
        """As the statistics are named: those of the full size have no number."""
        return None if size == self.num_layers else size

    def start_statistics(self) -> None:
        """Let sizes that stage 1 does not run begin with the full one's of BatchNorm."""
        for _, norm in self._norms:
            norm.copy_full_to(self.sizes[1:-1])

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
        shares = self.shares_of(size)
        owned = {z: share for z, share in shares.items() if z != self.num_layers}
        return self.own.added_to(self.encoders, owned, self._lacking(size))

    def idle_own_weights(self, sizes: Collection[int]) -> list[torch.nn.Parameter]:
        """Own weights without use in an update of these sizes: others', and of lacking layers."""
        if self.own is None:
            return []
        active = [size for size in sizes if self._adds_own(size)]
        idle = self.own.parameters_of_others(active)
        for size in active:
            idle += self.own.added_by(size, self.encoders, self._lacking(size))
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
        is_full = size == self.num_layers
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
        runs, some = self.layers_that_run(kept)
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
