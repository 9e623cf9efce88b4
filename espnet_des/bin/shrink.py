"""Shrink a trained ESPnet model: a supernet of it, by a short training, and its sizes."""

import argparse
import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def size(word: str) -> int | str:
    return word if word == "any" else int(word)


def main() -> int:
    parser = CommandParser(
        description=__doc__,
        epilog="All other options are those of espnet2.bin.asr_train.",
        argument_default=argparse.SUPPRESS,  # the defaults are those of ShrinkOptions
    )
    add = parser.add_argument
    add("--asr_train_config", type=Path, help="config.yaml of the model")
    add("--asr_model_file", type=Path, help="its parameters")
    add("--model_file", type=Path, help="in place of both: a packed model")
    add("--output_dir", type=Path, required=True)
    add("--sizes", type=size, nargs="+",
        help="numbers of layers, the last one all of them; or: any")  # fmt: skip
    add("--share", type=float, help="of the model's own updates; 0 trains nothing")
    add("--lr_factor", type=float, help="of the model's own highest learning rate")
    add("--rank_by", help="loss, angle or greedy (before the training), or scores (learned)")
    add(
        "--start_by", help="with scores, the order that they start from: loss, angle or greedy"
    )
    add("--conv_norm", help="of what had BatchNorm: batch_norm, or layer_norm")
    add("--teacher", type=float, help="weight of what the model itself teaches; or 0")
    add("--calibration", type=int, help="utterances that the layers are ranked by")
    options, training = parser.parse_known_args()
    return call("espnet_des.recipe.shrink:shrink", vars(options) | {"training": training})


if __name__ == "__main__":
    sys.exit(main())
