"""Make Kaldi-style data directories from TED-LIUM release 2."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="holds TEDLIUM_release2/")
    parser.add_argument("--data", type=Path, default=Path("data"))
    return call("espnet_des.corpus.tedlium2:prepare_tedlium2", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
