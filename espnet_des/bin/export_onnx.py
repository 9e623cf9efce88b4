"""Export one size to ONNX: waveform or features to CTC log-probabilities."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--size", type=int, help="number of layers, of a supernet")
    parser.add_argument("--output", type=Path, required=True, help="*.onnx")
    parser.add_argument("--source", default="waveform", help="waveform or features")
    parser.add_argument("--quantize", default="none", help="none or int8")
    parser.add_argument("--wav_scp", type=Path, help="audio to check with: real speech")
    parser.add_argument("--text", type=Path, help="its transcriptions: shows what int8 costs")
    return call("espnet_des.deploy.onnx.export:export_onnx", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
