"""The lock of a run's folder, with real processes: one owner at a time, whatever became of the one before."""

import hashlib
import json
import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers.places import ROOT
from helpers.runs import SMALL, flags, folder_of, make_demo, rows_of, train

from dataset.demo import Demo
from main import main
from methods import METHODS
from utils import lock
from utils.errors import InUseError, RunError
from utils.lock import BEAT, STALE, Lock, owner

CONTEXT = multiprocessing.get_context("fork")
# Prints a line once it holds the folder, and keeps it. A test in the background of a shell is started with Control-C
# ignored, and so would this program be.
HOLD = "import signal, sys, time; from pathlib import Path; from utils.lock import Lock\n"
HOLD += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
HOLD += "with Lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path / "run"."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def claim_of(folder):
    return json.loads((folder / "lock").read_bytes())


def write_claim(folder, seconds_old=0.0, **changes):
    """The lock of this very process, but for `changes`; as a machine elsewhere left it, say."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lock").write_text(json.dumps(lock.this_process() | changes))
    touched = time.time() - seconds_old
    os.utime(folder / "lock", (touched, touched))


def test_the_second_process_stops_and_names_the_first(tmp_path, holder):
    folder = tmp_path / "run"
    with pytest.raises(InUseError) as refused, Lock(folder):
        pass
    message, claim = str(refused.value), claim_of(folder)
    assert f"process {holder.pid} on {os.uname().nodename} since {claim['since']}" in message
    assert claim["since"].startswith(time.strftime("%Y-")) and "\n" not in message
    assert refused.value.status == 75
    assert owner(folder) in message and holder.poll() is None and claim == claim_of(folder)


def test_a_killed_owner_is_followed_even_while_it_is_a_zombie(tmp_path, holder):
    folder = tmp_path / "run"
    holder.kill()  # SIGKILL; nobody has waited for it yet, so its number is still taken
    while "Z" not in open(f"/proc/{holder.pid}/stat").read().rpartition(")")[2].split():
        time.sleep(0.01)
    assert (folder / "lock").exists() and owner(folder) is None
    with Lock(folder) as taken:
        taken.check()
        assert claim_of(folder)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == [folder] and not list(folder.iterdir())


def test_a_number_that_another_process_has_been_given_since_is_no_owner(tmp_path):
    write_claim(tmp_path)
    assert owner(tmp_path).startswith(f"process {os.getpid()} on ")
    write_claim(tmp_path, started="1")
    assert owner(tmp_path) is None


@pytest.mark.parametrize("elsewhere", [0, 1, 2], ids=["another host", "before a boot", "another PID namespace"])
def test_an_owner_elsewhere_lives_as_long_as_it_touches_the_file(tmp_path, elsewhere):
    place = [*lock.place()]
    place[elsewhere] = "elsewhere"
    # Neither has a process of that number here, which says nothing about it.
    write_claim(tmp_path, seconds_old=2 * BEAT, place=place, pid=2**22 + 1, started="1")
    with pytest.raises(InUseError, match=f"process {2**22 + 1} on {place[0]} "), Lock(tmp_path):
        pass
    write_claim(tmp_path, seconds_old=STALE + 1, place=place)
    with Lock(tmp_path):
        assert claim_of(tmp_path)["place"] == lock.place()


def test_the_owner_touches_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    assert BEAT * 3 < STALE
    with Lock(tmp_path):
        os.utime(tmp_path / "lock", (0, 0))
        deadline = time.monotonic() + 5
        while lock.age(tmp_path / "lock") > 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_claim_that_cannot_be_read_is_of_a_process_that_starts_until_it_is_old(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    with pytest.raises(InUseError, match="a process that is starting"), Lock(tmp_path):
        pass
    os.utime(tmp_path / "lock", (0, 0))
    with Lock(tmp_path):
        pass


def test_an_owner_that_was_thought_dead_does_not_write_on(tmp_path):
    with Lock(tmp_path) as first:
        first.check()
        write_claim(tmp_path, place=["faraway", "", ""], pid=7)
        with pytest.raises(InUseError, match="process 7 on faraway"):
            first.check()
    assert claim_of(tmp_path)["pid"] == 7  # and leaves the lock to its owner


def test_locks_of_two_names_do_not_exclude_each_other(tmp_path):
    with Lock(tmp_path), Lock(tmp_path, "probe.lock"):
        assert owner(tmp_path) and owner(tmp_path, "probe.lock")
        with pytest.raises(InUseError), Lock(tmp_path, "probe.lock"):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError, SystemExit])
def test_released_however_the_block_ends(tmp_path, end):
    with pytest.raises(end), Lock(tmp_path / "a" / "b"):
        assert owner(tmp_path / "a" / "b")
        raise end
    assert not list(tmp_path.iterdir())  # nor are the folders left that it made
    (tmp_path / "mine").mkdir()
    with Lock(tmp_path / "mine" / "run"):
        (tmp_path / "mine" / "run" / "log.txt").touch()
    assert [path.name for path in (tmp_path / "mine" / "run").iterdir()] == ["log.txt"]
    with Lock(tmp_path / "mine"):
        pass
    with Lock(tmp_path / "mine" / "other"):
        pass
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["run"]


def test_released_on_control_c(tmp_path, holder):
    holder.send_signal(signal.SIGINT)
    holder.wait(timeout=30)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write to .*file/run.*choose --out"), Lock(tmp_path / "file" / "run"):
        pass


def claim_again_and_again(folder, rounds, barrier, won, overlaps):
    """Each round all processes claim a folder whose owner is dead, and who wins keeps it until all have tried."""
    for number in range(rounds):
        here = folder / str(number)
        barrier.wait()
        try:
            with Lock(here):
                try:
                    os.close(os.open(here / "inside", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    overlaps.put(number)
                won.put(number)
                barrier.wait()
                os.unlink(here / "inside")
        except InUseError:
            barrier.wait()
        barrier.wait()


@pytest.mark.parametrize("stale", [True, False])
def test_of_many_claimants_exactly_one_wins(tmp_path, stale):
    rounds, processes = 150, 4
    for number in range(rounds):
        if stale:
            write_claim(tmp_path / str(number), started="1")
    barrier, won, overlaps = CONTEXT.Barrier(processes), CONTEXT.Queue(), CONTEXT.Queue()
    args = (tmp_path, rounds, barrier, won, overlaps)
    team = [CONTEXT.Process(target=claim_again_and_again, args=args) for _ in range(processes)]
    for process in team:
        process.start()
    winners = Counter(won.get(timeout=60) for _ in range(rounds))
    for process in team:
        process.join(60)
    assert [process.exitcode for process in team] == [0] * processes
    assert winners == Counter(range(rounds)) and won.empty() and overlaps.empty()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_slow_claimant_does_not_replace_one_that_was_faster(tmp_path, monkeypatch):
    """It has seen the dead owner, and looks again only when another has taken over: the one moment that matters."""
    write_claim(tmp_path, started="1")
    faster, described = Lock(tmp_path), lock.described

    def slow(*seen):
        monkeypatch.undo()
        found = described(*seen)
        faster.__enter__()
        return found

    monkeypatch.setattr(lock, "described", slow)
    with pytest.raises(InUseError), Lock(tmp_path):
        pass
    faster.check()
    faster.__exit__()
    assert not list(tmp_path.iterdir())


def test_a_claimant_that_died_while_taking_over_is_followed_too(tmp_path):
    write_claim(tmp_path, started="1")
    guard = tmp_path / f".lock.{hashlib.sha1((tmp_path / 'lock').read_bytes()).hexdigest()}"
    guard.touch()
    os.utime(guard, (0, 0))
    with Lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_folder(tmp_path, monkeypatch, capsys):
    """The second is told by status and message, and disturbs nothing; the run of a killed process goes on."""
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    argv = flags(make_demo(tmp_path / "demo"), tmp_path / "out", "--method", "joint", "--epochs", "9")
    folder = folder_of(argv)
    first = CONTEXT.Process(target=main, args=(argv,))
    first.start()
    while not (folder / "last.pt").exists():
        assert first.is_alive()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # alive, however slow
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for more in ([], ["--resume"]):
        monkeypatch.setattr(sys, "argv", ["main.py", *argv, *more])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(f"{ROOT}/main.py", run_name="__main__")
        assert stopped.value.code == 75
        said = capsys.readouterr().err
        assert re.fullmatch(f"error: {re.escape(str(folder))} is in use by process {first.pid} on .*\n", said)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    first.kill()
    first.join()
    assert not (folder / "done").exists()
    main([*argv, "--resume"])
    assert (folder / "done").exists() and not (folder / "lock").exists()
    assert len(rows_of(folder)) == 9


def test_a_finished_run_needs_no_lock(tmp_path, capsys):
    folder = train(make_demo(tmp_path / "demo"), tmp_path / "out", "--method", "joint", "--epochs", "1")
    write_claim(folder, place=["elsewhere", "", ""])  # of a table that probes it, say
    assert train(tmp_path / "demo", tmp_path / "out", "--method", "joint", "--epochs", "1", "--resume") == folder
    assert "already done" in capsys.readouterr().out


def test_a_run_that_another_process_has_just_finished_is_not_trained_again(tmp_path, monkeypatch, capsys):
    argv = flags(make_demo(tmp_path / "demo"), tmp_path / "out", "--method", "joint", "--epochs", "1", "--resume")
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    enter = Lock.__enter__

    def finished_before(self):
        monkeypatch.setattr(Lock, "__enter__", enter)
        main(argv)
        return enter(self)

    monkeypatch.setattr(Lock, "__enter__", finished_before)
    main(argv)
    said = capsys.readouterr().out
    assert said.count("written to") == 1 and said.count("already done") == 1


def test_a_run_whose_folder_was_taken_writes_no_more_epochs(tmp_path, monkeypatch):
    argv = flags(make_demo(tmp_path / "demo"), tmp_path / "out", "--method", "joint", "--epochs", "3")
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    folder, end = folder_of(argv), METHODS["joint"].on_epoch_end

    def taken(self, run):
        if run.epoch == 1:
            write_claim(folder, place=["faraway", "", ""], pid=7)
        return end(self, run)

    monkeypatch.setattr(METHODS["joint"], "on_epoch_end", taken)
    with pytest.raises(InUseError, match="process 7 on faraway"):
        main(argv)
    assert len(rows_of(folder)) == 1 and claim_of(folder)["pid"] == 7


def test_without_proc_a_lock_holds_while_a_process_of_its_number_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(
        lock, "Path", lambda path: tmp_path / "nothing" if str(path).startswith("/proc") else Path(path)
    )
    assert lock.place() == [socket.gethostname()] and lock.started(os.getpid()) is None
    with Lock(tmp_path / "run"):
        assert f"process {os.getpid()}" in owner(tmp_path / "run")
        with pytest.raises(InUseError):
            Lock(tmp_path / "run").__enter__()
    dead = lock.this_process() | {"pid": 2**22 + 1}  # beyond the largest number that Linux gives
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text(json.dumps(dead))
    assert owner(tmp_path / "run") is None
