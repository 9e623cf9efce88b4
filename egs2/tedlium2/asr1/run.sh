#!/usr/bin/env bash
# TED-LIUM release 2: sizes 16, 32 and 48 from one training, as in the paper.
# Put the corpus into downloads/, or its folder into db.sh (TEDLIUM2).
#   ./run.sh                                             # from the pip packages
#   ./run.sh --espnet_root ~/espnet --ngpu 8             # with ESPnet's own asr.sh
#   ./run.sh --stage 11 --asr_config conf/train_des_iterative_zero_out.yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ./asr.sh \
    --lang en \
    --ngpu 1 \
    --nj 16 \
    --inference_nj 16 \
    --nbpe 500 \
    --max_wav_duration 20 \
    --use_lm false \
    --asr_config conf/train_des_simple_top_k.yaml \
    --lm_config conf/train_lm.yaml \
    --inference_config conf/decode_ctc.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --train_set train \
    --valid_set dev \
    --test_sets "dev test" \
    --lm_train_text "data/train/text" \
    --bpe_train_text "data/train/text" \
    "$@"
