#!/usr/bin/env bash
# Set up, generate the demo data, train joint and inforeg on it, print their table. A second call reuses what exists.
# Arguments go to both runs: bash scripts/demo.sh --epochs 20 --demo_sound_error 0.4
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
for method in joint inforeg; do
    .venv/bin/python main.py --dataset demo --method "$method" --resume "$@"
done
.venv/bin/python scripts/collect.py results/demo
echo "figures:"
find results/demo -name '*.png' | sort
