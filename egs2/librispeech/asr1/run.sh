#!/usr/bin/env bash
# LibriSpeech 960 h: sizes 16, 32 and 48 from one training, as in the paper.
# Put the corpus into downloads/, or its folder into db.sh (LIBRISPEECH).
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
    --nbpe 5000 \
    --max_wav_duration 30 \
    --use_lm false \
    --asr_config conf/train_des_simple_top_k.yaml \
    --lm_config conf/train_lm.yaml \
    --inference_config conf/decode_ctc.yaml \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --train_set train_960 \
    --valid_set dev \
    --test_sets "test_clean test_other dev_clean dev_other" \
    --lm_train_text "data/train_960/text data/local/other_text/text" \
    --bpe_train_text "data/train_960/text" \
    "$@"
