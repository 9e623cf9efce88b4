#!/usr/bin/env bash
# What ESPnet's run.pl does with "[--gpu N] LOG command...".
set -euo pipefail
if [ "$1" = --gpu ]; then shift 2; fi
log=$1
shift
exec "$@" >"${log}" 2>&1
