"""What several processes gain over one: the same batch, shared among them.

    python scripts/benchmark.py ddp --dataset CREMAD --processes 2 --batch_size 16

    efficiency = t_1 / (N t_N)

t_1: seconds of a step of one process, t_N: of N processes that share the same batch, so 1 is a gain of N. Every process
has one thread and, on CPUs, a core of its own, to which it is bound; on GPUs each has one of these. `torchrun
--standalone` (gloo on CPUs, NCCL on GPUs) starts the N and the single one, which then take turns: a round is --steps
steps of each. Inputs are random, in the data set's shapes. Flags are those of `step`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist

from engine.parser import parse
from engine.setup import choose_device
from methods import METHODS
from scripts.benchmarks.step import flags_of, take
from scripts.benchmarks.timing import Report, in_turn, median_of, range_of, synchronise
from utils.distributed.processes import processes, rank, world
from utils.errors import RunError, one_sentence
from utils.numbers import positive
from utils.runs.provenance import ROOT

OURS = {"--method": "name what to measure by --methods", "--synthetic": "the inputs always are"}


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    parser.add_argument(
        "--methods", choices=METHODS, nargs="+", default=["joint", "inforeg"], metavar="NAME",
        help="default: joint inforeg",
    )  # fmt: skip
    parser.add_argument("--processes", type=positive, default=2, help="N (default: 2)")
    parser.add_argument("--steps", type=positive, default=3, help="of each a round (default: 3)")
    parser.set_defaults(synthetic=True)


def measure(asked: argparse.Namespace, words: Sequence[str]) -> Report:
    """The efficiency of every method that `asked` names, under main.py's flags `words`.

    Raises:
        RunError: if a process fails, or the machine has fewer cores (GPUs) than there are to be processes.
    """
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        flags = flags_of(asked.dataset, asked.methods, words, Path(folder))
        args = parse(flags["bare"])
        device = choose_device(args)
        there = torch.cuda.device_count() if device.type == "cuda" else len(os.sched_getaffinity(0))
        if asked.processes > there:
            kind = "GPU" if device.type == "cuda" else "core"
            raise RunError(f"--processes {asked.processes}: each takes a {kind} of its own, and there are {there}")
        for name in asked.methods:
            with ExitStack() as stack:
                counts = (1, asked.processes)
                groups = [stack.enter_context(Group(count, name, flags[name], asked.steps)) for count in counts]
                times = in_turn([group.clock() for group in groups], 1, asked.rounds, name)
            efficiency = [one / (asked.processes * shared) for one, shared in times]
            one, shared = (median_of([1000 * s for s in column], 1) for column in zip(*times, strict=True))
            rows.append(
                {"method": name, "ms a step, 1 process": one, f"ms a step, {asked.processes} processes": shared}
                | {"efficiency, median": median_of(efficiency), "efficiency, range": range_of(efficiency)}
            )
            raw[name] = {"seconds": times, "efficiency": efficiency}
    title = (
        f"One process and {asked.processes} on {asked.dataset} (random inputs), batches of {args.batch_size} in all, "
        f"on {device}, {args.precision}, a thread each: {asked.rounds} rounds of {asked.steps} steps, in turn."
    )
    return Report(title, device, {"processes": asked.processes, "rows": raw}, [rows])


class Group(ExitStack):
    """`count` processes that torchrun has started; each takes `steps` steps of row `name` when it is asked to."""

    def __init__(self, count: int, name: str, argv: Sequence[str], steps: int):
        super().__init__()
        self.what = f"{count} process(es) of {name}"
        self.said = self.enter_context(tempfile.TemporaryFile("w+"))
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.torchrun = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            + ["-m", "scripts.benchmarks.ddp", json.dumps({"name": name, "argv": list(argv), "steps": steps})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, bufsize=0,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )  # fmt: skip
        self.enter_context(self.torchrun)  # which closes their input, and waits for them to end

    def clock(self) -> Iterator[float]:
        """The seconds of a step, by rounds, without end."""
        while True:
            with suppress(BrokenPipeError):
                self.torchrun.stdin.write(b"go\n")
            answer = self.torchrun.stdout.readline()
            if not answer:
                raise RunError(f"{self.what} failed: {self.last_words()}")
            yield float(answer)

    def last_words(self) -> str:
        """The error that the processes ended with, or their last line."""
        self.torchrun.wait()
        self.said.seek(0)
        lines = [line for line in self.said.read().splitlines() if line.strip()] or ["they said nothing"]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines[-1:])[0]


def take_steps(name: str, argv: Sequence[str], steps: int) -> None:
    """Take steps, in each of the processes; the first reads when to go on, and prints the seconds of a step."""
    device = choose_device(parse(list(argv)))
    if device.type == "cpu":
        core = sorted(os.sched_getaffinity(0))[int(os.environ["LOCAL_RANK"])]
        os.sched_setaffinity(0, {core})
    with processes():
        row = take(name, argv, synthetic=True)
        while another_round():
            synchronise(device)
            began = perf_counter()
            for _ in range(steps):
                row.step()
            synchronise(device)
            print((perf_counter() - began) / steps, flush=True)


def another_round() -> bool:
    """Whether there is to be another round; the others learn it from the first process, and sleep until then."""
    going = torch.tensor(rank() == 0 and sys.stdin.readline() != "")
    if world() > 1:
        dist.broadcast(going, src=0)
    return bool(going)


if __name__ == "__main__":
    with one_sentence():
        take_steps(**json.loads(sys.argv[1]))
