"""Generate the corpus of spoken digits."""

import argparse
from pathlib import Path

from espnet_des.corpus.digits import make_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of speakers")
    args = parser.parse_args()
    make_digits(args.out, seed=args.seed, scale=args.scale)


if __name__ == "__main__":
    main()
