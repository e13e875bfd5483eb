"""Tables from one command each: each run is made once, and what survives what."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.desk import CONTEXT, EXTRA, Desk, Forked, count_trainings
from helpers.places import ROOT
from helpers.runs import rows_of

from engine import train
from methods import METHODS
from scripts import reproduce
from scripts.experiments import jobs
from scripts.experiments.cells import LOG, last_words
from utils import lock
from utils.errors import RunError


def test_two_processes_on_one_folder_train_each_cell_once(desk, tmp_path, monkeypatch):
    count_trainings(monkeypatch, tmp_path / "trained")
    desk.say(SEEDS="0 1", JOBS="1")
    team = [CONTEXT.Process(target=reproduce.main, args=(["table7"],)) for _ in range(2)]
    for process in team:
        process.start()
    for process in team:
        process.join()
    assert [process.exitcode for process in team] == [0, 0]
    assert all(cell.done for cell in desk.cells("table7"))
    trained = (tmp_path / "trained").read_text().splitlines()
    runs = [str(cell.folder) for cell in desk.cells("table7") if cell.row.program == "main.py"]
    assert sorted(trained) == sorted(runs)
    assert not list(desk.out.rglob("*lock*"))


def test_a_script_that_was_killed_goes_on(desk, tmp_path, capsys):
    desk.say(EXTRA=f"{EXTRA} --epochs 4")
    evaluate = train.evaluate_splits

    def slow(*more):
        time.sleep(1)
        return evaluate(*more)

    def alone():
        os.setsid()
        train.evaluate_splits = slow
        reproduce.main(["figure5"])

    script = CONTEXT.Process(target=alone)
    script.start()
    folders = [cell.folder for cell in desk.cells("figure5")]
    while not all((folder / "last.pt").exists() for folder in folders):
        assert script.is_alive()
        time.sleep(0.005)
    os.killpg(script.pid, signal.SIGKILL)
    script.join()
    assert not any((folder / "done").exists() for folder in folders)
    deadline = time.monotonic() + 20
    while any(lock.owner(folder) for folder in folders):  # nobody waits for the runs of a dead script
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = [len(rows_of(folder)) for folder in folders]
    assert 0 < min(before) <= max(before) < 4 and all((folder / "lock").exists() for folder in folders)
    assert desk.run("figure5") == 0
    assert all((folder / LOG).read_text().count("$ ") == 2 for folder in folders)

    whole = Desk(desk.monkeypatch, os.environ["DATA_ROOT"], tmp_path / "whole")
    whole.say(EXTRA=os.environ["EXTRA"] + " --epochs 4")
    assert whole.run("figure5") == 0
    for one, other in zip(desk.cells("figure5"), folders, strict=True):
        assert one.folder != other and one.folder.parent.name == other.parent.name
        for name in ("metrics.jsonl", "result.json"):
            assert (one.folder / name).read_bytes() == (other / name).read_bytes()


def test_a_script_that_is_ended_ends_its_runs(desk, monkeypatch):
    """Called as a program; the fork's own subprocess module is replaced."""

    def alone():
        subprocess.Popen = Forked
        sys.argv = ["reproduce.py", "figure5"]
        runpy.run_path(str(ROOT / "scripts" / "reproduce.py"), run_name="__main__")

    desk.say(EXTRA=f"{EXTRA} --epochs 500")
    script = CONTEXT.Process(target=alone)
    script.start()
    folders = [cell.folder for cell in desk.cells("figure5")]
    while not all((folder / "last.pt").exists() for folder in folders):
        assert script.is_alive()
        time.sleep(0.01)
    runs = [json.loads((folder / "lock").read_text())["pid"] for folder in folders]
    script.terminate()
    script.join()
    assert script.exitcode == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{pid}").exists() for pid in runs)


def test_a_cell_that_fails_does_not_stop_the_others(desk, capsys, monkeypatch):
    losses = METHODS["unimodal"].losses

    def broken(self, output):
        if self.args.modality == "audio":
            raise ArithmeticError("no such luck")
        return losses(self, output)

    with monkeypatch.context() as patch:
        patch.setattr(METHODS["unimodal"], "losses", broken)
        assert desk.run("table7") == 1
    audio, visual, average, joint, inforeg = desk.cells("table7")
    assert [cell.done for cell in (audio, visual, average, joint, inforeg)] == [False, True, False, True, True]
    *_, skipped, failed = capsys.readouterr().out.splitlines()
    log = audio.folder / LOG
    assert failed == f"failed: audio alone on demo, seed 0: ArithmeticError: no such luck ({log})"
    assert skipped == f"not run: average of these on demo, seed 0: it needs {audio.folder / 'last.pt'}"
    assert "Traceback" in log.read_text() and audio.missing() == "ArithmeticError: no such luck"
    assert average.missing() == "not run" and joint.missing() == ""
    assert len(desk.tables) == 1
    assert desk.run("table7") == 0 and audio.done and average.done and len(desk.commands) == 2
    assert log.read_text().count("$ ") == 2


def test_a_run_that_is_killed_is_named_with_its_signal(desk, capsys, monkeypatch):
    monkeypatch.setattr(METHODS["joint"], "losses", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert desk.run("figure3") == 1
    failed = capsys.readouterr().out.splitlines()[-1]
    assert failed.startswith(
        "failed: Joint training on demo, seed 0: killed by signal 9, at: joint on demo: 48 training"
    )
    assert not desk.figures and desk.tables


def test_what_another_machine_is_at_is_left_to_it(desk, capsys):
    joint, inforeg = desk.cells("figure5")
    claim = lock.this_process() | {"place": ["faraway", "", ""], "pid": 12}
    joint.folder.mkdir(parents=True)
    (joint.folder / "lock").write_text(json.dumps(claim))
    assert desk.run("figure5") == 0 and inforeg.done and not joint.done and len(desk.commands) == 1
    said = capsys.readouterr().out
    assert f"not run: Joint training on demo, seed 0: process 12 on faraway since {claim['since']} is at it" in said
    assert joint.missing() == f"running: process 12 on faraway since {claim['since']}"
    assert desk.tables and not desk.figures
    os.utime(joint.folder / "lock", (0, 0))
    assert desk.run("figure5") == 0 and joint.done and len(desk.commands) == 1 and desk.figures


def test_a_machine_that_was_slower_takes_up_something_else(desk, monkeypatch, tmp_path):
    """It finds the folder free, and in use once its run has started."""
    count_trainings(monkeypatch, tmp_path / "trained")
    joint, _ = desk.cells("figure5")
    claim = lock.this_process() | {"place": ["faraway", "", ""], "pid": 12}
    start = jobs.start

    def slower(job, environment):
        if job.folder == joint.folder and not joint.folder.exists():
            joint.folder.mkdir(parents=True)
            (joint.folder / "lock").write_text(json.dumps(claim))
        return start(job, environment)

    monkeypatch.setattr(jobs, "start", slower)
    desk.say(JOBS="1")
    assert desk.run("figure5") == 0
    assert len(desk.commands) == 2 and len((tmp_path / "trained").read_text().splitlines()) == 1
    assert last_words(joint.folder / LOG) == ""


def test_data_that_are_not_there_are_missed_once_and_before_any_run(desk, tmp_path):
    desk.say(DATASET="CREMAD", DATA_ROOT=tmp_path / "nowhere", EXTRA="")
    with pytest.raises(RunError, match=r"nowhere does not exist.*\(by DATA_ROOT; DATASET names those to run on\)$"):
        reproduce.main(["table2"])
    assert not desk.commands and not desk.out.exists()


@pytest.mark.parametrize(
    "said, words",
    [
        (dict(SEEDS="0 x"), "SEEDS=0 x: 'x' is not a whole number from 0 on"),
        (dict(SEEDS="-1"), "SEEDS=-1: '-1' is not a whole number from 0 on"),
        (dict(JOBS="0"), "JOBS=0: '0' is not a whole number from 1 on"),
        (dict(DATASET="demo CREMA"), "DATASET=demo CREMA: CREMA is none of CREMAD, "),
        (dict(EXTRA="--tag 'x"), "EXTRA=--tag 'x: No closing quotation"),
        (dict(EXTRA="--epochs 1 --tag=mine"), "EXTRA=--epochs 1 --tag=mine: --tag=mine is for the script to say"),
        (dict(EXTRA="--seed 4"), "EXTRA=--seed 4: --seed is for the script to say"),
        (dict(EXTRA="--beta 1"), "table2 on demo: --beta is a flag of --method inforeg, not of joint"),
        (dict(EXTRA="--epoch 1"), "table2 on demo: unknown argument --epoch; did you mean --epochs?"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused_by_name(desk, said, words):
    desk.say(**said)
    with pytest.raises(RunError, match=re.escape(words)) as refused:
        desk.run("table2")
    assert "\n" not in str(refused.value) and not desk.out.exists()


def test_jobs_share_the_machine(monkeypatch):
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    log = {"PYTHONUNBUFFERED": "1"}
    assert jobs.environments(1) == [log]
    one_thread = log | {"OMP_NUM_THREADS": "1"}
    assert jobs.environments(3) == [one_thread | {"CUDA_VISIBLE_DEVICES": gpu} for gpu in "010"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8a1")
    assert [found["CUDA_VISIBLE_DEVICES"] for found in jobs.environments(4)] == ["5", "GPU-8a1"] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert jobs.environments(2) == [log | {"OMP_NUM_THREADS": "4"}] * 2


def test_the_last_words_of_a_log(tmp_path):
    log = tmp_path / "log.txt"
    assert last_words(log) == ""
    log.write_text("$ python main.py\nepoch 1\n\n")
    assert last_words(log) == "epoch 1"
    log.write_text("$ python main.py\nwarning\nerror: no disk\nwritten\n$ python main.py\nerror: x is in use by y\n")
    assert last_words(log) == "no disk"
    log.write_text("$ python main.py\nerror: no disk\n$ python main.py\nepoch 2\n")
    assert last_words(log) == "epoch 2"
    assert [jobs.duration(seconds) for seconds in (5.4, 90, 5400)] == ["5 s", "1.5 min", "1.5 h"]
