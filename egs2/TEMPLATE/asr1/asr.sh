#!/usr/bin/env bash
# Run a recipe's stages, with ESPnet's option names: by ESPnet's own asr.sh where a
# checkout is given (--espnet_root DIR or ESPNET_ROOT=DIR), else by the project's
# driver from the pip packages alone. Called by run.sh in the recipe's folder.
set -euo pipefail

espnet_root="${ESPNET_ROOT:-}"
stage=1 stop_stage=10000 skip_sizes=false skip_stages='' skip_eval=false
asr_tag='' shrink=''
ours=() theirs=() previous='' name='' asks_for_help=false
for argument in "$@"; do
    if [ -n "${previous}" ]; then
        case "${name}" in
            --espnet_root) espnet_root="${argument}" ;;
            --shrink) shrink="${argument}" ours+=("${name}" "${argument}") ;;
            --sizes_decoding | --num_sizes | --skip_sizes | --shrink_args) ours+=("${name}" "${argument}") ;;
            *) ours+=("${name}" "${argument}") theirs+=("${name}" "${argument}") ;;
        esac
        case "${name}" in
            --stage) stage="${argument}" ;;
            --stop_stage) stop_stage="${argument}" ;;
            --skip_sizes) skip_sizes="${argument}" ;;
            --skip_stages) skip_stages="${argument}" ;;
            --skip_eval) skip_eval="${argument}" ;;
            --asr_tag) asr_tag="${argument}" ;;
        esac
        previous=''
        continue
    fi
    case "${argument}" in
        --help | -h) asks_for_help=true ;;
        --*=*)
            echo "asr.sh: ${argument}: must be written as ${argument%%=*} ${argument#*=}" >&2
            exit 2
            ;;
        --*) # names may have hyphens, as in Kaldi's and ESPnet's scripts
            previous="${argument}" name="${argument#--}"
            name="--${name//-/_}"
            ;;
        *)
            echo "asr.sh: ${argument}: every argument must follow an --option" >&2
            exit 2
            ;;
    esac
done
if [ -n "${previous}" ]; then
    echo "asr.sh: ${previous} needs a value" >&2
    exit 2
fi
for number in "--stage ${stage}" "--stop_stage ${stop_stage}"; do
    if [[ ! "${number##* }" =~ ^[0-9]+$ ]]; then
        echo "asr.sh: ${number}: must be the number of a stage" >&2
        exit 2
    fi
done

driver=(python3 -m espnet_des.bin.recipe)
if [ "${asks_for_help}" = true ] || [ -z "${espnet_root}" ]; then
    . ./path.sh
    if [ "${asks_for_help}" = true ]; then
        ours=(--help)
    fi
    exec "${driver[@]}" "${ours[@]}"
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
template="${ESPNET_ROOT}/egs2/TEMPLATE/asr1"
case "${cmd_backend:-local}" in
    slurm | pbs) queue_conf="conf/${cmd_backend}.conf" ;;
    sge) queue_conf=conf/queue.conf ;;
    *) queue_conf='' ;;
esac
if [ -n "${queue_conf}" ] && [ ! -f "${queue_conf}" ]; then
    echo "cmd_backend=${cmd_backend}: needs ${queue_conf}: copy ${template}/${queue_conf} to it," \
        "and set your partitions there" >&2
    exit 2
fi
if [ -n "${shrink}" ] && [ -z "${asr_tag}" ]; then # as the driver names it
    asr_tag=$(basename "${shrink}" .zip)
    ours+=(--asr_tag "${asr_tag#asr_}_shrunk") theirs+=(--asr_tag "${asr_tag#asr_}_shrunk")
fi
with_sizes=false
if [ "${skip_sizes}" != true ] && [ "${stop_stage}" -ge 16 ] && [[ " ${skip_stages} " != *" 16 "* ]]; then
    with_sizes=true
    # What stage 16 cannot follow is said now, and not after the training.
    (. ./path.sh && "${driver[@]}" --asr_sh "${template}/asr.sh" --only_check true "${ours[@]}")
fi
for folder in scripts pyscripts steps utils; do
    ln -sfn "${template}/${folder}" "${folder}"
done
if [ -n "${shrink}" ] && [ "${stage}" -le 11 ] && [ "${stop_stage}" -ge 11 ]; then
    # Stage 11 is the driver's, which makes a training config of the model; with the same command.
    if [ "${stage}" -le 10 ]; then
        "${template}/asr.sh" --python "python3 -m espnet_des" "${theirs[@]}" --stop_stage 10
    fi
    (. ./path.sh && "${driver[@]}" --asr_sh "${template}/asr.sh" "${ours[@]}" \
        --stage 11 --stop_stage 11)
    stage=12 theirs+=(--stage 12)
fi
# ESPnet's stages, with the plugin's classes; then the sizes, which asr.sh has not.
if [ "${stage}" -le 15 ] && [ "${stop_stage}" -ge "${stage}" ]; then
    "${template}/asr.sh" --python "python3 -m espnet_des" "${theirs[@]}"
fi
if [ "${with_sizes}" = true ]; then
    . ./path.sh
    exec "${driver[@]}" --asr_sh "${template}/asr.sh" "${ours[@]}"
fi
