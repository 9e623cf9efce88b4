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
    parser.add_argument("--macs", help="the largest size within it, such as 150M per second")
    parser.add_argument("--params", help="the largest size within it, such as 2M")
    parser.add_argument("--rtf", help="the largest size within it, such as 0.005")
    parser.add_argument("--ms", help="the same in milliseconds, for the table's audio")
    parser.add_argument(
        "--cost_table", type=Path, help="for --rtf and --ms: what bin.cost_table wrote"
    )
    parser.add_argument(
        "--slices", type=Path, help="slices.json of a recipe: only its sizes and costs count"
    )
    return call("espnet_des.deploy.budget:export_within", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
