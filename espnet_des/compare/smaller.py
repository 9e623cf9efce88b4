"""Some blocks of a trained encoder: an early exit, or what is left of LayerDrop."""

import copy

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.compare.systems import even_ranking


def smaller(model: ESPnetASRModel, size: int) -> ESPnetASRModel:
    """The model with some of its blocks: the first ones where it has exits, else every other.

    The first are exact: ESPnet's interctc passes the output of a block through the last norm and
    the one CTC output layer, as the end of the encoder. Every other one, at equal distances, is
    how LayerDrop is pruned (Fan et al. 2020).

    Args:
        model: an ESPnet model with a subnet encoder of whole blocks; its exits, where it has
            some, are normalised.
        size: number of layers; whole blocks.
    """
    encoder = model.encoder
    total = len(encoder.encoders)
    blocks, rest = divmod(size, encoder.num_layers // total)
    if rest or not 0 < blocks <= total:
        raise ValueError(f"size {size} is not a number of whole blocks of this encoder")
    if encoder.interctc_layer_idx:
        kept = list(range(blocks))
    else:
        kept = sorted(even_ranking([blocks, total])[:blocks])
    model = copy.deepcopy(model)
    encoder = model.encoder
    encoder.encoders = type(encoder.encoders)(*(encoder.encoders[n] for n in kept))
    encoder.interctc_layer_idx = []
    encoder.set_layers(encoder.layer_order)
    return model
