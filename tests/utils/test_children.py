"""Processes that a program has started end with it, also those that do not listen."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context

import pytest
from helpers.places import ROOT
from helpers.preparing import deadly_recipe

from dataset.prepare.clips import Clip, Maker
from dataset.prepare.workers import prepare_clips
from utils.children import kill, noted, wait_for

FORK = get_context("fork")


def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)


def begun(target=deaf):
    processes = set()
    with noted(processes):
        FORK.Process(target=target, daemon=True).start()
    return processes


@pytest.mark.parametrize("stopped", [False, True])
def test_one_that_does_not_listen_is_killed(stopped):
    processes, start = begun(), time.monotonic()
    (process,) = processes
    if stopped:
        os.kill(process.pid, signal.SIGSTOP)
    wait_for(processes, 0.2)
    assert process.is_alive()
    kill(processes)
    assert process.exitcode == -signal.SIGKILL
    assert time.monotonic() - start < 2


def test_one_that_ends_is_waited_for():
    processes, start = begun(lambda: time.sleep(0.2)), time.monotonic()
    wait_for(processes, 60)
    assert time.monotonic() - start < 30
    kill(processes)
    assert [process.exitcode for process in processes] == [0]


PROGRAM = """
import signal, sys, time
from multiprocessing import get_context
from utils.children import noted

def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(1000)

with noted(set()):
    get_context("fork").Process(target=deaf, daemon=True).start()
time.sleep(0.5)
raise ValueError("a bug")
"""


def test_a_program_that_ends_takes_them_with_it():
    """multiprocessing would wait for ever for this one, which also holds the program's output open."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "deaf\n" and done.stderr.endswith("ValueError: a bug\n")
    assert done.returncode == 1


def test_a_preparation_that_an_error_ends_waits_for_no_clip(tmp_path):
    start = time.monotonic()
    clips = [Clip(f"c{i}", label, "", (tmp_path / f"{i}",)) for i, label in enumerate(("hangs", "is refused", "hangs"))]
    with pytest.raises(PermissionError, match="denied"):
        prepare_clips(clips, Maker(deadly_recipe, tmp_path / "out", fps=1), 2)
    assert time.monotonic() - start < 60
