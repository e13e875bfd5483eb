"""Programs in processes of their own that need not import torch: each is a fork of one that has imported everything.

That one is itself forked from pytest before the first test, so that no test has left anything in it. It reads a
request a line and answers each in a line.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

# What programs import beside what the tests do, also where they import it late.
WANTED = ("helpers.runs", "engine.train", "librosa.core.spectrum", "librosa.filters", "librosa.util.utils")
WANTED += ("sklearn.metrics", "torch.utils.tensorboard", "torch._dynamo", "av", "cv2", "tqdm")


class Programs:
    """start() and run() execute a program's text, as `python -c` would, in a fork of the process that they share."""

    def __init__(self, requests, answers):
        self.requests, self.answers = requests, answers

    def ask(self, **request):
        self.requests.write(json.dumps(request) + "\n")
        self.requests.flush()
        return json.loads(self.answers.readline())

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


def together(forked, count, text):
    """As torchrun: `count` processes of a program's text that know of one another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [forked.start(text, **place, RANK=str(number)) for number in range(count)]


def finish(processes):
    """Wait for processes that should all end well."""
    ended = [process.wait() for process in processes]
    assert [process.returncode for process in ended] == [0] * len(ended), "\n".join(p.stdout + p.stderr for p in ended)


def file(path, *words):
    """The text of a program that stands in a file, as `python PATH WORDS` starts it but in a process group of its own:
    signals may be sent to that group, which is gone when the last process has left that the program has started.
    """
    return f"from helpers.forked import execute_file; execute_file({[str(word) for word in (path, *words)]!r})"


def execute_file(words):
    os.setpgid(0, 0)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


@contextmanager
def programs():
    (asked, asking), (answered, answering) = os.pipe(), os.pipe()
    if (pid := os.fork()) == 0:
        os.close(asking)  # or the end of pytest would not be seen
        serve(asked, answering)
    os.close(asked)
    os.close(answering)
    with os.fdopen(asking, "w") as requests, os.fdopen(answered) as answers:
        yield Programs(requests, answers)
    os.waitpid(pid, 0)


def serve(asked, answering):
    """Be the process that is forked, until nobody can ask any more."""
    try:
        with os.fdopen(asked) as requests, os.fdopen(answering, "w") as answers:
            first = True
            for line in requests:
                if first:
                    first = prepare()
                request = json.loads(line)
                if "wait" in request:
                    answer = status_of(request["wait"], time.monotonic() + request["timeout"])
                elif not (answer := os.fork()):
                    execute(**request)
                print(answer, file=answers, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def prepare():
    for name in WANTED:
        importlib.import_module(name)
    gc.freeze()  # none of it is garbage, and a fork that looks for some copies the memory that they share


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
        encoding = environment.get("PYTHONIOENCODING", "utf-8")
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)
        exec(compile(text, "<program>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # these two are how Python ends: processes that the program has left are waited for
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
