#!/usr/bin/env bash
# Spoken digits: one training, three encoder sizes, on two CPU cores.
#   ./run.sh                                  # everything, with Simple-Top-k
#   ./run.sh --asr_tag iterative_zero_out --asr_args "--model_conf method=iterative_zero_out"
#   ./run.sh --stage 16                       # only decode and score every size
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"

exec python3 -m espnet_des.bin.recipe \
    --lang en \
    --ngpu 0 \
    --nj 2 \
    --token_type char \
    --max_wav_duration 20 \
    --asr_config conf/train_des.yaml \
    --asr_tag simple_top_k \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --train_set train_digits \
    --valid_set dev_digits \
    --test_sets "test_clean test_noisy" \
    --lm_train_text "data/train_digits/text" \
    --skip_eval true \
    "$@"
