"""An early exit of an encoder with auxiliary losses, as a model of its own."""

import copy

from espnet2.asr.espnet_model import ESPnetASRModel


def exit_of(model: ESPnetASRModel, size: int) -> ESPnetASRModel:
    """The model whose encoder ends after ``size`` layers.

    Exact: ESPnet's interctc passes the output of a block through the last norm and the
    one CTC output layer, as the end of the encoder.

    Args:
        model: an ESPnet model with a subnet encoder of whole blocks, whose exits are normalised.
        size: number of layers; whole blocks.
    """
    per_block = model.encoder.num_layers // len(model.encoder.encoders)
    blocks, rest = divmod(size, per_block)
    if rest or not 0 < blocks <= len(model.encoder.encoders):
        raise ValueError(f"size {size} is not a number of whole blocks of this encoder")
    model = copy.deepcopy(model)
    encoder = model.encoder
    encoder.encoders = type(encoder.encoders)(*list(encoder.encoders)[:blocks])
    encoder.interctc_layer_idx = []
    encoder.set_layers(encoder.layer_order)
    return model
