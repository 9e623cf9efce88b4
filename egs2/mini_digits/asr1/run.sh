#!/usr/bin/env bash
# Spoken digits: one training, three encoder sizes, on two CPU cores.
#   ./run.sh                                        # everything
#   ./run.sh --stage 11 --asr_config conf/train_iterative_zero_out.yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

# A model this small is faster on one thread than on two.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec python3 -m espnet_des.bin.recipe \
    --lang en \
    --ngpu 0 \
    --nj 2 \
    --token_type char \
    --max_wav_duration 20 \
    --asr_config conf/train_simple_top_k.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --train_set train_digits \
    --valid_set dev_digits \
    --test_sets "test_clean test_noisy" \
    --lm_train_text "data/train_digits/text" \
    --skip_eval true \
    "$@"
