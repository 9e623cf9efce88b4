"""The encoders that have a supernet form, by their names in a config.

To add one: a file in ``nn/blocks``, and its line in ``BLOCK_TYPES``.
"""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from espnet_des.errors import ConfigError
from espnet_des.method.sizes import KEYS_OF_SIZES
from espnet_des.nn.blocks.base import BlockType
from espnet_des.nn.blocks.branchformer import Branchformer
from espnet_des.nn.blocks.conformer import Conformer
from espnet_des.nn.blocks.e_branchformer import EBranchformer
from espnet_des.nn.blocks.multiconv_conformer import MultiConvConformer
from espnet_des.nn.blocks.transformer import Transformer
from espnet_des.nn.encoder import SupernetEncoder
from espnet_des.nn.front_end import OWN_KEYS
from espnet_des.nn.layered import LayeredEncoder
from espnet_des.nn.subnet import SubnetEncoder
from espnet_des.utils.signature import combined

# By the names that ESPnet gives them.
BLOCK_TYPES: dict[str, BlockType] = {
    "conformer": Conformer(),
    "transformer": Transformer(),
    "branchformer": Branchformer(),
    "e_branchformer": EBranchformer(),
    "multiconv_conformer": MultiConvConformer(),
}


def _encoder(base: type[LayeredEncoder], kind: BlockType, name: str) -> Any:
    """A class with the layers of a block type: ours, and ESPnet's behind it."""
    own = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value)
        for key, value in (kind.own_keys | OWN_KEYS).items()
    ]
    _, *arguments = combined(base.__init__, own, kind.stock).parameters.values()
    members = {
        "block_type": kind,
        "__signature__": inspect.Signature(arguments),
        "__doc__": base.__doc__,
        "__module__": __name__,
    }
    return type(name, (base, kind.stock), members)


SUPERNETS: dict[str, Any] = {
    f"des_{name}": _encoder(SupernetEncoder, kind, f"DES{kind.stock.__name__}")
    for name, kind in BLOCK_TYPES.items()
}
SUBNETS: dict[str, Any] = {
    f"des_{name}_subnet": _encoder(SubnetEncoder, kind, f"Subnet{kind.stock.__name__}")
    for name, kind in BLOCK_TYPES.items()
}
DESConformerEncoder = SUPERNETS["des_conformer"]
SubnetConformerEncoder = SUBNETS["des_conformer_subnet"]


def stock_name(encoder: Any) -> str | None:
    """What ESPnet calls the encoder that this one is a form of, or None.

    Args:
        encoder: of a config: a supernet, one size of it, or ESPnet's own.
    """
    if encoder in SUPERNETS or encoder in SUBNETS:
        return encoder.removeprefix("des_").removesuffix("_subnet")
    return encoder if encoder in BLOCK_TYPES else None


def check_swap(encoder: str, conf: Mapping[str, Any]) -> None:
    """See that a swapped name in a config means the encoder that was there before.

    Args:
        encoder: one of ``SUPERNETS``.
        conf: its ``encoder_conf``.

    Raises:
        ConfigError: where the keys are those of another encoder.
    """
    own = inspect.signature(SUPERNETS[encoder]).parameters
    foreign = [key for key in conf if key not in own]
    for name, cls in SUPERNETS.items() if foreign else ():
        if conf.keys() <= inspect.signature(cls).parameters.keys():
            raise ConfigError(
                f"encoder_conf: {foreign[0]}: {conf[foreign[0]]!r} is no key of {encoder}; "
                f"these are the keys of {name.removeprefix('des_')}: use encoder: {name}"
            )
    stock = inspect.signature(BLOCK_TYPES["transformer"].stock).parameters
    of_both = {*stock, *KEYS_OF_SIZES, *OWN_KEYS}
    if encoder == "des_conformer" and conf and conf.keys() <= of_both:
        logging.warning(
            "encoder_conf has no key that only a Conformer has. If this was a config with "
            "encoder: transformer, use encoder: des_transformer: with des_conformer its "
            "blocks have a convolution, too"
        )
