"""Folders and files that may not be written or read; also as root, who is told to respect permissions here."""

import os
import shutil
import subprocess

import pytest
from helpers.forked import programs
from helpers.namespaces import INSIDE, allowed
from helpers.runs import make_demo, train

POWERS = "-dac_override,-dac_read_search"  # of root over permissions
AS_ANYONE = ["setpriv", f"--bounding-set={POWERS}", f"--inh-caps={POWERS}"] if os.geteuid() == 0 else ["env"]
obeyed = shutil.which(AS_ANYONE[0]) and subprocess.run([*AS_ANYONE, "true"], capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not obeyed, reason="root cannot be told to respect permissions here")
ARGV = ["--method", "inforeg", "--epochs", "3", "--modulate_during", "all", "--resume"]

# A run that is forbidden something, before it starts or after its first epoch; prints what is said.
PROGRAM = """
import sys
from pathlib import Path
from helpers.runs import train
from utils.errors import RunError
from utils.runs.history import History

demo, out, append = Path({demo!r}), Path({out!r}), History.append

def forbid(*arguments):
    append(*arguments)
    (folder,) = out.glob("*/*/*/seed0")
    {forbid}

History.append = forbid
try:
    train(demo, out, *{argv!r})
except RunError as error:
    print("said:", error)
"""


def text(demo, out, forbid):
    return PROGRAM.format(demo=str(demo), out=str(out), argv=ARGV, forbid=forbid or "pass")


def said(done):
    """What the run of a program has stopped with; '' if it came to its end."""
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.partition("said: ")[2] for line in done.stdout.splitlines() if line.startswith("said: ")]
    return "".join(lines)


@pytest.fixture(scope="module")
def anyone():
    """anyone(demo, out, forbid): what a run in a process without root's powers stops with."""
    with programs(AS_ANYONE) as started:
        yield lambda demo, out, forbid="": said(started.run(text(demo, out, forbid)))


@pytest.fixture(scope="module")
def reference(demo, tmp_path_factory):
    return train(demo, tmp_path_factory.mktemp("reference"), *ARGV)


def same(folder, reference):
    names = ("metrics.jsonl", "result.json", "predictions.npz")
    return all((folder / name).read_bytes() == (reference / name).read_bytes() for name in names)


def test_a_folder_that_may_not_be_written_is_named_before_anything_is_trained(anyone, demo, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    message = anyone(demo, out)
    assert message.startswith(f"cannot write to {out}") and "Permission denied" in message
    assert not list(out.iterdir())


def test_permission_that_goes_away_costs_what_was_not_saved_and_no_more(anyone, demo, reference, tmp_path):
    message = anyone(demo, tmp_path, forbid="folder.chmod(0o555)")
    (folder,) = tmp_path.glob("*/*/*/seed0")
    assert str(folder) in message and "Permission denied" in message and "\n" not in message
    folder.chmod(0o755)
    assert same(train(demo, tmp_path, *ARGV), reference)


@pytest.mark.parametrize("name", ["last.pt", "metrics.jsonl", "args.json", "checksums.txt"])
def test_a_file_of_the_run_that_may_not_be_read(anyone, demo, reference, tmp_path, name):
    assert anyone(demo, tmp_path, "if len(arguments[0].epochs) == 2: raise RunError('stopped')") == "stopped"
    (folder,) = tmp_path.glob("*/*/*/seed0")
    assert (folder / name).exists()
    (folder / name).chmod(0)
    message = anyone(demo, tmp_path)
    assert str(folder / name) in message and "Permission denied" in message and "\n" not in message
    (folder / name).chmod(0o644)
    assert same(train(demo, tmp_path, *ARGV), reference)


@pytest.mark.parametrize("kind", ["wav", "jpg", "csv"])
def test_data_that_may_not_be_read(anyone, tmp_path, kind):
    demo = make_demo(tmp_path / "demo")
    path = sorted(demo.rglob(f"*.{kind}"))[0]
    for file in path.parent.glob("*.jpg") if kind == "jpg" else [path]:  # a clip's frames: one of them is drawn
        file.chmod(0)
    message = anyone(demo, tmp_path / "out")
    assert (path.parent if kind == "jpg" else path).name in message and "\n" not in message
    assert "Permission denied" in message or "no permission to read" in message


@pytest.mark.skipif(not allowed, reason="this kernel lets no user mount a tmpfs in a namespace")
def test_a_disk_that_becomes_read_only(demo, reference, tmp_path):
    """As Linux makes it after an error of the disk: the folder's permissions are what they were."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, keep = f'mount -t tmpfs -o size=8m tmpfs "{disk}"', f'cp -r "{disk}" "{tmp_path}/kept"'
    script = f'{mount} && "$@"; status=$?; {keep}; exit $status'
    remount = f"__import__('subprocess').run(['mount', '-o', 'remount,ro', {str(disk)!r}], check=True)"
    with programs([*INSIDE, "sh", "-c", script, "sh"]) as inside:
        message = said(inside.run(text(demo, disk, remount)))
    assert "Read-only file system" in message and "\n" not in message
    assert same(train(demo, tmp_path / "kept", *ARGV), reference)
