"""Whatever stands in scripts/ and in data/ is a program that tells what it is for."""

import json
import os
import subprocess
import sys

import pytest
from helpers.places import ROOT

PROGRAMS = [*sorted(ROOT.glob("scripts/[!_]*.py")), *sorted(ROOT.glob("data/[!_]*.py"))]
# All of them in one process, which imports the libraries once; each as `python PATH --help` starts it.
ASK = """
import contextlib, io, json, os, runpy, sys
answers = {}
for path in sys.argv[1:]:
    said, sys.argv = io.StringIO(), [path, "--help"]
    sys.path.insert(0, os.path.dirname(path))
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(path, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException as error:
        status = repr(error)
    sys.path.pop(0)
    answers[path] = [status, said.getvalue()]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{path: [exit status, what it printed]}, asked from a folder in which nothing of ours lies."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *map(str, PROGRAMS)], cwd=tmp_path_factory.mktemp("elsewhere"), check=True,
        env=os.environ | {"COLUMNS": "120"}, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_program_says_what_it_is_for(answers, path):
    status, said = answers[str(path)]
    assert status == 0
    assert said.startswith("usage: ") and "--help" in said
    if path.parent.name == "scripts":  # an example
        assert f"python scripts/{path.name}" in said or f"bash scripts/{path.stem}.sh" in said
