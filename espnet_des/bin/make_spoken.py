"""Generate a corpus of speech: digits, words or sentences, by synthetic or natural voices."""

import sys
from pathlib import Path

from espnet_des.corpus.generated import CORPORA
from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--corpus", choices=sorted(CORPORA), default="mini_digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of speakers")
    parser.add_argument("--jobs", type=int, help="processes; all processors by default. Only "
                        "natural voices are spoken by several")  # fmt: skip
    args = parser.parse_args()
    args.corpus = CORPORA[args.corpus]
    return call("espnet_des.corpus.spoken:speak", vars(args))


if __name__ == "__main__":
    sys.exit(main())
