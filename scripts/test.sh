#!/usr/bin/env bash
# Set up, check the style, run the tests. Arguments go to pytest: bash scripts/test.sh -k window
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest --numprocesses auto --dist worksteal "$@"
