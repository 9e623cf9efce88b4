#!/usr/bin/env bash
# One system of the comparison on spoken words, one thread; ./compare.sh runs all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

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
    --train_set train_words \
    --valid_set dev_words \
    --test_sets "test_clean test_noisy" \
    --lm_train_text "data/train_words/text" \
    --skip_eval true \
    "$@"
