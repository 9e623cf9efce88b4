"""Values of ``encoder_conf`` that ESPnet would meet deep inside, or not at all."""

import inspect
from collections.abc import Mapping
from typing import Any

from espnet_des.errors import ConfigError, is_number
from espnet_des.nn.front_end import check_front_end

COUNTS = (
    "output_size", "attention_heads", "linear_units", "num_blocks", "cnn_module_kernel",
    "max_pos_emb_len", "cgmlp_linear_units", "cgmlp_conv_kernel", "merge_conv_kernel",
)  # fmt: skip
DROPOUTS = (
    "dropout_rate", "positional_dropout_rate", "attention_dropout_rate", "layer_drop_rate"
)  # fmt: skip

# Keys that may have a value for each block.
PER_BLOCK = ("stochastic_depth_rate", "cgmlp_weight", "attn_branch_drop_rate")


def check_keys(encoder: Any, conf: Mapping[str, Any]) -> None:
    """Refuse keys that an encoder does not have, and what it cannot mean.

    Args:
        encoder: a class of ``nn/encoders.py``.
        conf: what it is to be built with.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    kind, known = encoder.block_type, inspect.signature(encoder).parameters
    for key in conf:
        if key not in known:
            raise ConfigError(
                f"encoder_conf: {key}: {conf[key]!r} is unknown; "
                f"the encoder takes {list(known)}"
            )
    for key, (right, why) in kind.refused.items():
        if conf.get(key, right) != right:
            raise ConfigError(
                f"encoder_conf: {key}: {conf[key]!r} cannot be meant "
                f"here ({why}); leave it at {right!r}"
            )
    values = {key: conf.get(key, p.default) for key, p in known.items()}
    order = values.get("layer_order", "espnet")
    if not isinstance(order, str) or order not in kind.orders:
        raise ConfigError(
            f"encoder_conf: layer_order: {order!r} must be one of {list(kind.orders)}"
        )
    kind.check(values)
    check_front_end(values)
    check_values(values)


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse what no encoder can be built with.

    Args:
        values: of the encoder's keys; of those that are not there nothing is checked.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """

    def need(ok: bool, key: str, right: str):
        if not ok:
            raise ConfigError(f"encoder_conf: {key}: {values[key]!r} must be {right}")

    for key in COUNTS:
        if key in values:
            need(type(values[key]) is int and values[key] > 0, key, "an integer above 0")
    for key in DROPOUTS:
        if key in values:
            need(is_number(values[key]) and 0 <= values[key] <= 1, key, "from 0 to 1")
    if "block_drop_rate" in values:
        rate = values["block_drop_rate"]
        need(is_number(rate) and 0 <= rate < 1, "block_drop_rate", "from 0 to less than 1")
    if "stochastic_depth_rate" in values:
        rates, num_blocks = values["stochastic_depth_rate"], values["num_blocks"]
        is_list = isinstance(rates, (list, tuple)) and len(rates) == num_blocks
        need(
            (is_list or isinstance(rates, float))
            and all(is_number(r) and 0 <= r < 1 for r in (rates if is_list else [rates])),
            "stochastic_depth_rate",
            f"a fraction such as 0.0 or 0.1, or a list of {num_blocks}, one for each block",
        )
    if "interctc_layer_idx" in values:
        exits, last = values["interctc_layer_idx"] or [], values["num_blocks"] - 1
        need(
            isinstance(exits, (list, tuple))
            and len(set(map(str, exits))) == len(exits)
            and all(type(n) is int and 0 < n <= last for n in exits),
            "interctc_layer_idx",
            f"a list of different numbers of blocks, from 1 to {last}, or []",
        )
    if {"output_size", "attention_heads"} <= values.keys():
        heads = values["attention_heads"]
        # Half of the positions' values are sines, half are cosines.
        fits = values["output_size"] % heads == 0 == values["output_size"] % 2
        need(fits, "output_size", f"even, and a multiple of attention_heads: {heads}")
    if "conv_parts" in values:
        parts, dim = values["conv_parts"], values["output_size"]
        divides = type(parts) is int and parts > 0 and dim % parts == 0
        need(
            divides, "conv_parts", f"a number of parts into which output_size, {dim}, divides"
        )
        fits = parts == 1 or values["conv_norm"] == "batch_norm"
        need(fits, "conv_parts", "1 with conv_norm: layer_norm, which is over all channels")
    for key in ("cgmlp_conv_kernel", "merge_conv_kernel"):
        if key in values:
            need(values[key] % 2 == 1, key, "odd")
    if "cgmlp_linear_units" in values:
        need(
            values["cgmlp_linear_units"] % 2 == 0, "cgmlp_linear_units", "even: half are gates"
        )
    if values.get("use_cnn_module") and "cnn_module_kernel" in values:
        need(values["cnn_module_kernel"] % 2 == 1, "cnn_module_kernel", "odd")
    # Conformers and Branchformers name it in two ways; the Transformer has one kind only.
    names = {"selfattention_layer_type", "attention_layer_type"} & values.keys()
    for key in names if "pos_enc_layer_type" in values else ():
        kind = str(values[key])
        is_relative = "rel_pos" in str(values["pos_enc_layer_type"])
        need(
            is_relative == ("rel_selfattn" in kind),
            "pos_enc_layer_type",
            f"rel_pos with {key}: rel_selfattn, abs_pos with selfattn; it is {kind}",
        )
