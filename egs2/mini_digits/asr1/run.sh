#!/usr/bin/env bash
# Spoken digits: one training, three encoder sizes, on a CPU, with one thread.
#   ./run.sh                                  # everything, with Simple-Top-k
#   ./run.sh --asr_tag iterative_zero_out --asr_args "--model_conf method=iterative_zero_out"
#   ENCODER=des_e_branchformer ./run.sh       # with conf/train_des_e_branchformer.yaml
#   OMP_NUM_THREADS=2 OMP_WAIT_POLICY=ACTIVE ./run.sh   # faster where nothing else runs
#   ./run.sh --stage 16                       # only extract, decode and score every size
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

options=(
    --lang en
    --ngpu 0
    --nj 2
    --inference_nj 2
    --token_type char
    --max_wav_duration 20
    --use_lm false
    --asr_config conf/train_des.yaml
    --asr_tag simple_top_k
    --inference_config conf/decode_ctc.yaml
    --inference_asr_model valid.cer_ctc.ave.pth
    --train_set train_digits
    --valid_set dev_digits
    --test_sets "test_clean test_noisy"
    --lm_train_text "data/train_digits/text"
    --skip_eval true
)
if [ "${ENCODER:-des_conformer}" != des_conformer ]; then # whose config is train_des.yaml
    config="conf/train_${ENCODER}.yaml"
    if [ ! -f "${config}" ]; then
        echo "ENCODER=${ENCODER}: there is no ${config}; ENCODER may be des_conformer or" \
            "des_e_branchformer" >&2
        exit 2
    fi
    options+=(--asr_config "${config}" --asr_tag "${ENCODER}_simple_top_k")
fi

exec ./asr.sh "${options[@]}" "$@"
