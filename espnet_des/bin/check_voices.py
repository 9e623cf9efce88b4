"""Check generated speech: another recogniser's WER, and how different its speakers are."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--data", nargs="+", type=Path, required=True,
                        help="folders with wav.scp, text and utt2spk")  # fmt: skip
    parser.add_argument("--utterances", type=int, default=200, help="of each folder")
    return call("espnet_des.measure.voices:check_voices", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
