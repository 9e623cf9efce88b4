#!/usr/bin/env bash
# Make the data directories of TED-LIUM release 2: data/train, data/dev, data/test.
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Before set -u: ESPnet's own path.sh needs unset variables.
# shellcheck disable=SC1091
. ./path.sh
# shellcheck disable=SC1091
. ./db.sh
set -u

if [ $# -gt 0 ]; then
    echo "$0: unknown option $1; there are none" >&2
    exit 2
fi
if [ -z "${TEDLIUM2:-}" ]; then
    echo "$0: TEDLIUM2 in db.sh is empty: give the folder that holds TEDLIUM_release2/" >&2
    exit 2
fi

python3 -m espnet_des.bin.prepare_tedlium2 --corpus "${TEDLIUM2}" --data data
