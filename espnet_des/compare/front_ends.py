"""Front ends, which bound the speed of small sizes: the full encoder behind each of them."""

from espnet_des.compare.run import OTHER_TOKENS
from espnet_des.compare.systems import Config, System, single

# Eight times fewer frames than features are fewer than characters: CTC needs longer units.
PIECES = {"token_type": "bpe", "nbpe": 90}
CONV2D = "conv2d"


def front_ends(base: Config) -> list[System]:
    """ESPnet's front ends and FastConformer's, with as many channels as conv2d has."""
    channels = base["encoder_conf"]["output_size"]
    systems = []

    def ask(name: str, title: str, input_layer: str, **conf) -> None:
        conf = {"input_layer": input_layer} | conf
        systems.append(
            System(name, title, lambda b, s, k: single(b, **conf) | {OTHER_TOKENS: PIECES},
                   base["encoder_conf"]["sizes"][-1:])
        )  # fmt: skip

    ask(CONV2D, "conv2d", "conv2d")
    ask("conv2d_narrow", f"conv2d, {channels // 3} channels", "conv2d",
        subsampling_channels=channels // 3)  # fmt: skip
    ask("vgg", "VGG", "vgg")
    for factor in (4, 8):
        ask(f"dw_striding_{factor}", f"dw_striding by {factor}", "dw_striding",
            subsampling_factor=factor, subsampling_channels=channels)  # fmt: skip
    return systems
