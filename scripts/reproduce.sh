#!/usr/bin/env bash
# Set up, then make the runs of a table, a figure or an ablation: bash scripts/reproduce.sh table2
# Without a name it lists all of them, with the runs that each takes and the numbers to expect.
# bash scripts/reproduce.sh robustness results/CREMAD tests all finished runs below a folder (flags: scripts/robustness.py).
# bash scripts/reproduce.sh selection --dataset CREMAD --budgets 120 300 trains on chosen samples (scripts/subsets.py).
# bash scripts/reproduce.sh localisation trains both stages of CSOL on scenes, with ablations (scripts/localise.py study).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [ "${1:-}" = robustness ]; then
    exec .venv/bin/python scripts/robustness.py "${@:2}"
elif [ "${1:-}" = selection ]; then
    exec .venv/bin/python scripts/subsets.py "${@:2}"
elif [ "${1:-}" = localisation ]; then
    exec .venv/bin/python scripts/localise.py study "${@:2}"
fi
exec .venv/bin/python scripts/reproduce.py "$@"
