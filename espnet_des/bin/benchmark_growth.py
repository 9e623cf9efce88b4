"""Measure how the cost of an update grows with sizes, depth and length."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--input_layer", choices=("conv2d", "vgg", "dw_striding"), default="conv2d"
    )
    parser.add_argument("--dim", type=int, default=144)
    parser.add_argument("--sizes", type=int, nargs="+", default=(2, 3, 4, 6), help="how many")
    parser.add_argument("--blocks", type=int, nargs="+", default=(12, 24, 48))
    parser.add_argument("--seconds", type=float, nargs="+", default=(2.0, 5.0, 10.0, 20.0))
    parser.add_argument("--utterances", type=int, default=4, help="in the batch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = vars(parser.parse_args())
    return call("espnet_des.measure.benchmark.growth:benchmark_growth", arguments)


if __name__ == "__main__":
    sys.exit(main())
