"""Killed at any moment, a run that goes on ends as the one that was left alone."""

import os
import random
import sys
from itertools import count

import pytest
from helpers.acting import acting
from helpers.decoded import remember
from helpers.runs import SMALL, flags, folder_of, train

import main as program
from dataset.demo import Demo
from scripts.kill import FORK, differences, kill
from utils import lock

METHODS = ("inforeg", "mmpareto", "relearning", "valuation", "gblending", "pmr")  # each keeps a state of another kind
DIED = 77
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir")  # audited events of the file system


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    remember(monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_moments(demo, tmp_path, method):
    more = ["--val_fraction", "0.17"] if method == "inforeg" else []
    words = flags(demo, tmp_path, *acting(method, "--epochs", "2", *more))
    assert kill(words, tmp_path, kills=1, draws=random.Random(0)).startswith("1 kills in ")


def die_before(number, folder, argv):
    """Run main() up to its `number`-th event on a file of the run's folder."""
    events = count(1)

    def watch(event, args):
        if event in CHANGES and str(folder) in str(args[0]) and (event != "open" or args[1] != "r"):
            if next(events) == number:
                os._exit(DIED)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.addaudithook(watch)
    program.main(argv)


def lives(argv, number):
    process = FORK.Process(target=die_before, args=(number, folder_of(argv), argv))
    process.start()
    process.join()
    assert process.exitcode in (0, DIED)
    return process.exitcode == 0


def test_killed_before_every_change_of_a_file(demo, tmp_path, monkeypatch):
    """Each opened to be written, renamed, removed or made: every fourth of them, which takes half a minute."""
    monkeypatch.setattr(lock, "STALE", 0.01)  # or a claimant that was killed while it claimed is waited for
    more = ["--method", "inforeg", "--threshold", "-10", "--epochs", "2", "--val_fraction", "0.17"]
    whole = train(demo, tmp_path / "whole", *more)
    for number in count(1, 4):
        argv = flags(demo, tmp_path / str(number), *more, "--resume")
        if lives(argv, number):
            break
        program.main(argv)
        folder = folder_of(argv)
        assert differences(whole, folder) == [], number
        # TensorBoard's files have a number each; a process that was killed leaves its lock, or its claim to it.
        own = ("events.", "lock", ".lock.")
        left, wanted = ({p.name for p in f.iterdir() if not p.name.startswith(own)} for f in (folder, whole))
        assert left == wanted
    assert number > 40
