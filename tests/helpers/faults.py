"""Runs of main() in which something goes wrong while loader processes live, and what is seen of each from outside.

    python -c "from helpers.faults import play; play('FOLDER')"

Each is a process of its own, forked from one that has imported everything, and ends as a program ends.
"""

import gc
import json
import os
import signal
import tempfile
import time
from multiprocessing import active_children
from pathlib import Path

import torch
from helpers.runs import make_demo, train

from dataset import workers
from dataset.demo import Demo
from engine import evaluate
from methods.joint import Joint
from utils.errors import one_sentence

LIMIT = 90  # seconds after which a process counts as one that hangs


def fault(folder: Path) -> None:
    """Note when it happens; what has ended a run is timed from then on."""
    (folder / "fault").write_text(str(time.time()))


def raising(folder, error, call=2):
    """A function that raises `error` when it is called for this time, and does nothing before."""
    calls = []

    def act(*_, **__):
        calls.append(1)
        if len(calls) == call:
            fault(folder)
            raise error

    return act


def after(count, act):
    """A function that does `act` once it has been called so many times, by a process; its batches are of four."""
    calls = []

    def counting(*_):
        calls.append(1)
        if len(calls) > count:
            act()

    return counting


def before(owner, name, act):
    """Have `act` done whenever `owner.name` is called, before it is."""
    real = getattr(owner, name)

    def both(*args, **more):
        act(*args, **more)
        return real(*args, **more)

    setattr(owner, name, both)


def out_of_memory(folder):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")
    before(torch.optim.SGD, "step", raising(folder, error))


def bug_in_a_step(folder):
    before(torch.optim.SGD, "step", raising(folder, TypeError("a bug")))


def bug_in_evaluation(folder):
    before(evaluate, "predict", lambda model, forward, loader, device: next(iter(loader)) and None)
    before(torch.Tensor, "argmax", lambda x, **_: x.requires_grad or raising(folder, TypeError("a bug"), 1)())


def bug_before_an_epoch(folder):
    def on_epoch_start(self, run):
        for _ in run.loader(run.train):
            raising(folder, TypeError("a bug"), 1)()

    Joint.on_epoch_start = on_epoch_start


def bug_beside_a_stopped_process(folder):
    before(torch.optim.SGD, "step", raising(folder, TypeError("a bug"), 1))
    before(torch.optim.SGD, "step", lambda *_: [os.kill(child.pid, signal.SIGSTOP) for child in active_children()])


def bug_beside_a_busy_process(folder):
    bug_in_a_step(folder)
    before(Demo, "__getitem__", after(8, lambda: time.sleep(1000)))


def killed_process(folder):
    def kill(*_):
        fault(folder)
        os.kill(active_children()[0].pid, signal.SIGKILL)

    before(torch.optim.SGD, "step", kill)


def process_out_of_memory(folder):
    before(Demo, "__getitem__", after(8, raising(folder, MemoryError(), 1)))


def signalled_while_it_waits(folder):
    def act():
        time.sleep(4)  # by now it does wait
        fault(folder)
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(1000)

    workers.STOPPING = 2
    before(Demo, "__getitem__", after(8, act))


def long_temporary_folder(folder):
    place = folder / ("x" * 100)
    place.mkdir()
    os.environ["TMPDIR"], tempfile.tempdir = str(place), None
    fault(folder)


FAULTS = {
    scenario.__name__: scenario
    for scenario in (
        out_of_memory, bug_in_a_step, bug_in_evaluation, bug_before_an_epoch,
        bug_beside_a_stopped_process, bug_beside_a_busy_process, killed_process, process_out_of_memory,
        signalled_while_it_waits, long_temporary_folder,
    )
}  # fmt: skip


def play(place: str) -> None:
    """Play all scenarios; print what was seen of them, {name: {status, said, seconds, left}}, as JSON."""
    demo, seen = make_demo(Path(place) / "demo"), {}
    argv = "--method joint --epochs 1 --batch_size 4 --workers".split()
    train(demo, Path(place) / "whole", *argv, "0")  # what is imported by it will not be so by each
    gc.freeze()  # or each, as it leaves Python, looks through all that torch is made of, for more than a second
    running = {}
    for name, scenario in FAULTS.items():
        folder = Path(place) / name
        folder.mkdir()
        if (pid := os.fork()) == 0:
            os.setsid()
            os.dup2(os.open(folder / "said", os.O_CREAT | os.O_WRONLY), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            scenario(folder)
            with one_sentence():
                train(demo, folder / "out", *argv, "2")
            return
        running[pid] = folder
    until = time.time() + LIMIT
    while running:
        for pid, folder in list(running.items()):
            ended, code = os.waitpid(pid, os.WNOHANG)
            if ended or time.time() > until:
                seen[folder.name] = look(pid, folder, os.waitstatus_to_exitcode(code) if ended else None)
                del running[pid]
        time.sleep(0.02)
    print(json.dumps(seen))


def look(pid: int, folder: Path, status: int | None) -> dict:
    """Say how the process has ended, and what it has left behind."""
    at = folder / "fault"
    seconds = time.time() - float(at.read_text()) if at.exists() else None
    left = [str(path.relative_to(folder)) for path in folder.rglob("lock")]
    try:
        os.killpg(pid, signal.SIGKILL)
        left.append("processes")
    except ProcessLookupError:
        pass
    return {"status": status, "said": (folder / "said").read_text(), "seconds": seconds, "left": left}
