# Sourced by local/data.sh: the folder that holds TEDLIUM_release2/, from
# https://www.openslr.org/19.
# shellcheck shell=bash disable=SC2034
TEDLIUM2=${TEDLIUM2:-downloads}
