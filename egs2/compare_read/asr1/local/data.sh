#!/usr/bin/env bash
# Synthesise the corpus and make the data directories.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh

python3 -m espnet_des.bin.make_spoken --corpus read --out downloads "$@"
python3 -m espnet_des.bin.prepare_librispeech --corpus downloads --data data \
    --sets train-read dev-read test-clean test-noisy
