"""Extract one size of a trained supernet as a model of its own."""

import argparse
import logging
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True, help="number of layers")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--recalibrate_scp", type=Path,
        help="audio to estimate this size's BatchNorm statistics with",
    )  # fmt: skip
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Here, so that --help does not wait for ESPnet.
    from espnet_des.subnet import extract_subnet

    try:
        extract_subnet(**vars(args))
    except (RuntimeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
