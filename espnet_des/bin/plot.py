"""Draw the layers a supernet keeps, its scores over training, and the WER of its sizes."""

import argparse
import logging
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument(
        "--sizes_json", type=Path, help="of stage 16; default: sizes.json beside the config"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Here, so that --help does not wait for ESPnet.
    from espnet_des.plot import plot_all

    try:
        for path in plot_all(**vars(args)):
            print(path)
    except (RuntimeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
