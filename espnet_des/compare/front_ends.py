"""Front ends, which bound the speed of small sizes: a supernet, and the full encoder alone.

The supernet says the recipe's own tokens, behind front ends with a factor of 4. The full encoder
says longer ones, which leaves a factor of 8 enough frames. It has early exits, as a supernet has
by default: a deep encoder begins to learn late without them.
"""

from espnet_des.compare.systems import OTHER_TOKENS, Config, System, aux_loss, supernet
from espnet_des.nn.front_end import KINDS_WITH

# Eight times fewer frames than features are fewer than characters: CTC needs longer units.
PIECES = {"token_type": "bpe", "nbpe": 90}
CONV2D, DW_SUPERNET = "conv2d", "supernet_dw_striding_4"


def front_ends(base: Config) -> list[System]:
    """ESPnet's front ends and FastConformer's, with as many channels as conv2d has."""
    channels, sizes = base["encoder_conf"]["output_size"], base["encoder_conf"]["sizes"]
    systems = []

    def behind(config: Config, input_layer: str, **conf) -> Config:
        kept = {k: v for k, v in config["encoder_conf"].items() if k not in KINDS_WITH}
        return config | {"encoder_conf": kept | {"input_layer": input_layer} | conf}

    supernets = [
        System("simple_top_k", "Simple-Top-k, conv2d", lambda b, s, k: supernet(b), sizes),
        System(DW_SUPERNET, "Simple-Top-k, dw_striding by 4",
               lambda b, s, k: behind(supernet(b), "dw_striding",
                                      subsampling_channels=channels), sizes),
    ]  # fmt: skip

    def ask(name: str, title: str, input_layer: str, **conf) -> None:
        def config(b: Config, seed: int, k: None) -> Config:
            return behind(aux_loss(b) | {OTHER_TOKENS: PIECES}, input_layer, **conf)

        systems.append(System(name, title, config, sizes))

    ask(CONV2D, "conv2d", "conv2d")
    ask("conv2d_narrow", f"conv2d, {channels // 3} channels", "conv2d",
        subsampling_channels=channels // 3)  # fmt: skip
    ask("vgg", "VGG", "vgg")
    for factor in (4, 8):
        ask(f"dw_striding_{factor}", f"dw_striding by {factor}", "dw_striding",
            subsampling_factor=factor, subsampling_channels=channels)  # fmt: skip
    return supernets + systems
