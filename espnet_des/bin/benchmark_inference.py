"""Time extracted sizes beside stock ESPnet, and int8 ONNX beside PyTorch."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_blocks", type=int, default=12, help="a multiple of 6")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--neighbours", type=int, default=0,
                        help="as many rounds again, beside so many busy programs")  # fmt: skip
    return call(
        "espnet_des.measure.benchmark.inference:benchmark_inference", vars(parser.parse_args())
    )


if __name__ == "__main__":
    sys.exit(main())
