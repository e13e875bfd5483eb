"""The README keeps its promises: its lines run, its files exist."""

import importlib
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers.places import ROOT

from utils.errors import RunError

README = (ROOT / "README.md").read_text()


def test_every_file_that_the_documents_name_exists():
    others = [path.relative_to(ROOT) for path in ROOT.glob("docs/*.md") if path.name != "EXTENDING.md"]  # files to come
    for document in ("README.md", "data/README.md", *others):
        text = (ROOT / document).read_text()
        linked = re.findall(r"\]\((?!http|#)([^)#]+)\)", text)
        named = re.findall(r"\b((?:scripts|docs|data|methods|models|utils|dataset|tests)/[\w/]+\.(?:py|sh|md))", text)
        missing = [name for name in linked if not (ROOT / document).parent.joinpath(name).exists()]
        missing += [name for name in named if not (ROOT / name).exists()]
        assert not missing, f"{document} names {missing}"


def test_every_command_of_the_readme_parses():
    from engine.parser import parse

    text = "".join((ROOT / path).read_text() for path in ("docs/RUNNING.md", "docs/ROBUSTNESS.md"))
    commands = re.findall(r"^(?:python |\| `python )main\.py ([^#\n`]*)", README + text, re.M)
    assert len(commands) >= 10
    for command in commands:
        words = command.split()
        if "--help" not in words:
            parse(words)


def test_every_table_and_figure_that_the_documents_make_has_its_name():
    from scripts.experiments.paper import EXPERIMENTS

    text = "".join((ROOT / path).read_text() for path in ("README.md", *ROOT.glob("docs/*.md")))
    named = re.findall(r"bash scripts/reproduce\.sh (\w+)", text)
    assert len(named) > 20 and set(named) - {"robustness", "selection", "localisation"} <= set(EXPERIMENTS)


def test_every_kind_of_noise_is_explained():
    from dataset.recipes.corrupt import KINDS

    rows = [line.split("|") for line in (ROOT / "docs/ROBUSTNESS.md").read_text().splitlines() if line.startswith("| ")]
    explained = [kind for row in rows for kind in re.findall(r"`(\w+)`", row[2])]
    assert explained == [name for kinds in KINDS.values() for name in kinds]


def test_every_method_has_its_row_and_its_entry():
    from methods import METHODS

    text = (ROOT / "docs/METHODS.md").read_text()
    rows = [name for row in re.findall(r"^\| \[(`.*?`)\]\(#", text, re.M) for name in re.findall(r"`(\w+)`", row)]
    entries = [name for heading in re.findall(r"^## ([a-z].*)", text, re.M) for name in heading.split(", ")]
    assert rows == entries and sorted(rows) == sorted(METHODS)


def test_the_methods_beside_inforeg_are_counted_and_named():
    """All but InfoReg and its baselines, in README's count and in RUNNING's list."""
    from methods import METHODS

    others = sorted(set(METHODS) - {"inforeg", "joint", "unimodal"})
    assert re.findall(r"with (\d+) others", README.replace("\n", " ")) == [str(len(others))]
    listed = (ROOT / "docs/RUNNING.md").read_text().partition("The other methods (`--method`): ")[2].partition(".\n")[0]
    assert sorted(re.findall(r"`([a-z]\w+)`", listed)) == others


def test_github_shows_the_equations():
    """GitHub refuses some macros and reads what lies between dollars as markdown first: `}_` begins an emphasis."""
    text = (ROOT / "docs/METHODS.md").read_text()
    assert text.count("```math") > 5 and "\\operatorname" not in text
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    spans = re.findall(r"\$([^$]*)\$", prose)
    assert len(spans) > 300 and not [span for span in spans if re.search(r"[})]_| _|\n|[|~*<]|\\[^a-zA-Z]", span)]


def test_the_documented_downloads_stay_out_of_git_and_ruff(tmp_path):
    lines = (ROOT / "data" / "README.md").read_text().replace("\\\n", " ").splitlines()
    code = [line for line in lines if line.startswith("    ")]
    places = [path for line in code for path in re.findall(r"--(?:raw|list|\w+_(?:csv|list)) (\S+)", line)]
    places += [path for line in code for path in re.findall(r"git clone \S+ (\S+)", line)]
    places += [path for line in code for path in re.findall(r"mkdir (?:-p )?(\S+)", line)]
    places += [path for line in code for path in re.findall(r"open\(f?\"([^\"]+)", line)]
    assert len(places) > 20 and [path for path in places if path.split("/")[0] != "raw"] == []
    assert not any("git clone" in line and not re.search(r"git clone \S+ raw/", line) for line in code)
    for name in (".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for path in ("raw/CREMA-D/bad.py", "data/CREMAD/bad.py", "environment/bad.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("import  os, sys\n")
    (tmp_path / ".venv").symlink_to("environment")
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    run(["git", "init", "-q"], check=True)
    assert (
        run(["git", "status", "--porcelain"], check=True).stdout
        == "?? .gitignore\n?? environment/\n?? pyproject.toml\n"
    )
    found = run([sys.executable, "-m", "ruff", "check", "--output-format", "concise", "."]).stdout
    assert {line.split(":")[0] for line in found.splitlines() if ".py:" in line} == {"environment/bad.py"}


def test_every_command_of_the_data_sets_parses(tmp_path, monkeypatch):
    from engine.parser import parse

    text = (ROOT / "data" / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^    python main\.py ([^#\n]*)", text, re.M)
    assert len(commands) >= 10
    for command in commands:
        parse(command.split())
    # What the preparations say of flags comes before what they say of files.
    prepared = re.findall(r"python (data/prepare_\w+)\.py ([^#\n]*)", text)
    assert len(prepared) >= 12
    for script, words in prepared:
        main = importlib.import_module(Path(script).name).main
        monkeypatch.chdir(tmp_path)
        with pytest.raises(RunError, match="--raw raw/"):
            main(words.split())


def test_help_names_every_group_and_exits_well():
    shown = subprocess.run(
        [sys.executable, "main.py", "--dataset", "GRID", "--method", "inforeg", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for group in ("data set GRID", "model", "training", "prime learning window", "method inforeg", "run"):
        assert group in shown
