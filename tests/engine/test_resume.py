"""Runs that stop and go on: interruption, damaged files, a full disk, a loss that is no number."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from helpers.runs import NARROW, SETTINGS, STEPS, checkpoint, differing, rows_of, train

from methods import METHODS, PRETRAINING, method_of
from utils.errors import RunError
from utils.runs.files import read_metrics
from utils.runs.predictions import read_predictions

LENGTH = ["--epochs", "4", "--lr_step", "3"]  # the rate decays after the interrupted epoch


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def whole(demo, tmp_path_factory):
    """The uninterrupted run of a setting."""
    out, runs = tmp_path_factory.mktemp("whole"), {}

    def run(setting="joint"):
        if setting not in runs:
            runs[setting] = train(demo, out / setting, *SETTINGS[setting], *LENGTH)
        return runs[setting]

    return run


@pytest.fixture
def started(demo, tmp_path, monkeypatch):
    """A run that has been interrupted in the middle of its third epoch: (go on with more flags, its folder)."""

    def start(setting="joint"):
        flags = [*SETTINGS[setting], *LENGTH]
        interrupt(monkeypatch, flags[1], step=2 * STEPS + 2)
        with pytest.raises(Interrupted):
            train(demo, tmp_path, *flags)
        monkeypatch.undo()
        (folder,) = (tmp_path / "demo").glob("*/test/seed0")
        return (lambda *more: train(demo, tmp_path, *flags, "--resume", *more)), folder

    return start


def interrupt(monkeypatch, method, step):
    after_backward, steps = method_of(method).after_backward, []

    def stop(self, output):
        after_backward(self, output)
        steps.append(output)
        if len(steps) == step:
            raise Interrupted

    monkeypatch.setattr(method_of(method), "after_backward", stop)


def without_checksums(folder):
    """A folder in which nothing but a file itself tells that it is damaged."""
    for name in ("checksums.txt", "previous.pt"):
        (folder / name).unlink()


def same_run(one, other):
    for name in ("metrics.jsonl", "result.json", "predictions.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    ours, theirs = checkpoint(one), checkpoint(other)
    assert not differing(ours["model"], theirs["model"])
    for place, values in ours["optimizer"]["state"].items():
        assert not differing(*({k: torch.as_tensor(v) for k, v in s.items() if v is not None}
                               for s in (values, theirs["optimizer"]["state"][place])))  # fmt: skip
    assert torch.equal(ours["random"]["torch"], theirs["random"]["torch"])


def refused(go_on, *more):
    with pytest.raises(RunError) as stopped:
        go_on(*more)
    message = str(stopped.value)
    assert "\n" not in message, message
    return message


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(started, whole, setting):
    go_on, folder = started(setting)
    assert checkpoint(folder)["epoch"] == 1 and len(rows_of(folder)) == 2
    assert not (folder / "done").exists() and not (folder / "result.json").exists()
    assert go_on() == folder
    same_run(folder, whole(setting))
    if "inforeg" in setting:
        assert all(max(row["regulated"].values()) > 0 for row in rows_of(folder)[2:])
    if "official" in setting:
        assert not differing(checkpoint(folder, "best.pt")["model"], checkpoint(whole(setting), "best.pt")["model"])


def test_no_method_is_left_out():
    assert {flags[1] for flags in SETTINGS.values()} == METHODS.keys() | PRETRAINING.keys()


def test_what_a_method_draws_at_random_goes_on(demo, tmp_path, monkeypatch):
    def noisy(self, features, batch):
        draws = torch.rand(()) + np.random.rand() + random.random()
        return {name: value * draws for name, value in features.items()}, batch.target

    monkeypatch.setattr(METHODS["joint"], "modulate", noisy)
    flags = [*SETTINGS["joint"], *LENGTH]
    whole = train(demo, tmp_path / "whole", *flags)
    with monkeypatch.context() as patch:
        interrupt(patch, "joint", step=2 * STEPS + 2)
        with pytest.raises(Interrupted):
            train(demo, tmp_path, *flags)
    same_run(train(demo, tmp_path, *flags, "--resume"), whole)


def test_resnets_resume_bit_for_bit_too(demo, tmp_path, monkeypatch):
    flags = ["--method", "inforeg", "--variant", "official", "--epochs", "2"]
    whole = train(demo, tmp_path / "whole", *flags, encoders=NARROW)
    interrupt(monkeypatch, "inforeg", step=STEPS + 2)
    with pytest.raises(Interrupted):
        train(demo, tmp_path, *flags, encoders=NARROW)
    monkeypatch.undo()
    resumed = train(demo, tmp_path, *flags, "--resume", encoders=NARROW)
    same_run(resumed, whole)


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"", lambda data: b"PK"])
def test_damaged_predictions_are_named(whole, tmp_path, damage):
    path = tmp_path / "predictions.npz"
    path.write_bytes(damage((whole() / "predictions.npz").read_bytes()))
    with pytest.raises(RunError, match="predictions.npz cannot be read"):
        read_predictions(tmp_path)
    path.unlink()
    assert read_predictions(tmp_path) == {}


def test_a_run_that_stopped_in_its_first_epoch_starts_again(demo, tmp_path, monkeypatch, whole):
    interrupt(monkeypatch, "joint", step=2)
    flags = [*SETTINGS["joint"], *LENGTH]
    with pytest.raises(Interrupted):
        train(demo, tmp_path, *flags)
    monkeypatch.undo()
    same_run(train(demo, tmp_path, *flags, "--resume"), whole())


def test_a_run_killed_between_metrics_and_checkpoint_repeats_the_epoch(started, whole):
    go_on, folder = started()
    lines = (whole() / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:3]))
    go_on()
    same_run(folder, whole())


def test_a_run_killed_before_its_result_is_finished_without_training(demo, tmp_path, monkeypatch, whole):
    folder = shutil.copytree(whole(), tmp_path / "demo" / "joint" / "test" / "seed0")
    for name in ("done", "result.json"):
        (folder / name).unlink()
    interrupt(monkeypatch, "joint", step=1)
    train(demo, tmp_path, *SETTINGS["joint"], *LENGTH, "--resume", figures=True)
    same_run(folder, whole())
    assert (folder / "done").exists() and len(list((folder / "figures").glob("*.svg"))) == 4


def test_resuming_a_finished_run_returns_its_result(demo, tmp_path, monkeypatch, whole, capsys):
    import main as program

    folder = shutil.copytree(whole(), tmp_path / "demo" / "joint" / "test" / "seed0")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    interrupt(monkeypatch, "joint", step=1)
    results = []
    main = program.main
    monkeypatch.setattr(program, "main", lambda argv: results.append(main(argv)))
    train("nowhere", tmp_path, *SETTINGS["joint"], *LENGTH, "--resume")  # not even data are needed
    assert results == [json.loads((folder / "result.json").read_text())]
    assert "already done" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("state", ["a finished run", "an unfinished run"])
def test_a_run_is_not_overwritten(demo, tmp_path, whole, state):
    folder = shutil.copytree(whole(), tmp_path / "demo" / "joint" / "test" / "seed0")
    if state == "an unfinished run":
        (folder / "done").unlink()
    before = (folder / "last.pt").read_bytes()
    message = refused(lambda: train(demo, tmp_path, *SETTINGS["joint"], *LENGTH))
    assert f"{folder} holds {state}: add --resume" in message and "--tag" in message
    elsewhere = refused(lambda: train(tmp_path / "other data", tmp_path, *SETTINGS["joint"], *LENGTH))
    assert f"{folder} holds {state} on {demo}: choose --tag or --out; if the data have moved" in elsewhere
    assert (folder / "last.pt").read_bytes() == before


@pytest.mark.parametrize("flag, before, now", [("lr", 0.02, 0.04), ("fusion", "concat", "sum"), ("batch_size", 16, 8)])
def test_another_setting_does_not_resume(started, flag, before, now):
    go_on, folder = started()
    message = refused(go_on, f"--{flag}", str(now))
    assert f"--{flag} was {before}, is {now}" in message and str(folder) in message
    assert checkpoint(folder)["epoch"] == 1


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "cut last.pt": (lambda f: truncate(f / "last.pt"), ["last.pt is damaged", "delete it"]),
    "empty last.pt": (lambda f: (f / "last.pt").write_bytes(b""), ["last.pt is damaged"]),
    "text as last.pt": (lambda f: (f / "last.pt").write_text("hello"), ["last.pt is damaged"]),
    "another last.pt": (lambda f: torch.save({"weights": 1}, f / "last.pt"), ["last.pt is not a checkpoint"]),
    "weights as last.pt": (
        lambda f: torch.save({k: checkpoint(f)[k] for k in ("model", "args", "epoch", "classes")}, f / "last.pt"),
        ["last.pt holds the weights alone", "--tag"],
    ),
    "cut args.json": (lambda f: truncate(f / "args.json"), ["args.json"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_sentence(started, damage):
    """Without checksums; tests/engine/test_damage.py has those that checksums tell."""
    go_on, folder = started()
    without_checksums(folder)
    do, said = DAMAGES[damage]
    do(folder)
    message = refused(go_on)
    assert all(words in message for words in [str(folder), *said]), message


@pytest.mark.parametrize("content", [None, b'{"epoch": 0', b"1\n2\n", b"{}\n"])
def test_damaged_metrics_are_named(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"metrics.jsonl .*--tag"):
        read_metrics(path)


def test_a_damaged_checkpoint_that_is_deleted_starts_the_run_anew(started, whole):
    go_on, folder = started()
    without_checksums(folder)
    truncate(folder / "last.pt")
    assert "delete it to start the run anew" in refused(go_on)
    (folder / "last.pt").unlink()
    go_on()
    same_run(folder, whole())


def test_a_checkpoint_of_another_model_is_refused(demo, tmp_path, started):
    go_on, folder = started()
    other = train(demo, tmp_path / "other", "--method", "joint", "--fusion", "sum", "--epochs", "1")
    without_checksums(folder)
    own = checkpoint(folder)["args"]
    shutil.copy(other / "last.pt", folder / "last.pt")
    message = refused(go_on)
    assert f"{folder} holds the checkpoint of a run of another setting" in message
    assert "--fusion was sum, is concat" in message and "--epochs" not in message  # a longer run may go on
    state = checkpoint(other)
    state["args"] = own
    torch.save(state, folder / "last.pt")
    message = refused(go_on)
    assert "another model" in message and "fusion." in message and str(folder / "last.pt") in message


def test_a_loss_that_is_no_number_stops_the_run(demo, tmp_path, monkeypatch, whole):
    losses, calls = METHODS["joint"].losses, []

    def broken(self, output):
        calls.append(output)
        found = losses(self, output)
        return found | {"loss": found["loss"] * float("nan")} if len(calls) == 2 * STEPS - 1 else found

    monkeypatch.setattr(METHODS["joint"], "losses", broken)
    run = lambda *more: train(demo, tmp_path, *SETTINGS["joint"], *LENGTH, *more)  # noqa: E731
    message = refused(run)
    assert message.startswith("train loss") and "NaN" in message and "epoch 2" in message and "--lr" in message
    monkeypatch.undo()
    folder = tmp_path / "demo" / "joint" / "test" / "seed0"
    assert checkpoint(folder)["epoch"] == 0 and all(v.isfinite().all() for v in checkpoint(folder)["model"].values())
    same_run(run("--resume"), whole())


@pytest.mark.parametrize("error", [OSError("No space left on device"), RuntimeError("unexpected pos 64 vs 0")], ids=str)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(started, monkeypatch, whole, error):
    go_on, folder = started()
    before = (folder / "last.pt").read_bytes()

    def fail(state, path):
        path.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        message = refused(go_on)
    assert str(error) in message and "last.pt" in message
    assert (folder / "last.pt").read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    go_on()
    same_run(folder, whole())


def test_a_folder_that_cannot_be_made(demo, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(lambda: train(demo, tmp_path / "file", *SETTINGS["joint"]))
    assert str(tmp_path / "file") in message and "--out" in message
