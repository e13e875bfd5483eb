# Sourced by the other scripts: makes .venv and installs requirements.txt into it, once for each state of that file.
# PYTHON names the interpreter to start from (default python3), one of 3.10 to 3.13: the pinned libraries have no others.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}  # this checkout's code, wherever .venv was installed from
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
    echo "error: $PYTHON is missing or not Python 3.10 to 3.13; set PYTHON=/path/to/python3.12, say" >&2
    exit 1
fi
stamp=.venv/installed.txt
if ! cmp -s requirements.txt "$stamp"; then
    echo "installing requirements.txt into .venv (5.6 GB with CUDA; the first time only)"
    if ! "$PYTHON" -m venv .venv; then
        echo "error: $PYTHON cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$stamp"
fi
