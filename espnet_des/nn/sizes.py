"""Sizes of a loaded model, whichever it is: supernet, extracted size or stock."""

import numbers
from typing import Any

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.errors import ConfigError
from espnet_des.method.layers import Layer
from espnet_des.nn.encoders import BLOCK_TYPES
from espnet_des.nn.layered import LayeredEncoder
from espnet_des.nn.model import DESModel


def is_supernet(model: ESPnetASRModel) -> bool:
    """True of a model that can run at several sizes."""
    return isinstance(model, DESModel)


def layers_of(encoder: Any) -> list[Layer]:
    """Layers of an encoder that has a supernet form, ours or ESPnet's; of others none."""
    if isinstance(encoder, LayeredEncoder):
        return encoder.layers
    for kind in BLOCK_TYPES.values():
        if isinstance(encoder, kind.stock):
            blocks: Any = encoder.encoders
            return kind.layers(blocks)
    return []


def sizes_of(model: ESPnetASRModel) -> list[int]:
    """Numbers of layers at which a model can run, ascending.

    A model that is no supernet has one, its own number of layers; none where
    nothing is known of the encoder's blocks.
    """
    if is_supernet(model):
        return list(model.encoder.all_sizes)
    layers = layers_of(getattr(model, "encoder", None))  # of several models none
    return [len(layers)] if layers else []


def set_size(model: ESPnetASRModel, size: int | None) -> None:
    """Run a model at a size from now on.

    Args:
        model: an ESPnet ASR model.
        size: number of layers; None for the full size of a supernet, and for
            a model that has one size only.

    Raises:
        ConfigError: where the model cannot run at this size.
    """
    sizes, name = sizes_of(model), type(getattr(model, "encoder", model)).__name__
    if size is None:
        if is_supernet(model):
            model.set_size(sizes[-1])
        return
    # A float that equals a size would pass as one, and choose the wrong output layer.
    is_integer = isinstance(size, numbers.Integral) and not isinstance(size, bool)
    if is_integer and size in sizes:
        size = int(size)
    elif is_supernet(model):
        raise ConfigError(f"size: {size!r} must be one of {sizes}")
    else:
        only = f"of {sizes[0]} layers only" if sizes else "of one size only"
        right = f"leave size out, or give {sizes[0]}" if sizes else "leave size out"
        raise ConfigError(
            f"size: {size!r} cannot be set: this is a model {only} ({name}), no supernet; "
            f"{right}"
        )
    if not is_supernet(model):
        return
    if size != sizes[-1] and not model.state.is_frozen:
        raise ConfigError(
            f"size: {size} cannot be set: the model is of stage 1, in which its layers are "
            "not chosen yet; use a file of a stage-2 epoch (valid.*.ave.pth is one)"
        )
    model.set_size(size)
