#!/usr/bin/env bash
# Set up, generate the demo data, train on it, print the table and draw the picture of what InfoReg does.
# Two runs at a time. A second call reuses what exists. Arguments go to every run: bash scripts/demo.sh --epochs 40
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
printf -v EXTRA '%q ' "$@"
[ $# -gt 0 ] || EXTRA=
export EXTRA DATASET=demo SEEDS="${SEEDS:-0}" JOBS="${JOBS:-2}"
exec .venv/bin/python scripts/reproduce.py demo --probe
