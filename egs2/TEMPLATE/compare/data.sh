#!/usr/bin/env bash
# Synthesise the recipe's corpus, and make the data directories.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh

corpus=$(../../TEMPLATE/compare/corpus.sh)
python3 -m espnet_des.bin.make_spoken --corpus "compare_${corpus}" --out downloads "$@"
python3 -m espnet_des.bin.prepare_librispeech --corpus downloads --data data \
    --sets "train-${corpus}" "dev-${corpus}" test-clean test-noisy
