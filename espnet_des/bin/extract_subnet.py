"""Extract one size of a trained supernet as a model of its own."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--size", type=int, help="number of layers; or one of the budgets")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--recalibrate_scp", type=Path,
        help="audio to estimate this size's BatchNorm statistics with",
    )  # fmt: skip
    parser.add_budgets()
    parser.add_argument(
        "--file_size", help="the largest size whose model file is within it, such as 4MB"
    )
    return call("espnet_des.deploy.budget:extract_within", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
