#!/usr/bin/env bash
# One system of the comparison in egs2/compare_<corpus>, one thread; ./compare.sh runs all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=$(../../TEMPLATE/compare/corpus.sh)
# What another corpus wants otherwise; of an option given twice the last value counts.
own=()
if [ -f conf/run.options ]; then
    read -r -a own <conf/run.options
fi
# Two trainings side by side with one thread each are faster than one with two.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec ./asr.sh \
    --lang en \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --token_type char \
    --max_wav_duration 20 \
    --use_lm false \
    --asr_config conf/train_des.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --train_set "train_${corpus}" \
    --valid_set "dev_${corpus}" \
    --test_sets "test_clean test_noisy" \
    --lm_train_text "data/train_${corpus}/text" \
    --skip_eval true \
    "${own[@]}" "$@"
