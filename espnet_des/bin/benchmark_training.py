"""Measure what an update of a supernet costs beside a plain step of its full size."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--input_layer", choices=("conv2d", "vgg", "dw_striding"), nargs="+",
        default=("conv2d", "vgg"), dest="input_layers",
    )  # fmt: skip
    parser.add_argument(
        "--encoder", choices=("des_conformer", "des_e_branchformer"), default="des_conformer"
    )
    parser.add_argument("--num_blocks", type=int, default=12)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--sizes", type=int, nargs="+", default=(16, 32, 48))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each utterance")
    parser.add_argument("--utterances", type=int, default=4, help="in the batch")
    parser.add_argument(
        "--preset", help="of model_conf, such as published; by default its defaults"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = vars(parser.parse_args())
    return call("espnet_des.measure.benchmark.training:benchmark_training", arguments)


if __name__ == "__main__":
    sys.exit(main())
