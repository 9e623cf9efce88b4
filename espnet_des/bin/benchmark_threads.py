"""Time a small training with one and several threads, alone and beside busy programs."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2, help="of a training with several")
    parser.add_argument("--busy", type=int, default=2, help="other programs")
    parser.add_argument("--rounds", type=int, default=7)
    return call(
        "espnet_des.measure.benchmark.threads:benchmark_threads", vars(parser.parse_args())
    )


if __name__ == "__main__":
    sys.exit(main())
