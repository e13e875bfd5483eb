#!/usr/bin/env bash
# Set up, generate the demo data, train on it, print the table and draw the picture of what InfoReg does.
# Two runs at a time. A second call reuses what exists. Arguments go to every run: bash scripts/demo.sh --epochs 40
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
EXTRA="--workers 0 --cache ram"  # the fastest on two cores; the numbers are the same without
[ $# -eq 0 ] || printf -v EXTRA '%s%b' "$EXTRA" "$(printf ' %q' "$@")"
export EXTRA DATASET=demo SEEDS="${SEEDS:-0}" JOBS="${JOBS:-2}"
exec .venv/bin/python scripts/reproduce.py demo --probe
