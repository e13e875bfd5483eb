"""Folders and files that may not be written or read; also as root, who is told to respect permissions here."""

import sys

import pytest
from helpers.namespaces import allowed
from helpers.runs import make_demo, train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="root obeys permissions on Linux alone")
ARGV = ["--method", "inforeg", "--epochs", "3", "--modulate_during", "all", "--resume"]

# A run that is forbidden something, before it starts or after its first epoch; prints what is said.
PROGRAM = """
import shutil, subprocess
from pathlib import Path
from helpers.namespaces import enter, mount, obey
from helpers.runs import train
from utils.errors import RunError
from utils.runs.history import History

demo, out, append = Path({demo!r}), Path({out!r}), History.append

def forbid(*arguments):
    append(*arguments)
    (folder,) = out.glob("*/*/*/seed0")
    {forbid}

History.append = forbid
{before}
try:
    train(demo, out, *{argv!r})
except RunError as error:
    print("said:", error)
{after}
"""


def text(demo, out, forbid, before="obey()", after=""):
    words = dict(demo=str(demo), out=str(out), argv=ARGV, forbid=forbid or "pass", before=before, after=after)
    return PROGRAM.format(**words)


def said(done):
    """What the run of a program has stopped with; '' if it came to its end."""
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.partition("said: ")[2] for line in done.stdout.splitlines() if line.startswith("said: ")]
    return "".join(lines)


@pytest.fixture(scope="module")
def anyone(forked):
    """anyone(demo, out, forbid): what a run in a process without root's powers stops with."""
    return lambda demo, out, forbid="": said(forked.run(text(demo, out, forbid)))


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
def test_a_disk_that_becomes_read_only(forked, demo, reference, tmp_path):
    """As Linux makes it after an error of the disk: the folder's permissions are what they were."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    remount = f"subprocess.run(['mount', '-o', 'remount,ro', {str(disk)!r}], check=True)"
    before, after = "enter(); mount(out, megabytes=8)", f"shutil.copytree(out, {str(kept)!r})"
    message = said(forked.run(text(demo, disk, remount, before, after)))
    assert "Read-only file system" in message and "\n" not in message
    assert same(train(demo, kept, *ARGV), reference)
