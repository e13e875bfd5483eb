"""A run that something unforeseen ends says so and ends, within seconds, with its lock released and no process left."""

import json
import re

import pytest
from helpers.faults import FAULTS
from helpers.namespaces import allowed
from helpers.runs import make_demo

SECONDS = 45  # the limits of PyTorch and of ours are at most 5; leaving Python takes seconds on a busy machine

SENTENCES = {
    "out_of_memory": ["the GPU is out of memory (2.00 GiB more were asked for)", "--batch_size"],
    "killed_process": ["a loader process was killed", "memory", "--workers"],
    "process_out_of_memory": ["this machine is out of memory", "--workers"],
    "long_temporary_folder": ["TMPDIR (/", "xxx)", "AF_UNIX path too long", "--workers 0"],
}


@pytest.fixture(scope="module")
def seen(forked, tmp_path_factory):
    done = forked.run(f"from helpers.faults import play; play({str(tmp_path_factory.mktemp('faults'))!r})")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", FAULTS)
def test_it_ends_within_seconds(seen, name):
    run = seen[name]
    assert run["status"] == (143 if name == "signalled_while_it_waits" else 1), run["said"]
    assert run["seconds"] < SECONDS
    assert run["left"] == []


@pytest.mark.parametrize("name", SENTENCES)
def test_it_says_in_one_sentence_what_to_do(seen, name):
    said = seen[name]["said"]
    assert said.startswith("error: ") and said.count("\n") == 1
    assert all(words in said for words in SENTENCES[name])


@pytest.mark.parametrize("name", [name for name in FAULTS if name.startswith("bug")])
def test_a_bug_has_a_traceback(seen, name):
    assert seen[name]["said"].rstrip().endswith("TypeError: a bug")


def test_a_run_that_is_stopped_while_it_waits_says_how_to_go_on(seen):
    said = seen["signalled_while_it_waits"]["said"].splitlines()
    assert said[-1].startswith("stopped by SIGTERM while it waited for a batch") and said[-1].endswith("--resume")


# Runs whose batches have 9.8 MB each, with as many MB of shared memory as are named.
IN_LITTLE_ROOM = """
import json, subprocess
from pathlib import Path
from helpers.namespaces import enter, mount
from helpers.runs import train
from utils.errors import RunError, sentence

said = []
enter()
mount("/dev/shm", megabytes=1)
for room in (1, 24):
    subprocess.run(["mount", "-o", f"remount,size={{room}}m", "/dev/shm"], check=True)
    try:
        argv = "--method joint --epochs 1 --image_size 224 --workers 1".split()
        train(Path({demo!r}), Path({out!r}) / str(room), *argv)
    except RunError as error:
        said.append(sentence(error))
print(json.dumps(said))
"""


@pytest.mark.skipif(not allowed, reason="this kernel lets no user mount a tmpfs in a namespace")
def test_a_small_shared_memory_is_named_at_the_first_batch(forked, tmp_path):
    demo, out = make_demo(tmp_path / "demo"), tmp_path / "out"
    done = forked.run(IN_LITTLE_ROOM.format(demo=str(demo), out=str(out)))
    assert done.returncode == 0, done.stderr[-2000:]
    one, three = json.loads(done.stdout.splitlines()[-1])
    assert one.startswith(
        "a batch of 9.8 MB finds no room in shared memory (/dev/shm has 0.9 MB free): lower --batch_size"
    )
    # A page or two of the 24 MiB are taken by what this process shares with its own.
    assert re.match(
        r"3 batches of 9\.8 MB may wait at a time, but /dev/shm, where they do, had 25\.[12] MB free: lower", three
    )
    assert "Traceback" not in done.stderr
