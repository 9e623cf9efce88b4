#!/usr/bin/env bash
# Make the data directories of LibriSpeech, and the text of the language model.
#   local/data.sh                                    # data/train_960 of all 960 hours
#   local/data.sh --train_sets "train-clean-100"     # data/train_960 of these alone
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Before set -u: ESPnet's own path.sh needs unset variables.
# shellcheck disable=SC1091
. ./path.sh
# shellcheck disable=SC1091
. ./db.sh
set -u

train_sets="train-clean-100 train-clean-360 train-other-500"
while [ $# -gt 0 ]; do
    case "$1" in
        --train_sets | --train-sets)
            train_sets="${2:-}"
            if [ -z "${train_sets// /}" ]; then
                echo "$0: --train_sets needs a list like \"train-clean-100\"" >&2
                exit 2
            fi
            shift 2 ;;
        *)
            echo "$0: unknown option $1; there is --train_sets \"train-clean-100 ...\"" >&2
            exit 2 ;;
    esac
done
if [ -z "${LIBRISPEECH:-}" ]; then
    echo "$0: LIBRISPEECH in db.sh is empty: give the folder that holds LibriSpeech/" >&2
    exit 2
fi

read -r -a train <<< "${train_sets}"
python3 -m espnet_des.bin.prepare_librispeech --corpus "${LIBRISPEECH}" --data data \
    --sets "${train[@]}" dev-clean dev-other test-clean test-other \
    --join "train_960=$(IFS=,; echo "${train[*]}")" "dev=dev-clean,dev-other"

# Text for the language model, with an id before each line, as in ESPnet's recipe.
lm_text="${LIBRISPEECH}/librispeech-lm-norm.txt.gz"
target=data/local/other_text/text
if [ -s "${target}" ]; then
    echo "${target} is there already"
elif [ -e "${lm_text}" ]; then
    mkdir -p "$(dirname "${target}")"
    gzip -dc "${lm_text}" | awk '{ printf("librispeech_lng_%08d %s\n", NR, $0) }' \
        > "${target}.partial"
    mv "${target}.partial" "${target}"
    echo "${target}: $(wc -l < "${target}") lines"
else
    # run.sh names it: an empty one stands in, which the next call fills.
    mkdir -p "$(dirname "${target}")"
    : > "${target}"
    echo "No ${lm_text} (from https://www.openslr.org/11):" \
        "a language model is trained on the transcripts alone"
fi
