"""Make Kaldi-style data directories from LibriSpeech."""

import argparse
import sys
from pathlib import Path

from espnet_des.corpus.kaldi import DataError
from espnet_des.corpus.librispeech import prepare_librispeech
from espnet_des.utils.command import as_command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="holds LibriSpeech/")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sets", nargs="+", required=True, help="names in the corpus")
    parser.add_argument("--join", nargs="*", default=[], metavar="NAME=SET,SET,...")
    args = parser.parse_args()
    joined = {name: sets.split(",") for name, sets in (j.split("=") for j in args.join)}
    try:
        with as_command():
            prepare_librispeech(args.corpus, args.data, args.sets, joined)
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
