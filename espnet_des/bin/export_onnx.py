"""Export one size to ONNX: waveform or features to CTC log-probabilities."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--size", type=int, help="number of layers, of a supernet")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        help="several that share their weights, in a new folder",
    )
    parser.add_argument("--output", type=Path, required=True, help="*.onnx, or a folder")
    parser.add_argument(
        "--runtime", default="onnxruntime", help="onnxruntime, or sherpa-onnx: a folder for it"
    )
    parser.add_argument("--source", default="waveform", help="waveform or features")
    parser.add_argument("--quantize", default="none", help="none or int8")
    parser.add_argument("--wav_scp", type=Path, help="audio to check with: real speech")
    parser.add_argument("--text", type=Path, help="its transcriptions: shows what int8 costs")
    parser.add_budgets()
    return call("espnet_des.deploy.budget:export_within", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
