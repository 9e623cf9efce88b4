"""Make Kaldi-style data directories from TED-LIUM release 2."""

import argparse
import sys
from pathlib import Path

from espnet_des.corpus.kaldi import DataError
from espnet_des.corpus.tedlium2 import prepare_tedlium2
from espnet_des.utils.command import as_command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="holds TEDLIUM_release2/")
    parser.add_argument("--data", type=Path, default=Path("data"))
    args = parser.parse_args()
    try:
        with as_command():
            prepare_tedlium2(args.corpus, args.data)
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
