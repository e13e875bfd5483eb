"""The floor plan: rooms from the ground up. A file imports from lower floors and from its own, and no circle exists."""

import ast
import graphlib
import re
from pathlib import Path

import pytest
from helpers.places import ROOT

# From the ground up; README.md shows the same table.
FLOORS = {
    "inforeg": "the method as a library: regulation, Fisher trace, prime learning window, scores; needs torch alone",
    "utils": "the ground: errors, files, locks, signals; `distributed/`: processes; `runs/`: the folder of a run",
    "models": "encoders, fusions with their unimodal read-outs, the multimodal model",
    "dataset": "one data set per file; `recipes/`: what a clip becomes; `storage/`: caches and shards; "
    "`prepare/`: what the preparations share",
    "selection": "which samples to label first: strategies as pure functions of feature arrays",
    "methods": "one method per file; `base.py` is the contract, `run.py` what a method may see",
    "engine": "how a method is trained: command line, set-up, loop, checkpoints, evaluation",
    "localisation": "which visible objects sound, and where (CSOL): data, stages, dictionary, metrics",
    "main.py": "trains one method on one data set",
    "data": "the preparations, from public raw files to a data set; prepared data lands here",
    "scripts": "programs, each with `--help`: demo, tests, tables, figures, probes, benchmarks",
}


def source_files(root: Path) -> dict[str, Path]:
    """{module: file} of every room."""
    paths = [path for floor in FLOORS for path in sorted(root.glob(floor if "." in floor else f"{floor}/**/*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(path: Path, modules) -> set[str]:
    """The modules of `modules` that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from package import name`: a module of the package, or a name in its __init__.py.
            names |= {
                full if (full := f"{node.module}.{alias.name}") in modules else node.module for alias in node.names
            }
    return names & modules.keys()


def floor_of(module: str) -> int:
    return [floor.removesuffix(".py") for floor in FLOORS].index(module.split(".")[0])


def climbing(imports) -> list[str]:
    return [
        f"{module} imports {other}, which is on a higher floor"
        for module, others in imports.items()
        for other in sorted(others)
        if floor_of(other) > floor_of(module)
    ]


@pytest.fixture(scope="module")
def imports():
    modules = source_files(ROOT)
    return {module: imported(path, modules) for module, path in modules.items()}


def test_no_file_imports_from_a_higher_floor(imports):
    assert len(imports) > 100 and sum(map(len, imports.values())) > 300  # so that there was something to look at
    assert not climbing(imports)


def test_no_files_import_each_other_in_a_circle(imports):
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError with the circle


def test_the_library_imports_nothing_of_ours_and_torch_alone(imports):
    own = {module: others for module, others in imports.items() if module.startswith("inforeg")}
    assert own and all(other.startswith("inforeg") for others in own.values() for other in others)
    for module in own:
        text = source_files(ROOT)[module].read_text(encoding="utf-8")
        outside = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
        assert set(outside) <= {"torch", "inforeg", "sys", "math", "collections", "typing", "dataclasses"}


def test_a_climbing_import_and_a_circle_are_found(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/low.py").write_text("def late():\n    from methods import high\n")
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/high.py").write_text("from utils.low import late\n")
    modules = source_files(tmp_path)
    found = {module: imported(path, modules) for module, path in modules.items()}
    assert climbing(found) == ["utils.low imports methods.high, which is on a higher floor"]
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(found).prepare()


def test_the_readme_shows_the_same_floors():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    rows = re.findall(r"^\| `([\w.]+?)/?` \| (.*?) \|$", section, re.MULTILINE)
    assert rows[: len(FLOORS)] == list(FLOORS.items())
