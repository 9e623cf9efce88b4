#!/usr/bin/env bash
# Prints the corpus of the recipe in whose folder, egs2/compare_<corpus>/asr1, it is called. A
# recipe that compares something else on a corpus that is there says so in conf/corpus.
set -euo pipefail

recipe=$(basename "$(dirname "${PWD}")")
if [ -f conf/corpus ]; then
    recipe=$(<conf/corpus)
fi
echo "${recipe#compare_}"
