#!/usr/bin/env bash
# docs/REPRODUCTION.md on GRID: each modality alone, joint and both variants of InfoReg, without and with the unimodal losses.
#   SEEDS="0 1 2" DATA_ROOT=data/GRID OUT=results JOBS=2 bash scripts/grid.sh [flags for every run]
# Finished runs are kept and interrupted ones resumed. Each of the JOBS runs at a time has one CPU thread.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
SEEDS=${SEEDS:-0 1 2} DATA_ROOT=${DATA_ROOT:-data/GRID} OUT=${OUT:-results} JOBS=${JOBS:-2}

commands() {
    for seed in $SEEDS; do
        for setting in \
            "joint --unimodal_loss none" "inforeg --unimodal_loss none" "inforeg --variant official --unimodal_loss none" \
            "joint --unimodal_loss split" "inforeg --unimodal_loss split" "inforeg --variant official --unimodal_loss split" \
            "unimodal --modality audio" "unimodal --modality visual"; do
            echo "--method $setting --seed $seed"
        done
    done
}

run() {
    .venv/bin/python main.py --dataset GRID --data_root "$DATA_ROOT" --out "$OUT" --workers 0 --resume "$@"
}
export -f run
export OMP_NUM_THREADS=1 DATA_ROOT OUT
commands | xargs -P "$JOBS" -I{} bash -c "run {} $*"
for checkpoint in "$OUT"/GRID/*/*/seed*/last.pt; do
    [ -e "$(dirname "$checkpoint")/probe.json" ] || .venv/bin/python scripts/linear_probe.py "$checkpoint"
done
.venv/bin/python scripts/collect.py "$OUT/GRID"
