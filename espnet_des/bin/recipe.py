"""The stages of a recipe, without an ESPnet checkout."""

import sys

from espnet_des.utils.command import as_command


def main() -> int:
    with as_command():
        from espnet_des.recipe import driver  # here: it imports torch

        return driver.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
