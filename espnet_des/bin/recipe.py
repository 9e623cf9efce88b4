"""The stages of a recipe, without an ESPnet checkout."""

import sys

from espnet_des.recipe.driver import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
