"""Programs in processes of their own that need not import torch: a process that has imported it forks one for each.

python tests/helpers/forked.py is that process: it reads a request a line and answers each in a line.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

# What a run imports, also where it is imported late.
WANTED = ("helpers.runs", "engine.train", "librosa.core.spectrum", "librosa.filters", "librosa.util.utils")
WANTED += ("sklearn.metrics", "torch.utils.tensorboard", "torch._dynamo")


class Programs:
    """start() and run() execute a program's text, as `python -c` would, in a fork of the process that they share."""

    def __init__(self, process):
        self.process = process

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, text, **environment):
        """The program's process, which is running; `environment` is set before its text is executed."""
        said = tempfile.mkdtemp(prefix="forked")
        return Started(self, self.ask(text=text, environment=environment, said=said), Path(said))

    def run(self, text, **environment):
        return self.start(text, **environment).wait()


class Started:
    def __init__(self, programs, pid, said):
        self.programs, self.pid, self.said = programs, pid, said

    def wait(self, timeout=300):
        """What subprocess.run returns; a program that takes longer is killed."""
        status = self.programs.ask(wait=self.pid, timeout=timeout)
        out, err = ((self.said / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(["forked"], status, out, err)


@contextmanager
def programs(before=()):
    """Programs that run as what `before` makes of a process, a command that ends in running the words after it."""
    command = [*before, sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Programs(process)
        process.stdin.close()


def serve():
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = status_of(request["wait"], time.monotonic() + request["timeout"])
        elif not (answer := os.fork()):
            execute(**request)
        print(answer, file=answers, flush=True)


def status_of(pid, deadline):
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def execute(text, environment, said):
    """Be the program, in the fork; its end is the process's, whatever it raises."""
    status = 1
    try:
        for place, name in ((0, os.devnull), (1, f"{said}/out"), (2, f"{said}/err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), place)
        os.environ.update(environment)
        exec(compile(text, "<program>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for name in WANTED:
        importlib.import_module(name)
    gc.freeze()  # none of it is garbage, and a fork that looks for some copies the memory that they share
    serve()
