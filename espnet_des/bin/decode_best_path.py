"""CTC best-path decoding of audio files, at any size of a supernet.

Exit status: 0 all files are decoded; 1 nothing could be started; 2 the command
line is wrong; 3 some files could not be decoded: they are named, the others are done.
"""

import argparse
import logging
import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, as_command


def main() -> int:
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--size", type=int, help="number of layers; all by default")
    parser.add_argument(
        "--input", type=Path, required=True,
        help="a folder, a wav.scp, a list of paths, or an audio file",
    )  # fmt: skip
    parser.add_argument(
        "--output_dir", type=Path, required=True,
        help="gets text, and failed if a file could not be decoded",
    )  # fmt: skip
    parser.add_argument(
        "--token_times", choices=("true", "false"), nargs="?", const="true", default="false",
        help="write token.ctm as well",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    args = parser.parse_args()
    args.token_times = args.token_times == "true"
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with as_command():
            # Here, so that --help does not wait for ESPnet.
            from espnet_des.inference.decode_best_path import decode_best_path

            failed = decode_best_path(**vars(args))
    except (RuntimeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
