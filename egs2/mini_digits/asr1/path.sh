# Sourced by run.sh and local/*.sh: the python that has espnet_des.
MAIN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
if [ -x "${MAIN_ROOT}/.venv/bin/python3" ]; then
    PATH="${MAIN_ROOT}/.venv/bin:${PATH}"
fi
export PATH PYTHONIOENCODING=UTF-8 LC_ALL=C.UTF-8
