"""Show what every size of a trained supernet costs: parameters, MACs, memory, time."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument(
        "--asr_model_file",
        type=Path,
        required=True,
        help="of a supernet, an extracted size or a stock encoder",
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="takes report.md and report.json"
    )
    parser.add_argument(
        "--stock_blocks",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="also ESPnet's own encoders of so many blocks, such as 4 8 12",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the audio")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each model")
    return call("espnet_des.measure.report:report", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
