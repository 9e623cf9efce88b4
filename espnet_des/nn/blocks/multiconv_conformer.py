"""ESPnet's Multi-Convolution Conformer: a cgMLP of several kernels in the convolution's place."""

from espnet2.asr.encoder.multiconvformer_encoder import MultiConvConformerEncoder
from espnet_des.nn.blocks.base import BlockType
from espnet_des.nn.blocks.conformer import Conformer


class MultiConvConformer(Conformer):
    """Its convolution has a layer norm of its own: there is no ``conv_norm``."""

    stock = MultiConvConformerEncoder
    own_keys = {"layer_order": "espnet"}
    check = BlockType.check
    prepare = BlockType.prepare

    def layer_drop_rate(self, encoder):
        # ESPnet runs the blocks one by one where there are exits, and then drops none.
        return 0.0 if encoder.interctc_layer_idx else encoder.encoders.layer_drop_rate
