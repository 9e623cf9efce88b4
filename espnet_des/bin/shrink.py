"""Shrink a trained ESPnet model: a supernet of it, by a short training, and its sizes."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def size(word: str) -> int | str:
    return word if word == "any" else int(word)


def main() -> int:
    parser = CommandParser(
        description=__doc__, epilog="All other options are those of espnet2.bin.asr_train."
    )
    parser.add_argument("--asr_train_config", type=Path, help="config.yaml of the model")
    parser.add_argument("--asr_model_file", type=Path, help="its parameters")
    parser.add_argument("--model_file", type=Path, help="in place of both: a packed model")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--sizes",
        type=size,
        nargs="+",
        help="numbers of layers, the last one all of them; or: any",
    )
    parser.add_argument(
        "--share", type=float, default=0.2, help="of the model's own updates; 0 trains nothing"
    )
    parser.add_argument(
        "--lr_factor", type=float, default=1.0, help="of the model's own highest learning rate"
    )
    parser.add_argument(
        "--rank_by",
        default="scores",
        help="scores (learned), angle or loss (without training)",
    )
    parser.add_argument("--start_by", help="angle or loss: what order the scores start from")
    parser.add_argument(
        "--conv_norm", default="layer_norm", help="in place of BatchNorm; or: batch_norm"
    )
    parser.add_argument(
        "--teacher",
        type=float,
        default=0.3,
        help="weight of what the model itself teaches; or 0",
    )
    parser.add_argument(
        "--calibration", type=int, default=200, help="utterances that layers are ranked by"
    )
    options, training = parser.parse_known_args()
    return call("espnet_des.recipe.shrink:shrink", vars(options) | {"training": training})


if __name__ == "__main__":
    sys.exit(main())
