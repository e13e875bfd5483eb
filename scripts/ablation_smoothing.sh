#!/usr/bin/env bash
# Smoothing of the traces (what the environment may say: scripts/reproduce.py)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python scripts/reproduce.py ablation_smoothing "$@"
