# Sourced by the other scripts: makes .venv and installs requirements.txt into it, once for each state of that file.
# PYTHON names the interpreter to start from (default python3, 3.10 or newer).
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: $PYTHON is missing or older than 3.10; set PYTHON=/path/to/python3.10 or newer" >&2
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
