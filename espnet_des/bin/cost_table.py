"""Measure what a layer of each kind costs on this machine, for budgets of time."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True, help="of a supernet")
    parser.add_argument("--output", type=Path, required=True, help="such as table.json")
    parser.add_argument("--runtime", default="pytorch", help="pytorch, onnx or onnx-int8")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the audio")
    parser.add_argument("--rounds", type=int, default=15, help="timings of each model")
    parser.add_argument(
        "--check_sizes", type=int, default=0, help="time so many sizes, and compare them"
    )
    return call("espnet_des.measure.cost_table:cost_table", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
