"""Prepare what the page in web/ recognises with: every size as ONNX, costs, tokens, samples."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="web/models")
    parser.add_argument(
        "--test_sets", type=Path, nargs="+", required=True,
        help="folders with wav.scp and text, of which the samples are",
    )  # fmt: skip
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of layers")
    parser.add_argument(
        "--quantize", nargs="+", default=["int8", "none"], help="int8 and none"
    )
    parser.add_argument("--num_samples", type=int, default=3, help="of each test set")
    return call("espnet_des.deploy.web:prepare_web", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
