"""Compare text and time of sizes in PyTorch, onnxruntime and sherpa-onnx."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[None], metavar="N",
                        help="of a supernet")  # fmt: skip
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FOLDER",
                        help="with wav.scp and text, such as dump/raw/test_clean")  # fmt: skip
    parser.add_argument("--output_dir", type=Path, required=True)
    return call(
        "espnet_des.measure.benchmark.runtimes:benchmark_runtimes", vars(parser.parse_args())
    )


if __name__ == "__main__":
    sys.exit(main())
