#!/usr/bin/env bash
# Is all well on this GPU, and how fast is it? At most nine minutes, nothing is fetched: scripts/gpu_check.py --help.
# By the Python of .venv where there is one (scripts/setup.sh makes it), else by PYTHON (default python3) as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
interpreter=.venv/bin/python
[ -x "$interpreter" ] || interpreter=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
exec "$interpreter" scripts/gpu_check.py "$@"
