"""inforeg as its users have it: installed by pip into an environment of its own, far from this checkout."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import BytesParser

import pytest
from helpers.places import ROOT

NOT_COPIED = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "results", "raw", "data", "*.log")

# A user's program: it has modules of its own under names that stand in this checkout, too; then comes what the README's
# loop expects (two encoders under a head whose read-outs are given, an optimizer, batches), and the loop itself.
PROGRAM = """
import json, sys, time
import torch
import torch.nn as nn

begun = time.perf_counter()
from inforeg import FisherTrace, InfoReg, PrimeWindow
seconds = time.perf_counter() - begun
import utils

class TwoEncoders(nn.Module):
    def __init__(self):
        super().__init__()
        self.audio, self.visual, self.head = nn.Linear(4, 3), nn.Linear(5, 3), nn.Linear(6, 2)

    def forward(self, inputs):
        audio, visual = self.audio(inputs[0]), self.visual(inputs[1])
        unimodal = {
            "audio": audio @ self.head.weight[:, :3].T + self.head.bias / 2,
            "visual": visual @ self.head.weight[:, 3:].T + self.head.bias / 2,
        }
        return self.head(torch.cat([audio, visual], dim=1)), unimodal

torch.manual_seed(0)
model, epochs = TwoEncoders(), 4
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = [((torch.randn(8, 4), torch.randn(8, 5)), torch.randint(2, (8,))) for _ in range(3)]
before = [p.detach().clone() for p in model.parameters()]

%s
moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before)]
traces = len(regulation.trace.history["audio"])
print(json.dumps({"seconds": seconds, "utils": utils.__file__, "path": sys.path, "moved": moved, "traces": traces}))
"""


def run(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """What `pip install .` builds, from a copy of the checkout: setuptools leaves files where it builds."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, place / "checkout", ignore=NOT_COPIED)
    offline = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", place, "./checkout", cwd=place)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment that has the wheel, and the libraries of this one but not this checkout."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    own = sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)})
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", "-q", *offline, "--target", own, wheel, cwd=place)
    # A path in a .pth file brings its packages, but not the editable installs that stand there.
    (place / own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def said(python, tmp_path_factory):
    """The lines that the program with the README's loop prints; the last one is JSON."""
    project = tmp_path_factory.mktemp("project")
    for name in ("utils", "models", "methods", "dataset", "engine"):
        (project / f"{name}.py").write_text("")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (block,) = [code for code in blocks if "InfoReg(" in code]
    (project / "main.py").write_text(PROGRAM % block)
    # Python puts the folder of main.py first; -E keeps the tests' PYTHONPATH out.
    return run(python, "-E", "main.py", cwd=project).splitlines(), project


def test_the_wheel_holds_exactly_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "inforeg").iterdir() if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert "inforeg/py.typed" in sources


def test_torch_is_the_only_dependency(wheel):
    archive = zipfile.ZipFile(wheel)
    (path,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
    metadata = BytesParser().parsebytes(archive.read(path))
    assert metadata.get_all("Requires-Dist") == ["torch>=2.1"]
    loaded = {word for name in (ROOT / "inforeg").glob("*.py") for word in imported(name.read_text())}
    assert loaded <= {"torch", "inforeg", *sys.stdlib_module_names}


def imported(source):
    """The first names of the modules that a file imports."""
    return re.findall(r"^(?:from|import) (\w+)", source, re.M)


def test_it_is_imported_beside_the_users_own_modules(said):
    lines, project = said
    found = json.loads(lines[-1])
    assert found["utils"] == str(project / "utils.py")
    assert str(ROOT) not in found["path"]


def test_it_is_imported_in_a_fifth_of_a_second(said):
    assert json.loads(said[0][-1])["seconds"] < 0.2


def test_the_readmes_own_loop_runs_as_printed(said):
    *epochs, last = said[0]
    found = json.loads(last)
    assert found["traces"] == len(epochs) == 4
    assert all("prime_window" in line for line in epochs)
    assert all(found["moved"])
