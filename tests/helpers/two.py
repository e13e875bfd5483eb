"""What test_distributed.py starts in several processes, as torchrun would: runs of main() in float64, one by one.

python tests/helpers/two.py JOBS [--stop-after EPOCHS] [--die RANK] [--term RANK]     JOBS: a JSON list of command lines
"""

import argparse
import contextlib
import json
import math
import os
import signal
from functools import partial

import pytest
import torch
from helpers.decoded import remember
from helpers.runs import SmallEncoder

import main as program
from dataset.demo import Demo
from engine.checkpoints import Checkpoints
from methods import METHODS

torch.set_num_threads(1)
TOLERANCE = 1e-6  # of numbers in float64, after six steps


class Encoder(SmallEncoder):
    def fold(self, x):
        return super().fold(x.to(self.conv.weight))  # the data are float32


ENCODERS = {"audio": partial(Encoder, channels=1), "visual": partial(Encoder, channels=3)}


class Stopped(Exception):
    pass


def same(one, two):
    """Rows of metrics are the same but for how sums are rounded."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            same(one[name], two[name])
    elif isinstance(one, float) and not math.isnan(one):
        assert two == pytest.approx(one, rel=TOLERANCE, abs=TOLERANCE)
    else:
        assert one == two


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", type=json.loads)
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--die", type=int)
    parser.add_argument("--term", type=int)
    args = parser.parse_args(argv)
    torch.set_default_dtype(torch.float64)
    Demo.encoders = classmethod(lambda cls, _: ENCODERS)
    remember(pytest.MonkeyPatch())
    program.draw = lambda *_: None
    write, losses = Checkpoints.write, METHODS["joint"].losses

    def stop(checkpoints, name, state):
        write(checkpoints, name, state)
        if state["epoch"] + 1 == args.stop_after:
            raise Stopped

    steps = []

    def die(method, output):
        steps.append(output)
        if args.die == int(os.environ["RANK"]):
            os.kill(os.getpid(), signal.SIGKILL)
        if args.term == int(os.environ["RANK"]) and len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(method, output)

    if args.stop_after:
        Checkpoints.write = stop
    if args.die is not None or args.term is not None:
        METHODS["joint"].losses = die
    join, program.processes = program.processes, contextlib.nullcontext  # once for all jobs
    with contextlib.suppress(Stopped), join():
        for argv in args.jobs:
            program.main(argv)


if __name__ == "__main__":
    main()
