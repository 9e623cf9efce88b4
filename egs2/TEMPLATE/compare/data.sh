#!/usr/bin/env bash
# Synthesise the corpus that the recipe's folder is named after, egs2/compare_<corpus>, and
# make the data directories.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh

recipe=$(basename "$(dirname "${PWD}")")
corpus=${recipe#compare_}
python3 -m espnet_des.bin.make_spoken --corpus "${recipe}" --out downloads "$@"
python3 -m espnet_des.bin.prepare_librispeech --corpus downloads --data data \
    --sets "train-${corpus}" "dev-${corpus}" test-clean test-noisy
