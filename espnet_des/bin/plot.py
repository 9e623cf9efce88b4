"""Draw the layers a supernet keeps, its scores over training, and the WER of its sizes."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument(
        "--sizes_json", type=Path, help="of stage 16; default: sizes.json beside the config"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    return call("espnet_des.measure.pictures:plot_all", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
