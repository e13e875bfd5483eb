"""Kill a training run at random moments, again and again, and see that it ends as one that was left alone: bit for bit.

    python scripts/kill.py --method inforeg --kills 50
    python scripts/kill.py --method joint --kills 50 --epochs 6 --val_fraction 0.2

On the generated demo set, on a CPU, with a small encoder; other flags are those of main.py. Each life is a process of
its own that ends by SIGKILL; the next goes on with --resume. A run that has come to its end is compared with the one
that was left alone, and another one begins, until there were as many kills as asked for.
"""

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

import main as program
from dataset.demo import Demo
from engine.parser import parse
from utils.errors import RunError, one_sentence
from utils.numbers import positive
from utils.runs.checkpoint import load_checkpoint
from utils.runs.setting import run_folder

SMALL = "--dataset demo --encoder convnet --demo_clips 96 --frames 1 --epochs 4 --batch_size 8 --workers 0 --device cpu"
FORK = multiprocessing.get_context("fork")  # what a life costs is training, not the import of PyTorch


def main(argv: list[str] | None = None) -> None:
    """Kill as often as asked for, and print what came out.

    Raises:
        RunError: if a run ends otherwise than the one that was left alone.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=positive, default=50, help="in all (default: 50)")
    parser.add_argument("--draws", type=int, default=0, help="seed of the moments (default: 0)")
    own, flags = parser.parse_known_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        words = [*SMALL.split(), "--data_root", f"{place}/demo", "--tag", "killed", *flags]
        print(kill(words, Path(place), own.kills, random.Random(own.draws)))


def kill(flags: Sequence[str], out: Path, kills: int, draws: random.Random) -> str:
    """Kill runs of `flags` below `out`; returns what was done, in a sentence.

    Raises:
        RunError: if a run ends otherwise than the one that was left alone.
    """
    Demo.read_splits(parse(list(flags)))  # which generates it, in time that is no run's
    began = time.monotonic()
    whole = folder_of([*flags, "--out", str(out / "whole")])
    live([*flags, "--out", str(out / "whole")], out / "log.txt", None)
    length = time.monotonic() - began
    made, runs = 0, 0
    while made < kills:
        words = [*flags, "--out", str(out / f"run{runs}"), "--resume"]
        while not live(words, out / "log.txt", draws.uniform(0, length) if made < kills else None):
            made += 1
        if unlike := differences(whole, folder_of(words)):
            raise RunError(f"after {made} kills {', '.join(unlike)} of {folder_of(words)} differ from {whole}")
        runs += 1
    return f"{made} kills in {runs} runs of {length:.1f} s: weights, metrics, result and predictions are bit for bit " \
        "those of the run that was left alone"  # fmt: skip


def live(argv: Sequence[str], log: Path, seconds: float | None) -> bool:
    """Run main.py on this command line, and kill it after so many seconds; whether it had come to its end by then.

    Raises:
        RunError: if it ends with an error.
    """
    process = FORK.Process(target=run_main, args=(argv, log))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return False
    if process.exitcode:
        raise RunError(f"main.py ended with status {process.exitcode}:\n{log.read_text()}")
    return True


def run_main(argv: Sequence[str], log: Path) -> None:
    """One life: main.py in this process, its output in the log."""
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file), one_sentence():
        program.main(list(argv))


def folder_of(argv: Sequence[str]) -> Path:
    """The folder of the run that these words name."""
    return run_folder(parse(list(argv)))


def differences(one: Path, other: Path) -> list[str]:
    """The files and weights in which two finished runs differ."""
    names = ("metrics.jsonl", "result.json", "predictions.npz")
    unlike = [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]
    for name in filter(lambda name: (one / name).exists(), ("last.pt", "best.pt")):
        ours, theirs = (load_checkpoint(folder / name)["model"] for folder in (one, other))
        unlike += [f"{key} in {name}" for key in ours if not torch.equal(ours[key], theirs[key])]
    return unlike


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with one_sentence():
        main()
