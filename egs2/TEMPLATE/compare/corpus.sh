# shellcheck shell=bash
# Sourced in a recipe's folder, egs2/compare_<corpus>/asr1: its corpus. A recipe that compares
# something else on a corpus that is there says so in conf/corpus.
corpus=$(basename "$(dirname "${PWD}")")
if [ -f conf/corpus ]; then
    corpus=$(<conf/corpus)
fi
corpus=${corpus#compare_}
