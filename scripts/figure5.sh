#!/usr/bin/env bash
# Figure 5: accuracies and information amounts (what the environment may say: scripts/reproduce.py)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python scripts/reproduce.py figure5 "$@"
