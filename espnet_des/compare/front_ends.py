"""Front ends, which bound the speed of small sizes: the full encoder behind each of them.

With early exits, which a supernet has by default: a deep encoder begins to learn late without
them, and behind a front end with a factor of 8 too late for few updates.
"""

from espnet_des.compare.systems import OTHER_TOKENS, Config, System, aux_loss
from espnet_des.nn.front_end import KINDS_WITH

# Eight times fewer frames than features are fewer than characters: CTC needs longer units.
PIECES = {"token_type": "bpe", "nbpe": 90}
CONV2D = "conv2d"


def front_ends(base: Config) -> list[System]:
    """ESPnet's front ends and FastConformer's, with as many channels as conv2d has."""
    channels, sizes = base["encoder_conf"]["output_size"], base["encoder_conf"]["sizes"]
    systems = []

    def ask(name: str, title: str, input_layer: str, **conf) -> None:
        def config(b: Config, seed: int, k: None) -> Config:
            found = aux_loss(b) | {OTHER_TOKENS: PIECES}
            kept = {k: v for k, v in found["encoder_conf"].items() if k not in KINDS_WITH}
            found["encoder_conf"] = kept | {"input_layer": input_layer} | conf
            return found

        systems.append(System(name, title, config, sizes))

    ask(CONV2D, "conv2d", "conv2d")
    ask("conv2d_narrow", f"conv2d, {channels // 3} channels", "conv2d",
        subsampling_channels=channels // 3)  # fmt: skip
    ask("vgg", "VGG", "vgg")
    for factor in (4, 8):
        ask(f"dw_striding_{factor}", f"dw_striding by {factor}", "dw_striding",
            subsampling_factor=factor, subsampling_channels=channels)  # fmt: skip
    return systems
