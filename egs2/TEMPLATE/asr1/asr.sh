#!/usr/bin/env bash
# Run a recipe's stages, with ESPnet's option names: by ESPnet's own asr.sh where a
# checkout is given (--espnet_root DIR or ESPNET_ROOT=DIR), else by the project's
# driver from the pip packages alone. Called by run.sh in the recipe's folder.
set -euo pipefail

espnet_root="${ESPNET_ROOT:-}"
stage=1 stop_stage=10000 skip_sizes=false skip_stages='' skip_eval=false
ours=() theirs=() previous=
for argument in "$@"; do
    case "${previous}" in
        --espnet_root | --espnet-root) espnet_root="${argument}" ;;
        --sizes_decoding | --skip_sizes) ours+=("${previous}" "${argument}") ;;
        --*) ours+=("${previous}" "${argument}") theirs+=("${previous}" "${argument}") ;;
    esac
    case "${previous}" in
        --stage) stage="${argument}" ;;
        --stop_stage) stop_stage="${argument}" ;;
        --skip_sizes) skip_sizes="${argument}" ;;
        --skip_stages) skip_stages="${argument}" ;;
        --skip_eval) skip_eval="${argument}" ;;
    esac
    if [[ "${previous}" == --* ]]; then
        previous=
    elif [[ "${argument}" == --help || "${argument}" == -h ]]; then
        ours+=(--help)
    elif [[ "${argument}" == --* ]]; then
        previous="${argument}"
    else
        echo "asr.sh: ${argument}: every argument must follow an --option" >&2
        exit 2
    fi
done
if [ -n "${previous}" ]; then
    echo "asr.sh: ${previous} needs a value" >&2
    exit 2
fi

if [ -z "${espnet_root}" ]; then
    . ./path.sh
    exec python3 -m espnet_des.bin.recipe "${ours[@]}"
fi

template="${espnet_root}/egs2/TEMPLATE/asr1"
if [ ! -f "${template}/asr.sh" ]; then
    echo "--espnet_root ${espnet_root}: has no egs2/TEMPLATE/asr1/asr.sh; give the folder" \
        "of an ESPnet checkout, or leave it out to run from the pip packages" >&2
    exit 2
fi
ESPNET_ROOT=$(cd "${espnet_root}" && pwd)
export ESPNET_ROOT
# ESPnet's asr.sh would miss it only after days of training.
if [ "${stage}" -le 13 ] && [ "${stop_stage}" -ge 13 ] && [ "${skip_eval}" != true ] &&
    [[ " ${skip_stages} " != *" 13 "* ]] && ! (. ./path.sh && command -v sclite >/dev/null); then
    echo "sclite, with which stage 13 of ESPnet's asr.sh scores, is not installed: see" \
        "${ESPNET_ROOT}/tools/installers/install_sctk.sh, or the package sctk of Debian; or" \
        "leave the stage out with --skip_stages 13" >&2
    exit 2
fi
for name in scripts pyscripts steps utils; do
    ln -sfn "${ESPNET_ROOT}/egs2/TEMPLATE/asr1/${name}" "${name}"
done
# ESPnet's stages, with the plugin's classes; then the sizes, which asr.sh has not.
if [ "${stage}" -le 15 ]; then
    "${ESPNET_ROOT}/egs2/TEMPLATE/asr1/asr.sh" --python "python3 -m espnet_des" "${theirs[@]}"
fi
if [ "${skip_sizes}" != true ] && [ "${stop_stage}" -ge 16 ] && [[ " ${skip_stages} " != *" 16 "* ]]; then
    . ./path.sh
    exec python3 -m espnet_des.bin.recipe "${ours[@]}" --stage 16
fi
