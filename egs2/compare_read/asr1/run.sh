#!/usr/bin/env bash
# One system of the comparison on read sentences, one GPU (--ngpu 0: none); ./compare.sh runs all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ./asr.sh \
    --lang en \
    --ngpu 1 \
    --nj 8 \
    --inference_nj 2 \
    --token_type bpe \
    --nbpe 300 \
    --max_wav_duration 20 \
    --use_lm false \
    --asr_config conf/train_des.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --train_set train_read \
    --valid_set dev_read \
    --test_sets "test_clean test_noisy" \
    --bpe_train_text "data/train_read/text" \
    --skip_eval true \
    "$@"
