"""Rotten files of a run's folder: whatever the damage, it is seen and named, and what can be saved is."""

import functools
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.runs import checkpoint, differing, train

from methods import METHODS
from scripts import collect, linear_probe
from utils.errors import DamageError, RunError
from utils.files import write_checked
from utils.runs.checkpoint import load_checkpoint
from utils.runs.files import read_json, read_metrics
from utils.runs.predictions import read_predictions

FLAGS = ["--method", "inforeg", "--threshold", "-10", "--val_fraction", "0.34", "--epochs", "4", "--lr", "0.1"]
STEPS = 2  # an epoch
READERS = {
    "last.pt": load_checkpoint,
    "previous.pt": load_checkpoint,
    "best.pt": load_checkpoint,
    "args.json": read_json,
    "metrics.jsonl": read_metrics,
    "result.json": read_json,
    "predictions.npz": lambda path: read_predictions(path.parent),
}
OF_A_FINISHED_RUN = [name for name in READERS if name != "previous.pt"]


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def whole(demo, tmp_path_factory):
    return train(demo, tmp_path_factory.mktemp("whole"), *FLAGS)


@pytest.fixture(scope="module")
def other(demo, tmp_path_factory):
    """Another run's folder: of another seed."""
    return train(demo, tmp_path_factory.mktemp("other"), *FLAGS, "--seed", "1")


def stop_at(step):
    """A patch under which training stops in this step."""
    after, steps = METHODS["inforeg"].after_backward, []

    def stop(self, output):
        after(self, output)
        steps.append(output)
        if len(steps) == step:
            raise Stopped

    patch = pytest.MonkeyPatch()
    patch.setattr(METHODS["inforeg"], "after_backward", stop)
    return patch


@pytest.fixture(scope="module")
def stopped(demo, tmp_path_factory):
    """The folder of a run that was stopped in its fourth epoch."""
    out = tmp_path_factory.mktemp("stopped")
    patch = stop_at(3 * STEPS + 2)
    with pytest.raises(Stopped):
        train(demo, out, *FLAGS)
    patch.undo()
    return out


@pytest.fixture
def copy_of_stopped(demo, stopped, tmp_path):
    """(go on with it, its folder)."""
    out = shutil.copytree(stopped, tmp_path / "out")
    (folder,) = (out / "demo").glob("*/test/seed0")
    return functools.partial(train, demo, out, *FLAGS, "--resume"), folder


def truncate(data, foreign):
    return data[: len(data) // 2]


def cut_the_last_byte(data, foreign):
    return data[:-1]


def zero(data, foreign):
    return bytes(len(data))


def zero_the_end(data, foreign):  # what a power cut leaves of blocks that were not written yet
    half = len(data) // 2
    return data[:half] + bytes(len(data) - half)


def empty(data, foreign):
    return b""


def swap(data, foreign):
    assert foreign != data
    return foreign


def flip(data, place):
    damaged = bytearray(data)
    damaged[place // 8] ^= 1 << place % 8
    return bytes(damaged)


DAMAGES = [truncate, cut_the_last_byte, zero, zero_the_end, empty, swap]


def same_run(one, other):
    for name in ("metrics.jsonl", "result.json", "predictions.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("last.pt", "best.pt"):
        assert not differing(checkpoint(one, name)["model"], checkpoint(other, name)["model"])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", OF_A_FINISHED_RUN)
def test_a_damaged_file_is_named(whole, other, tmp_path, name, damage):
    folder = shutil.copytree(whole, tmp_path / "run")
    READERS[name](folder / name)
    (folder / name).write_bytes(damage((folder / name).read_bytes(), (other / name).read_bytes()))
    with pytest.raises(DamageError) as refused:
        READERS[name](folder / name)
    said = str(refused.value)
    assert said.startswith(f"{folder / name} is damaged (its sha256 is not in checksums.txt): ") and "\n" not in said


@pytest.mark.parametrize("name", OF_A_FINISHED_RUN)
def test_every_flipped_bit_is_seen(whole, tmp_path, name):
    folder = shutil.copytree(whole, tmp_path / "run")
    data, draws = (folder / name).read_bytes(), random.Random(0)
    for place in [0, 8 * len(data) - 1, *draws.sample(range(8 * len(data)), 40)]:
        (folder / name).write_bytes(flip(data, place))
        with pytest.raises(DamageError):
            READERS[name](folder / name)


def test_a_flipped_bit_in_a_checkpoint_alone_is_seen_or_changes_nothing(whole, tmp_path):
    """Far from its folder, by the CRCs of the file: its padding and its headers have none."""
    data, draws, seen = (whole / "last.pt").read_bytes(), random.Random(0), 0
    path = tmp_path / "last.pt"
    path.write_bytes(data)
    held = load_checkpoint(path)
    for place in draws.sample(range(8 * len(data)), 60):
        path.write_bytes(flip(data, place))
        try:
            found = load_checkpoint(path)
        except DamageError as error:
            seen += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert not differing(found["model"], held["model"]) and found["rows"] == held["rows"]
    assert seen > 20


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_is_used_with_a_warning(copy_of_stopped, whole, other, capsys, damage):
    go_on, folder = copy_of_stopped
    last = folder / "last.pt"
    assert checkpoint(folder)["epoch"] == 2 and checkpoint(folder, "previous.pt")["epoch"] == 1
    last.write_bytes(damage(last.read_bytes(), (other / "last.pt").read_bytes()))
    go_on()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said == [
        f"warning: {last} is damaged (its sha256 is not in checksums.txt): going on with previous.pt, 2 epochs"
    ]
    same_run(folder, whole)


def test_a_damaged_checkpoint_never_takes_the_place_of_a_sound_one(copy_of_stopped, whole, capsys):
    go_on, folder = copy_of_stopped
    for _ in range(2):  # damaged, gone on with, stopped in the epoch after, damaged, ...
        (folder / "last.pt").write_bytes(b"rotten")
        patch = stop_at(STEPS + 1)
        with pytest.raises(Stopped):
            go_on()
        patch.undo()
        assert load_checkpoint(folder / "last.pt")["epoch"] == 2
        assert load_checkpoint(folder / "previous.pt")["epoch"] == 1
    (folder / "last.pt").unlink()
    go_on()
    assert "it is missing" in capsys.readouterr().err
    same_run(folder, whole)
    assert not (folder / "previous.pt").exists()


def test_two_damaged_checkpoints_are_named_together(copy_of_stopped, whole):
    go_on, folder = copy_of_stopped
    for name in ("last.pt", "previous.pt"):
        (folder / name).write_bytes(b"rotten")
    with pytest.raises(RunError) as refused:
        go_on()
    said = str(refused.value)
    assert str(folder / "last.pt") in said and "previous.pt: " in said and "delete both" in said and "\n" not in said
    for name in ("last.pt", "previous.pt"):
        (folder / name).unlink()
    go_on()
    same_run(folder, whole)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["metrics.jsonl", "best.pt"])
def test_other_damage_is_named_when_a_run_goes_on(copy_of_stopped, whole, other, capsys, name, damage):
    go_on, folder = copy_of_stopped
    (folder / name).write_bytes(damage((folder / name).read_bytes(), (other / name).read_bytes()))
    go_on()
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said.startswith(f"warning: {folder / name} is damaged (")
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()


def test_an_undamaged_folder_gives_no_warning(copy_of_stopped, whole, capsys):
    go_on, folder = copy_of_stopped
    go_on()
    assert "warning" not in capsys.readouterr().err
    same_run(folder, whole)


def test_the_arguments_come_from_the_checkpoint_when_theirs_are_deleted(demo, copy_of_stopped, whole):
    go_on, folder = copy_of_stopped
    (folder / "args.json").write_bytes(b"{}")
    with pytest.raises(RunError, match=r"args.json is damaged .*: delete it, and --resume goes on"):
        go_on()
    (folder / "args.json").unlink()
    with pytest.raises(RunError, match="holds an unfinished run: add --resume"):
        train(demo, folder.parents[3], *FLAGS)
    with pytest.raises(RunError, match="checkpoint of a run of another setting .--lr was 0.1, is 0.5.: choose --tag"):
        go_on("--lr", "0.5")
    go_on()
    same_run(folder, whole)


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "predictions.npz"])
def test_a_finished_run_writes_again_what_is_damaged(demo, whole, tmp_path, name):
    folder = tmp_path / "demo" / "inforeg" / "test" / "seed0"
    shutil.copytree(whole, folder)
    (folder / name).write_bytes(zero((folder / name).read_bytes(), b""))
    with pytest.raises(DamageError, match="delete `done`, if there is one, and --resume writes it again"):
        READERS[name](folder / name)
    (folder / "done").unlink()
    patch = stop_at(1)  # nothing is trained
    train(demo, tmp_path, *FLAGS, "--resume")
    patch.undo()
    same_run(folder, whole)


def test_a_finished_run_without_its_checkpoint_is_to_be_trained_again(whole, tmp_path):
    """Since --resume would find it done; one that is not done starts anew without its checkpoint (test_resume.py)."""
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:-1])
    for checksums in (True, False):
        with pytest.raises(DamageError, match="the run is done, .* remove the folder and train it again$"):
            load_checkpoint(folder / "last.pt")
        if checksums:
            (folder / "checksums.txt").unlink()


def test_scripts_end_in_the_same_sentence(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "demo" / "inforeg" / "test" / "seed0")
    damaged = "is damaged .its sha256 is not in checksums.txt."
    for name, script in (("last.pt", lambda: linear_probe.main([str(folder / "last.pt")])),
                         ("result.json", lambda: collect.main([str(tmp_path)])),
                         ("metrics.jsonl", lambda: collect.main([str(tmp_path)]))):  # fmt: skip
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(flip(data, 8 * len(data) // 2))
        with pytest.raises(RunError, match=f"{name} {damaged}"):
            script()
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("content", [b"", bytes(100), b"\xff\xfe", b"hello\n"], ids=repr)
def test_damaged_checksums_are_named_and_may_be_deleted(copy_of_stopped, whole, content):
    go_on, folder = copy_of_stopped
    (folder / "checksums.txt").write_bytes(content)
    with pytest.raises(RunError, match=f"{folder / 'checksums.txt'} is damaged .*: delete it to go on without") as said:
        go_on()
    assert "\n" not in str(said.value)
    (folder / "checksums.txt").unlink()
    go_on()
    same_run(folder, whole)


def test_checkpoints_are_not_blamed_for_damaged_checksums(copy_of_stopped, whole):
    """Both are sound: nobody must be told to delete them. Without args.json they are what is read first."""
    go_on, folder = copy_of_stopped
    (folder / "args.json").unlink()
    (folder / "checksums.txt").write_bytes(b"hello\n")
    for missing in ("lock", "last.pt"):
        (folder / missing).unlink(missing_ok=True)
        with pytest.raises(DamageError, match="checksums.txt is damaged .*: delete it") as said:
            go_on()
        assert "last.pt" not in str(said.value)
    (folder / "checksums.txt").unlink()
    go_on()
    same_run(folder, whole)


def test_checksums_that_have_lost_their_last_newline_are_gone_on_with(copy_of_stopped, whole):
    go_on, folder = copy_of_stopped
    sums = folder / "checksums.txt"
    sums.write_bytes(sums.read_bytes()[:-1])
    go_on()
    same_run(folder, whole)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"hello\n"], ids=repr)
def test_nothing_is_added_to_damaged_checksums(tmp_path, content):
    sums = tmp_path / "checksums.txt"
    sums.write_bytes(content)
    with pytest.raises(DamageError, match="checksums.txt is damaged"):
        write_checked(tmp_path / "args.json", "{}")
    assert sums.read_bytes() == content and not (tmp_path / "args.json").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("name", ["last.pt", "metrics.jsonl", "args.json", "checksums.txt"])
def test_what_is_no_file_is_named(copy_of_stopped, whole, capsys, name, make):
    """And not waited for. A pipe is replaced, where the run has another copy; a folder may hold what nobody has."""
    go_on, folder = copy_of_stopped
    (folder / name).unlink()
    make(folder / name)
    try:
        go_on()
    except RunError as refused:
        said = str(refused)
        assert "\n" not in said
    else:
        said = capsys.readouterr().err
        same_run(folder, whole)
    assert f"{folder / name} is damaged (" in said or f"cannot write {folder / name} " in said


def test_a_folder_in_place_of_the_lock(copy_of_stopped):
    go_on, folder = copy_of_stopped
    (folder / "lock").mkdir()
    with pytest.raises(RunError, match=f"{folder / 'lock'} cannot be read or written .Is a directory.:"):
        go_on()


def test_sha256sum_reads_them(whole):
    """The newest line of every file, which is the version that lies there."""
    newest = {line.split()[1]: line for line in (whole / "checksums.txt").read_text().splitlines()}
    assert newest.keys() == {*OF_A_FINISHED_RUN, "done"}
    words = ["sha256sum", "--check", "--strict", "-"]
    subprocess.run(words, input="\n".join(newest.values()), cwd=whole, text=True, check=True, capture_output=True)


def test_a_reader_of_a_run_that_goes_on_finds_no_damage(demo, tmp_path, monkeypatch):
    """Before and after every file takes its place."""
    replace, reads = os.replace, []

    def read_around(source, target):
        folder = target.parent
        for moment in ("before", "after"):
            for name in READERS:
                if (folder / name).exists():
                    READERS[name](folder / name)
                    reads.append((moment, name))
            if moment == "before":
                replace(source, target)

    monkeypatch.setattr(os, "replace", read_around)
    folder = train(demo, tmp_path, *FLAGS, "--epochs", "2")
    assert {name for _, name in reads} == set(READERS) and json.loads((folder / "result.json").read_text())
