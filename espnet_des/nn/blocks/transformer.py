"""ESPnet's Transformer: self-attention, then a feed-forward."""

from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet_des.nn.blocks.base import BlockType


class Transformer(BlockType):
    """Blocks of two layers, without a norm behind them."""

    stock = TransformerEncoder
    orders = {"espnet": ("mhsa", "ff")}
    parts = {
        "mhsa": ("norm1", "self_attn", "concat_linear"),
        "ff": ("norm2", "feed_forward"),
    }
