"""A run goes on beyond its last epoch, as the run that had been longer from the start."""

import json

import pytest
from helpers.acting import acting
from helpers.resuming import train_stopped
from helpers.runs import STEPS, rows_of, train

from scripts.kill import differences
from utils.errors import RunError
from utils.runs import folder as folders
from utils.runs.checkpoint import load_checkpoint

LONG = ["--epochs", "4"]


def refused(start):
    with pytest.raises(RunError) as stopped:
        start()
    message = str(stopped.value)
    assert "\n" not in message, message
    return message


@pytest.mark.parametrize(
    "more",
    [
        acting("joint", "--lr_step", "3", "--val_fraction", "0.34"),
        acting("inforeg", "--lr_step", "1", "--lr_gamma", "0.5", "--optimizer", "adamw"),
        acting("inforeg", "--schedule", "constant", "--lr_warmup", "3", "--regulation", "lr"),
        acting("gblending"),
        acting("valuation", "--lr_warmup", "1"),
        acting("g2d", "--priority_epochs", "3"),
        acting("joint", "--val_fraction", "0.34", "--patience", "9"),
    ],
    ids=lambda more: " ".join(more[1:4]),
)
def test_a_finished_run_goes_on_as_the_longer_one_bit_for_bit(demo, tmp_path, more):
    whole = train(demo, tmp_path / "whole", *more, *LONG)
    folder = train(demo, tmp_path, *more, "--epochs", "2")
    assert (folder / "done").exists()
    assert train(demo, tmp_path, *more, *LONG, "--resume") == folder
    assert differences(whole, folder) == [] and len(rows_of(folder)) == 4
    args = json.loads((folder / "args.json").read_text())
    assert args["epochs"] == load_checkpoint(folder / "last.pt")["args"]["epochs"] == 4
    assert len(args["provenance"]) == 2 and (folder / "done").exists() and not (folder / "previous.pt").exists()
    before = (folder / "done").read_bytes()
    train(demo, tmp_path, *more, *LONG, "--resume")  # it is done now
    assert (folder / "done").read_bytes() == before


def test_one_that_is_stopped_goes_on_too_and_may_be_stopped_again(demo, tmp_path):
    more = acting("inforeg")
    whole = train(demo, tmp_path / "whole", *more, *LONG)
    train_stopped(demo, tmp_path, *more, "--epochs", "2", after=STEPS + 1)
    train_stopped(demo, tmp_path, *more, "--epochs", "3", "--resume", after=1)
    folder = train(demo, tmp_path, *more, "--epochs", "3", "--resume")
    train_stopped(demo, tmp_path, *more, *LONG, "--resume", after=1)
    assert not (folder / "done").exists()
    train(demo, tmp_path, *more, *LONG, "--resume")
    assert differences(whole, folder) == []


def test_a_kill_while_it_is_made_longer_leaves_a_run_that_goes_on(demo, tmp_path, monkeypatch):
    more = acting("joint")
    whole = train(demo, tmp_path / "whole", *more, *LONG)
    folder = train(demo, tmp_path, *more, "--epochs", "2")

    def killed(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folders, "write_checked", killed)
        train(demo, tmp_path, *more, *LONG, "--resume")
    assert json.loads((folder / "args.json").read_text())["epochs"] == 2
    train(demo, tmp_path, *more, "--epochs", "2", "--resume")  # finished once more
    assert (folder / "done").exists() and len(rows_of(folder)) == 2
    train(demo, tmp_path, *more, *LONG, "--resume")
    assert differences(whole, folder) == []


def test_an_early_end_is_the_end(demo, tmp_path, capsys):
    more = acting("joint", "--val_fraction", "0.34", "--patience", "1", "--lr", "1e-30")
    folder = train(demo, tmp_path, *more, "--epochs", "3")
    rows = rows_of(folder)
    assert len(rows) == 2
    train(demo, tmp_path, *more, "--epochs", "9", "--resume")
    assert rows_of(folder) == rows and json.loads((folder / "done").read_text())["stopped_early_after_epochs"] == 2


def test_what_is_not_how_a_longer_run_begins_is_refused_with_the_reason(demo, tmp_path):
    short = ["--epochs", "2"]
    cases = {
        ("joint", "--schedule", "cosine"): "--epochs was 2, is 4, over all of which --schedule cosine falls",
        ("g2d",): "--priority_epochs was 1, is 2",
        ("gblending", "--super_epoch", "1", "--estimate_epochs", "2"): "no longer one goes on from (its last estimate",
    }
    for number, (words, said) in enumerate(cases.items()):
        out = tmp_path / str(number)
        folder = train(demo, out, *acting(*words), *short)
        kept = (folder / "args.json").read_bytes()
        message = refused(lambda out=out, words=words: train(demo, out, *acting(*words), *LONG, "--resume"))
        assert said in message and "choose --tag" in message
        assert (folder / "done").exists() and (folder / "args.json").read_bytes() == kept
    again = acting("joint", "--schedule", "cosine")
    assert "--epochs was 2, is 1)" in refused(lambda: train(demo, tmp_path / "0", *again, "--epochs", "1", "--resume"))
    assert "holds a finished run: add --resume" in refused(lambda: train(demo, tmp_path / "1", *acting("g2d"), *LONG))
