#!/usr/bin/env bash
# Table 4: modulation in and outside the prime learning window (what the environment may say: scripts/reproduce.py)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python scripts/reproduce.py table4 "$@"
