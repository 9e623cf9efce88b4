"""ESPnet's encoders with the layers of one size only."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from espnet_des.errors import ConfigError
from espnet_des.method.layers import Layer
from espnet_des.nn.batch_norm import check_statistics
from espnet_des.nn.components import count_components, shrink
from espnet_des.nn.encoder_conf import PER_BLOCK, check_values
from espnet_des.nn.layered import LayeredEncoder


class SubnetEncoder(LayeredEncoder):
    """An encoder of one size, trained and used with ``model: espnet``.

    What is extracted from a supernet, and the encoder of a fair baseline: with
    all its layers it is a supernet's encoder (``input_layer: vgg``,
    ``conv_norm``, ``layer_order``) that has this size from the start.

    Args:
        input_size: number of features.
        kept_layers: their numbers in the full encoder, 0-based, ascending;
            None for all.
        kept_components: of layers that are kept in part, by their number, which components
            are, 0-based, ascending.
        num_blocks: blocks of the full encoder; of one without a layer only its
            final norm is left, where it has one.
        block_drop_rate: LayerDrop (Fan, Grave and Joulin, ICLR 2020): the probability with which
            a block is left out of a batch in training. Unlike with ESPnet's
            ``stochastic_depth_rate`` what stays is not scaled, so that a part of the blocks,
            alone, is as it was in training.
        **conf: see :class:`LayeredEncoder`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        kept_layers: Sequence[int] | None = None,
        kept_components: Mapping[int, Sequence[int]] | None = None,
        num_blocks: int = 6,
        block_drop_rate: float = 0.0,
        **conf: Any,
    ):
        values = {key: conf.pop(key) for key in PER_BLOCK if key in conf}
        exits = conf.pop("interctc_layer_idx", None) or []
        drop = {"block_drop_rate": block_drop_rate}
        check_values({"num_blocks": num_blocks, "interctc_layer_idx": exits, **drop, **values})

        def of_block(number: int) -> dict[str, Any]:
            own = {
                key: float(value[number]) if isinstance(value, (list, tuple)) else value
                for key, value in values.items()
            }
            return {"num_blocks": 1, **conf, **own}

        # Block by block: the full encoder is never allocated.
        super().__init__(input_size, **of_block(0))
        per_block = self.num_layers
        full = [Layer(b, layer.kind) for b in range(num_blocks) for layer in self.layers]
        everything = list(range(len(full)))
        kept = everything if kept_layers is None else check_kept(kept_layers, len(full))
        blocks = [self.encoders[0]]
        for number in range(num_blocks):
            if number:
                another = type(self)(input_size, **of_block(number))
                blocks.append(another.encoders[0])
            for q in range(number * per_block, (number + 1) * per_block):
                if q not in kept:
                    self.block_type.remove(blocks[number], full[q].kind)
        for q, components in (kept_components or {}).items():
            self._shrink(blocks, full, kept, q, components)
        rate = self.encoders.layer_drop_rate
        self.encoders = type(self.encoders)(*blocks, layer_drop_rate=rate)
        self.interctc_layer_idx = list(exits)
        self.block_drop_rate = block_drop_rate
        self.set_layers(self.layer_order)
        self.register_load_state_dict_pre_hook(self.before_loading)

    def _shrink(self, blocks, full: list[Layer], kept: list[int], q, components) -> None:
        """Leave some components of layer q, or say why they cannot be."""
        key = f"encoder_conf: kept_components: {q!r}: {components!r}"
        if q not in kept:
            raise ConfigError(f"{key}: must be of one of kept_layers: {kept}")
        module = self.block_type.module(blocks[full[q].block], full[q].kind)
        count = count_components(module)
        if (
            not isinstance(components, (list, tuple))
            or any(type(c) is not int or not 0 <= c < count for c in components)
            or sorted(set(components)) != list(components)
            or not 0 < len(components) < count
        ):
            raise ConfigError(
                f"{key} must be some of its components, ascending numbers from 0 to {count - 1}"
                if count > 1
                else f"{key} must be left out: a layer of the kind {full[q].kind} is whole"
            )
        shrink(module, components)

    def _draw_block(self, block: Any) -> tuple[bool, float]:
        if self.block_drop_rate and torch.rand(1).item() < self.block_drop_rate:
            return True, 1.0
        return super()._draw_block(block)

    def before_loading(self, _, state_dict, prefix, metadata, strict,
                       missing_keys, unexpected_keys, error_msgs) -> None:  # fmt: skip
        """Refuse a checkpoint of other layers.

        ESPnet's inference loads with strict=False: what is missing would silently stay
        random, what is too much silently be left out.
        """
        own = {prefix + key for key in self.state_dict()}
        check_statistics(state_dict, own)
        given = {key for key in state_dict if key.startswith(prefix)}
        for problem, keys in (("lacks", own - given), ("has besides", given - own)):
            if keys:
                error_msgs.append(
                    f"the checkpoint {problem} {len(keys)} of the encoder's weights "
                    f"({', '.join(sorted(keys)[:3])}...); use the config.yaml beside it"
                )


def check_kept(kept: Sequence[int], num_layers: int) -> list[int]:
    """Return the numbers of the kept layers, or say why they cannot be."""
    if (
        not isinstance(kept, (list, tuple))
        or any(type(q) is not int or not 0 <= q < num_layers for q in kept)
        or sorted(set(kept)) != list(kept)
    ):
        raise ConfigError(
            f"encoder_conf: kept_layers: {kept!r} must be ascending numbers "
            f"from 0 to {num_layers - 1}"
        )
    return list(kept)
