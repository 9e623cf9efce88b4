# Sourced by local/data.sh: the folder that holds LibriSpeech/, from https://www.openslr.org/12.
# shellcheck shell=bash disable=SC2034
LIBRISPEECH=${LIBRISPEECH:-downloads}
