#!/usr/bin/env bash
# Train every system of the comparison and write results/; again: goes on where it stopped.
#   ./compare.sh                    # three seeds, two trainings side by side
#   ./compare.sh --seeds 5 --jobs 8
#   ./compare.sh --what ablations          # or budgets, fast, front_ends, rates, rivals, shrink
#   ./compare.sh --what ablations --taken results/ablations.json   # what is measured there stays
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

exec python3 -m espnet_des.bin.compare "$@"
