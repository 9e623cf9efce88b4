"""Measure what an update costs on two processes, by when gradients are handed over."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_blocks", type=int, default=12, help="a multiple of 3")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each utterance")
    parser.add_argument("--utterances", type=int, default=2, help="in each process")
    parser.add_argument("--rounds", type=int, default=7)
    return call(
        "espnet_des.measure.benchmark.ranks:benchmark_ranks", vars(parser.parse_args())
    )


if __name__ == "__main__":
    sys.exit(main())
