"""Make Kaldi-style data directories from LibriSpeech."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="holds LibriSpeech/")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sets", nargs="+", required=True, help="names in the corpus")
    parser.add_argument("--join", nargs="*", default=[], metavar="NAME=SET,SET,...")
    args = parser.parse_args()
    joined = {name: sets.split(",") for name, sets in (j.split("=") for j in args.join)}
    target = "espnet_des.corpus.librispeech:prepare_librispeech"
    arguments = {k: v for k, v in vars(args).items() if k != "join"}
    return call(target, arguments | {"joined": joined})


if __name__ == "__main__":
    sys.exit(main())
