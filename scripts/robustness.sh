#!/usr/bin/env bash
# Robustness of all finished runs below a folder: bash scripts/robustness.sh results/CREMAD [flags of robustness.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/python scripts/robustness.py "$@"
