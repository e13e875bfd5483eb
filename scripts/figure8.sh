#!/usr/bin/env bash
# Figure 8: K (what the environment may say: scripts/reproduce.py)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python scripts/reproduce.py figure8 "$@"
