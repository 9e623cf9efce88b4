"""Compare supernets with separately trained models and other baselines."""

import sys
from pathlib import Path

from espnet_des.utils.command import CommandParser, call


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("."), help="its folder")
    parser.add_argument(
        "--what",
        choices=("compare", "ablations", "budgets", "shrink", "front_ends", "rates", "fast",
                 "rivals"),
        default="compare",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every system")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--only", nargs="+", metavar="SYSTEM", help="train these only")
    parser.add_argument("--taken", nargs="+", type=Path, metavar="RESULTS.json",
                        help="of this recipe on other machines: not trained again")  # fmt: skip
    return call("espnet_des.compare.compare:compare", vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
