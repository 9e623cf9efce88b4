# shellcheck shell=bash
# Sourced by asr.sh and local/*.sh: the python that has espnet_des, and, with an
# ESPnet checkout (ESPNET_ROOT), what ESPnet's own path.sh sets up.
MAIN_ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.." && pwd)
if [ -n "${ESPNET_ROOT:-}" ]; then
    PATH="${PWD}/utils:${ESPNET_ROOT}/utils:${PATH}"
    for script in activate_python.sh extra_path.sh; do
        if [ -f "${ESPNET_ROOT}/tools/${script}" ]; then
            # shellcheck disable=SC1090
            . "${ESPNET_ROOT}/tools/${script}"
        fi
    done
fi
if [ -x "${DES_VENV:=${MAIN_ROOT}/.venv}/bin/python3" ]; then
    PATH="${DES_VENV}/bin:${PATH}"
fi
if [ -d /usr/lib/sctk/bin ]; then # Debian keeps sclite off the PATH
    PATH="${PATH}:/usr/lib/sctk/bin"
fi
export PATH LC_ALL=C PYTHONIOENCODING=UTF-8 PYTHONUTF8=1
# Several threads of a small model lose to one as soon as anything else runs: they wait for
# each other. How they wait, espnet_des/utils/threads.py says.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if ! command -v spm_train >/dev/null; then # pip's sentencepiece brings no command
    spm_train() { python3 -m espnet_des.bin.spm_train "$@"; }
fi
