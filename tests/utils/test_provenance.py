"""Where a run comes from, as its args.json tells: command, code, libraries, machine, data."""

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
import torch
from helpers.runs import flags, train

from dataset import DATASETS, checksums
from engine.parser import parse
from utils.errors import RunError
from utils.runs.provenance import checksum, provenance
from utils.runs.provenance import code as cached

CPU = torch.device("cpu")
code = cached.__wrapped__


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit: git(*words) runs in it."""
    root = tmp_path / "repository"
    root.mkdir()

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (root / "main.py").write_text("1\n")
    (root / ".gitignore").write_text("results/\n")
    git("add", ".")
    git("commit", "-qm", "first")
    git.root = root
    return git


def test_a_run_tells_where_it_comes_from(demo, tmp_path):
    argv = flags(demo, tmp_path, "--method", "joint", "--epochs", "1")
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "1")
    (entry,) = json.loads((folder / "args.json").read_text())["provenance"]
    assert shlex.split(entry["command"]) == ["python", "main.py", *argv]
    assert entry["versions"]["python"] == platform.python_version()
    assert entry["versions"]["torch"] == version("torch") and entry["versions"]["numpy"] == np.__version__
    assert entry["machine"]["gpu"] is None and entry["machine"]["platform"] == platform.platform()
    files = ("train.csv", "test.csv", "demo.json")
    assert entry["data"] == {name: sha256((demo / name).read_bytes()) for name in files}


def test_the_commit_and_what_differs_from_it(repository):
    root, head = repository.root, repository("rev-parse", "HEAD").strip()
    assert code(root) == {"commit": head, "dirty": False, "changes": None}
    (root / "results").mkdir()
    (root / "results" / "x.py").write_text("ignored")
    (root / "notes.txt").write_text("no code")
    assert code(root) == {"commit": head, "dirty": False, "changes": None}
    seen = []
    for name, text in (("main.py", "2\n"), ("main.py", "3\n"), ("new module.py", "4\n"), ("new module.py", "5\n")):
        (root / name).write_text(text)
        found = code(root)
        assert found["commit"] == head and found["dirty"] is True and code(root) == found
        seen.append(found["changes"])
    assert len(set(seen)) == 4
    repository("add", ".")
    assert code(root)["dirty"] is True  # staged, but in no commit
    repository("commit", "-qm", "second")
    found = code(root)
    assert found["dirty"] is False and found["commit"] not in (None, head)


def test_without_git_or_a_repository_nothing_is_known_and_nothing_fails(tmp_path, repository, monkeypatch):
    unknown = {"commit": None, "dirty": None, "changes": None}
    assert code(tmp_path) == unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code(repository.root) == unknown
    assert provenance("main.py", [], CPU, None, root=tmp_path)["commit"] is None


def test_a_continuation_adds_its_own_entry(demo, tmp_path, monkeypatch):
    from utils.runs import provenance as origin

    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "1")
    before = json.loads((folder / "args.json").read_text())
    (folder / "done").unlink()
    monkeypatch.setattr(origin, "code", lambda root: {"commit": "another", "dirty": True, "changes": "x"})
    train(demo, tmp_path, "--method", "joint", "--epochs", "1", "--resume", "--workers", "1")
    after = json.loads((folder / "args.json").read_text())
    first, second = after.pop("provenance")
    assert [first] == before.pop("provenance") and after == before
    assert second["commit"] == "another" and "--resume" in second["command"] and "--resume" not in first["command"]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_does_not_go_on_with_other_data(demo, tmp_path, finished):
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "1")
    if not finished:
        (folder / "done").unlink()
    held = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = tmp_path / "other"
    shutil.copytree(demo, other)
    train(other, tmp_path, "--method", "joint", "--epochs", "1", "--resume") if finished else None  # the same data
    one, two = (other / name for name in ("train.csv", "test.csv"))
    trained, tested = (path.read_text().splitlines(keepends=True) for path in (one, two))
    one.write_text("".join([*trained[1:], tested[0]]))
    two.write_text("".join([*tested[1:], trained[0]]))
    with pytest.raises(RunError) as refused:
        train(other, tmp_path, "--method", "joint", "--epochs", "1", "--resume")
    message = str(refused.value)
    assert "train.csv, test.csv" in message and str(demo) in message and str(other) in message and "--tag" in message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == held


def test_a_run_of_before_these_entries_goes_on(demo, tmp_path):
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "1")
    args = json.loads((folder / "args.json").read_text())
    del args["provenance"]
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "checksums.txt").unlink()
    (folder / "done").unlink()
    train(demo, tmp_path, "--method", "joint", "--epochs", "1", "--resume")
    assert len(json.loads((folder / "args.json").read_text())["provenance"]) == 1


def test_checksums_follow_the_content_of_files_of_any_size(tmp_path):
    small = tmp_path / "train.csv"
    small.write_bytes(b"clip,label\n")
    assert checksum(small) == sha256(b"clip,label\n")
    os.mkfifo(tmp_path / "pipe")
    assert all(checksum(path) is None for path in (tmp_path / "nowhere", tmp_path, tmp_path / "pipe"))
    series = np.zeros(5_000_000, dtype=np.float32)  # 20 MB
    np.savez(tmp_path / "one.npz", x=series, y=series[:2])
    np.savez(tmp_path / "same.npz", x=series, y=series[:2])
    series[0] = 1  # far from the end of the file
    np.savez(tmp_path / "other.npz", x=series, y=series[:2])
    one, same, other = (checksum(tmp_path / f"{name}.npz") for name in ("one", "same", "other"))
    assert one == same != other and one.startswith(f"{(tmp_path / 'one.npz').stat().st_size} bytes")
    with zipfile.ZipFile(tmp_path / "one.npz") as file:
        assert (tmp_path / "one.npz").stat().st_size - file.start_dir < 2**16


def test_data_prepared_otherwise_have_other_checksums(demo, tmp_path):
    root = shutil.copytree(demo, tmp_path / "demo")
    args = parse(["--dataset", "demo", "--data_root", str(root)])
    before = checksums(args)
    manifest = {"settings": {"fps": 3}, "clips": {"AudioWAV": 1}}
    (root / "manifest.json").write_text(json.dumps(manifest))
    prepared = checksums(args)
    assert prepared.keys() - before.keys() == {"settings of manifest.json"}
    (root / "manifest.json").write_text(json.dumps(manifest | {"clips": {"AudioWAV": 2}}))
    assert checksums(args) == prepared
    (root / "manifest.json").write_text(json.dumps(manifest | {"settings": {"fps": 1}}))
    assert checksums(args) != prepared
    (root / "manifest.json").write_text("{")
    assert checksums(args) == before | {"settings of manifest.json": None}
    with (root / "test.csv").open("a") as file:
        file.write("another,class0\n")
    assert {name for name, value in checksums(args).items() if value != before.get(name)} == {"test.csv"}


SPLITS = {
    "CREMAD": ([], ["train.csv", "test.csv"]),
    "KineticsSounds": ([], ["train.csv", "test.csv"]),
    "AVE": ([], ["train.csv", "test.csv", "val.csv"]),
    "UCF101": (["--split", "2"], ["train02.csv", "test02.csv", "classInd.txt"]),
    "ModelNet40": ([], ["train.csv", "test.csv"]),
    "HatefulMemes": (["--test_split", "test_seen"], ["train.jsonl", "test_seen.jsonl"]),
    "Food101": ([], ["train.csv", "test.csv", "classes.txt"]),
    "MOSI": ([], ["series.npz"]),
    "MOSEI": ([], ["series.npz"]),
    "GRID": ([], ["train.csv", "test.csv"]),
    "AVMNIST": ([], ["train.npz", "test.npz"]),
    "features": ([], ["train.npz", "test.npz"]),
    "folder": ([], ["train.csv", "test.csv", "classes.txt"]),
    "demo": ([], ["train.csv", "test.csv", "demo.json"]),
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_names_the_files_that_it_reads(dataset, tmp_path):
    more, wanted = SPLITS[dataset]
    args = parse(["--dataset", dataset, "--data_root", str(tmp_path), *more])
    assert DATASETS[dataset].split_files(args) == [tmp_path / name for name in wanted]


def test_a_data_set_that_names_no_files_has_no_checksums(monkeypatch, tmp_path):
    monkeypatch.delattr(DATASETS["CREMAD"].__mro__[1], "split_files")
    args = parse(["--dataset", "CREMAD", "--data_root", str(tmp_path)])
    assert checksums(args) == {}
