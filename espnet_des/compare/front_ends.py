"""Front ends, which bound the speed of small sizes: a supernet behind each of them.

Behind a factor of 4 it says the recipe's own tokens. A factor of 8 leaves fewer frames than
there are characters, and CTC needs one for each: there it has two frames of output for each, or
says whole words, as others do beside it.
"""

from pathlib import Path

from espnet_des.compare.equal_macs import at_equal_macs, macs
from espnet_des.compare.systems import OTHER_TOKENS, STK, Config, System, supernet
from espnet_des.compare.tables import Table
from espnet_des.nn.front_end import OWN_KEYS

WORDS = {"token_type": "word"}
CONV2D_WORDS = "supernet_conv2d_words"
# The cheapest by 4, at whose costs the sizes behind a factor of 8 are.
NARROW = "supernet_dw_striding_4_narrow"


def front_ends(base: Config) -> list[System]:
    """ESPnet's front ends, conv2d first, and FastConformer's with as many channels as that has.

    The one that the recipe's config has is a training of the comparison.
    """
    channels, sizes = base["encoder_conf"]["output_size"], base["encoder_conf"]["sizes"]

    def system(name: str, title: str, tokens: Config, input_layer: str, **conf) -> System:
        def config(b: Config, seed: int, k: None) -> Config:
            other = {OTHER_TOKENS: tokens} if tokens else {}
            return behind(supernet(b), input_layer, **conf) | other

        return System(name, f"Simple-Top-k, {title}", config, sizes)

    def by(factor: int) -> Config:
        return {"subsampling_factor": factor, "subsampling_channels": channels}

    systems = [
        system("supernet_conv2d", "conv2d", {}, "conv2d"),
        system("supernet_conv2d_narrow", f"conv2d, {channels // 3} channels", {}, "conv2d",
               subsampling_channels=channels // 3),
        system("supernet_vgg", "VGG", {}, "vgg"),
        system("supernet_dw_striding_4", "dw_striding by 4", {}, "dw_striding",
               subsampling_channels=channels),
        system(NARROW, f"dw_striding by 4, {channels // 4} channels", {},
               "dw_striding", subsampling_channels=channels // 4),
        system("supernet_dw_striding_8_upsampled", "dw_striding by 8, upsampled by 2", {},
               "dw_striding", upsampling_factor=2, **by(8)),
        system(CONV2D_WORDS, "conv2d, words", WORDS, "conv2d"),
        system("supernet_dw_striding_4_words", "dw_striding by 4, words", WORDS, "dw_striding",
               **by(4)),
        system("supernet_dw_striding_8_words", "dw_striding by 8, words", WORDS, "dw_striding",
               **by(8)),
    ]  # fmt: skip
    return [
        s._replace(name=STK, config=lambda b, seed, k: supernet(b))
        if s.config(base, 0, None) == supernet(base) else s
        for s in systems
    ]  # fmt: skip


def behind(config: Config, input_layer: str, **conf) -> Config:
    """A config with another front end."""
    kept = {k: v for k, v in config["encoder_conf"].items() if k not in OWN_KEYS}
    return config | {"encoder_conf": kept | {"input_layer": input_layer} | conf}


def front_end_tables(table: Table) -> dict[str, str]:
    first, of_words = next(iter(table.groups)), groups_of_words(table)
    others = [group for group in table.groups if group not in (first, *of_words)]
    return {
        "Word error rates": table.error_rates(),
        "Differences to conv2d": table.differences(first, others),
        "Differences at equal MACs (between two of its sizes a straight line, which is up to 5% "
        "too high)": at_equal_macs(table, NARROW, [first, *others], table.sizes),
        "Differences to conv2d, where the tokens are words": table.differences(
            CONV2D_WORDS, [group for group in of_words if group != CONV2D_WORDS]
        ),
        "Clean and noisy": table.rates_by_set(),
        "MACs": macs(table),
        "Parameters": table.parameters(),
        "Cost": table.costs(),
    }


def draw_front_ends(table: Table, base: Config, folder: Path) -> None:
    from espnet_des.plot.rates import draw_rates_by_cost
    from espnet_des.plot.style import save

    first = next(iter(table.groups))
    save(draw_rates_by_cost(table, first, groups_of_words(table)), folder / "front_ends.png")


def groups_of_words(table: Table) -> list[str]:
    return [group for group in table.groups if group.endswith("_words")]
