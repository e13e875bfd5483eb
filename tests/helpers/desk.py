"""Programs that make runs, called in this process; the runs are forks of it, or happen within it."""

import contextlib
import multiprocessing
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from helpers.places import ROOT
from helpers.runs import SETTING, SMALL

import main as program
from dataset.demo import Demo
from scripts import ensemble, linear_probe, pretrain, reproduce, select_subset
from scripts.drawing import figures
from scripts.experiments import jobs, request
from scripts.experiments.cells import cells
from scripts.experiments.paper import EXPERIMENTS
from utils.errors import RunError, stop

CONTEXT = multiprocessing.get_context("fork")
POPEN = subprocess.Popen
PROGRAMS = {"main.py": program, "scripts/ensemble.py": ensemble, "scripts/linear_probe.py": linear_probe}
PROGRAMS |= {"scripts/pretrain.py": pretrain, "scripts/select_subset.py": select_subset}
EXTRA = "--frames 1 --image_size 32 --batch_size 16 --workers 0 --device cpu --epochs 1 "
EXTRA += " ".join(f"--{name} {value}" for name, value in SETTING.items())


def run_program(command):
    python, path, *words = command
    assert python == sys.executable
    try:
        PROGRAMS[str(Path(path).relative_to(ROOT))].main(words)
    except RunError as error:
        stop(error)


class Inline:
    """A run in this very process, over before it is looked at."""

    def __init__(self, command, stdout, **_):
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stdout):
            run_program(command)
        self.returncode = 0

    def poll(self):
        return self.returncode


class Forked:
    """A run in a fork of this process instead of a new Python, which takes many times as long to start."""

    def __init__(self, command, env, stdout, **_):
        self.process = CONTEXT.Process(target=self.run, args=(command, env, stdout))
        self.process.start()

    @staticmethod
    def run(command, env, stdout):
        subprocess.Popen = POPEN  # a run asks git where its code comes from
        os.environ.update(env)
        sys.stdout = sys.stderr = os.fdopen(os.dup(stdout.fileno()), "w", buffering=1)
        run_program(command)

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def wait(self):
        self.process.join()

    def terminate(self):
        self.process.terminate()


class Desk:
    """Where scripts are run: an environment, what they started, and the tables and figures that they asked for."""

    def __init__(self, monkeypatch, demo, out, process=Forked):
        self.monkeypatch, self.out, self.process = monkeypatch, out, process
        self.commands, self.tables, self.figures = [], [], []
        monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
        # A tenth of so few clips has not one of each class.
        withheld = dict.fromkeys(("gblending", "relearning"), {"held_out": 0.17})
        monkeypatch.setattr(Demo, "method_defaults", Demo.method_defaults | withheld)
        fake = SimpleNamespace(Popen=self.open, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
        monkeypatch.setattr(jobs, "subprocess", fake)
        monkeypatch.setattr(request, "write_experiment", lambda *told, chosen: self.tables.append(told))
        monkeypatch.setattr(figures, "draw", lambda *told: self.figures.append(told))
        self.say(SEEDS="0", DATASET="demo", DATA_ROOT=demo, OUT=out, EXTRA=EXTRA, JOBS="2")

    def say(self, **environment):
        for name, value in environment.items():
            self.monkeypatch.setenv(name, str(value))

    def open(self, command, **more):
        self.commands.append(shlex.join(command))
        return self.process(command, **more)

    def run(self, *words, main=reproduce.main):
        """Its exit status."""
        self.commands.clear()
        try:
            main(list(words))
        except SystemExit as end:
            return end.code
        return 0

    def cells(self, name):
        extra = shlex.split(os.environ["EXTRA"])
        seeds = [int(seed) for seed in os.environ["SEEDS"].split()]
        return cells(EXPERIMENTS[name], "demo", seeds, os.environ["OUT"], os.environ["DATA_ROOT"], extra)


def count_trainings(monkeypatch, file):
    """A line in `file` for each run that begins to train."""
    fit = program.fit

    def counted(run, method, test, classes, folder):
        with file.open("a") as lines:
            print(folder.path, file=lines)
        return fit(run, method, test, classes, folder)

    monkeypatch.setattr(program, "fit", counted)
