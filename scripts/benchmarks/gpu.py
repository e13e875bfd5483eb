"""The parts of scripts/gpu_check.py: each fills what it has `found` as it goes, and says what is wrong.

A part is a function of the `Check` and of the dictionary that it fills; it yields a sentence for whatever is not as it
should be. A table for docs/ stands in `found["table"]`, as a list of rows {column: text}.
"""

import gc
import itertools
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter

import torch
import torch.distributed as dist
from torch import Tensor

from dataset.recipes.resample import crops
from engine.evaluate import evaluate_splits
from engine.totals import Totals
from engine.train import step, train_epoch
from engine.watch import Watch, vital
from inforeg.movement import Movement
from methods import Method
from methods.run import Run
from scripts.benchmarks import ddp
from scripts.benchmarks.counts import Operations
from scripts.benchmarks.generated import KINDS, SIZE, generated
from scripts.benchmarks.runs import begin, prepare
from scripts.benchmarks.step import flags_of
from scripts.benchmarks.timing import LEAST_ROUNDS, clock, compare, in_turn, median_of, range_of, synchronise

DATASET = "CREMAD"  # whose shapes all parts have
SMALL = "--batch_size 8 --image_size 64 --frames 1 --workers 0".split()  # of the runs that a CPU has to make, too
COMPARED = ("joint", "inforeg")
EPOCHS = 3  # of these: the first window that traces decide is that of the third
# How far CPU and GPU may be apart after an epoch in float32: relative, the weights' by how far they have moved.
LIMITS = {"loss": 1e-3, "fisher_trace": 1e-2, "weights": 2e-2}
ROUNDED = 0.05  # how far bf16 may be from float32 in the last epoch's loss, relative, in the mean over the seeds
SEEDS = 3
STEPS = 3  # of a round
TIMED = 3  # epochs, of which the first is not counted
WHOLE = "inforeg, bf16"  # the run that --full trains to its end
SIDE, BOXES = 224, ((0, 0, 480, 360), (17, 31, 401, 300), (100, 50, 180, 90))  # of crops: (left, top, right, bottom)
SAMPLES = 1024  # that a pass over the loader reads


@dataclass
class Check:
    """What all parts are told. words: flags of main.py; train, test: generated clips; methods: whose steps."""

    device: torch.device
    words: Sequence[str]
    methods: Sequence[str]
    train: int
    test: int
    full: bool

    def argv(self, method: str, *more: str, device: str | None = None) -> list[str]:
        """A command line for main.py; `more` comes last, so it wins."""
        words = ["--dataset", DATASET, "--method", method, *self.words, *more]
        return [*words, "--device", device or self.device.type]


Found = dict[str, object]
Part = Callable[[Check, Found], Iterator[str]]


def agreement(check: Check, found: Found) -> Iterator[str]:
    """A CPU and the GPU train alike in float32 without TF32; then bf16 and float32 on the GPU, over seeds."""
    with exact():
        for name in COMPARED:
            argv = partial(check.argv, name, *SMALL, "--precision", "fp32")
            cpu, gpu = (trained(argv(device=device)) for device in ("cpu", check.device.type))
            found[name] = apart(cpu, gpu)
            for what, limit in LIMITS.items():
                if not found[name][what] <= limit:
                    yield f"{name}: CPU and GPU are {found[name][what]:.2g} apart in {what}, more than {limit:g}"
            if cpu["prime_window"] != gpu["prime_window"]:
                yield f"{name}: CPU and GPU have other prime learning windows open"
    for name in COMPARED:
        losses, windows = [], []
        for seed in range(SEEDS):
            argv = partial(check.argv, name, *SMALL, "--seed", str(seed))
            full, half = (trained(argv("--precision", precision)) for precision in ("fp32", "bf16"))
            losses.append((full["loss"][-1], half["loss"][-1]))
            windows += [a == b for a, b in zip(full["prime_window"], half["prime_window"], strict=True)]
        gap = mean((half - full) / full for full, half in losses)
        found[f"{name}, bf16"] = {"losses": losses, "gap": gap, "between seeds": stdev(full for full, _ in losses)}
        found[f"{name}, bf16"]["epochs with the same windows"] = f"{sum(windows)} of {len(windows)}"
        if not abs(gap) <= ROUNDED:
            yield f"{name}: the loss in bf16 is {gap:+.1%} from that in fp32, more than {ROUNDED:.0%}"


@contextmanager
def exact() -> Iterator[None]:
    """Within, float32 is float32, and convolutions are the same every time."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before


def trained(argv: Sequence[str]) -> dict[str, list]:
    """EPOCHS epochs on random inputs: losses, traces and windows by epoch; the weights before and after the first."""
    run, method, _ = begin(argv, synthetic=True, epoch=0)
    result = {"loss": [], "fisher_trace": [], "prime_window": [], "weights": [weights(run)]}
    for run.epoch in range(EPOCHS):
        means, _ = train_epoch(run, method)
        record = method.on_epoch_end(run)
        result["loss"].append(means["loss"])
        for name in ("fisher_trace", "prime_window"):
            result[name].append(record[name])
        if run.epoch == 0:
            result["weights"].append(weights(run))
    return result


def weights(run: Run) -> Tensor:
    """All parameters side by side, on the CPU."""
    return torch.cat([p.detach().cpu().double().flatten() for p in run.model.parameters()])


def apart(one: Mapping[str, list], other: Mapping[str, list]) -> dict[str, float]:
    """How far two runs are apart after their first epoch, in each of LIMITS; windows are there to be read."""
    (start, end), (_, ended) = one["weights"], other["weights"]
    traces = [(one["fisher_trace"][0][name], trace) for name, trace in other["fisher_trace"][0].items()]
    return {
        "loss": abs(other["loss"][0] / one["loss"][0] - 1),
        "fisher_trace": max(abs(b / a - 1) for a, b in traces),
        "weights": ((ended - end).norm() / (end - start).norm()).item(),
        "prime_window": [one["prime_window"], other["prime_window"]],
    }


def steps(check: Check, found: Found) -> Iterator[str]:
    """A step of every method waits for nothing; how long it takes over one of joint training, and its memory."""
    found["table"] = []
    with tempfile.TemporaryDirectory() as folder:
        words = [*check.words, "--workers", "0", "--device", check.device.type]
        flags = flags_of(DATASET, ["joint", *check.methods], words, Path(folder))
        joint = Stepping(flags["joint"])
        for name in check.methods:
            try:
                held = memory(check.device)
                row = Stepping(flags[name])
                row()
                if reason := waits(check.device, row):
                    yield f"a step of {name} waits: {reason}"
                clocks = [clock(check.device, joint), clock(check.device, row)]
                rounds = in_turn(clocks, STEPS, LEAST_ROUNDS, name)
                peak = f"{(row.peak() - held) / 2**30:.2f}" if check.device.type == "cuda" else "-"
            except Exception as error:  # the next method is none the worse for it
                yield f"{name}: {said(error)}"
                continue
            finally:
                row = clocks = None
            rounds = [tuple(seconds / STEPS for seconds in both) for both in rounds]
            found[name] = {"seconds": rounds}
            times = compare(name, "joint", rounds, "ms a step", 1000)
            found["table"].append(times | {"peak memory, GiB": peak})


class Stepping:
    """A method in its eighth epoch with open windows; a call is a step with all that the loop does around it."""

    def __init__(self, argv: Sequence[str]):
        self.run, self.method, self.batches = prepare(argv, synthetic=True)
        self.movement, self.totals = Movement(self.run.model.encoders, self.run.optimizer), Totals()
        self.movement.start_epoch()
        self.watch, self.number, self.most = Watch(0, behind=self.run.device.type == "cuda"), 0, 0

    def __call__(self) -> None:
        batch = self.batches[self.number % len(self.batches)]
        losses, output = step(self.run, self.method, batch, self.movement)
        self.totals.add(losses, output)
        self.watch.add(self.number, batch.index, vital(self.method, losses, output))
        self.watch.look()
        self.number += 1

    def peak(self) -> int:
        """Bytes at most within a step, those that lay there before included."""
        torch.cuda.reset_peak_memory_stats(self.run.device)
        self()
        synchronise(self.run.device)
        return torch.cuda.max_memory_allocated(self.run.device)


def memory(device: torch.device) -> int:
    """Bytes of a GPU that are in use now."""
    release()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def release() -> None:
    """Give back to the GPU what nobody uses any more; PyTorch would keep it for itself."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where there is no GPU


def waits(device: torch.device, work: Callable[[], object]) -> str | None:
    """Why the host waits for the GPU in `work`, or None; on a CPU, whether it reads a value that has been computed."""
    if device.type == "cpu":
        with Operations() as operations:
            work()
        return f"the host reads {operations.host_reads} value(s)" if operations.host_reads else None
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        return said(error)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return None


def caches(check: Check, found: Found) -> Iterator[str]:
    """Samples a second from --cache disk and --cache device to the GPU, of generated clips; none waits; crops agree."""
    found["table"] = []
    boxes = torch.tensor(BOXES)
    pictures = torch.randint(0, 256, (len(boxes), 3, *SIZE[::-1]), dtype=torch.uint8)
    here, there = (crops(pictures.to(device), boxes.to(device), SIDE).cpu() for device in ("cpu", check.device))
    if not torch.equal(here, there):
        yield f"crops on the GPU differ from those on the CPU by {(here - there).abs().max():g} grey levels"
    for mode in KINDS:
        try:
            argv = check.argv("joint", "--cache", mode)
            run, _, _ = begin(argv, data=generated(min(check.train, SAMPLES), 1), epoch=0)
            one_pass(run)  # which puts what stays there onto the device
            seconds = list(islice(clock(run.device, partial(one_pass, run)), LEAST_ROUNDS))
            batch = next(iter(run.loader(run.train)))
            if reason := waits(check.device, partial(batch.to, run.device)):
                yield f"a batch of {mode} waits: {reason}"
        except Exception as error:
            yield f"{mode}: {said(error)}"
            continue
        rates = [len(run.train) / s for s in seconds]
        found[mode] = {"samples": len(run.train), "seconds": seconds}
        found["table"].append({"--cache": mode, "samples a second": median_of(rates, 0), "range": range_of(rates)})


def one_pass(run: Run) -> None:
    """Take every batch of an epoch to the device, as the training loop does."""
    for batch in run.loader(run.train):
        batch.to(run.device)


def several(check: Check, found: Found) -> Iterator[str]:
    """The processes' sums by NCCL (gloo on a CPU); with several GPUs what they gain over one (benchmark.py ddp)."""
    gpus = torch.cuda.device_count() if check.device.type == "cuda" else 0
    found["GPUs"] = gpus
    backend = "nccl" if gpus else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), world_size=1, rank=0)
    try:
        numbers = torch.arange(4.0, device=check.device)
        dist.all_reduce(numbers)
        if numbers.tolist() != [0, 1, 2, 3]:
            yield f"the sum over one process by {backend} is {numbers.tolist()}"
    finally:
        dist.destroy_process_group()
    if gpus > 1:
        asked = Namespace(dataset=DATASET, methods=COMPARED, processes=gpus, steps=STEPS, rounds=LEAST_ROUNDS)
        report = ddp.measure(asked, [*check.words, "--device", "cuda"])
        found["table"], found["rows"] = report.tables[0], report.raw
    else:
        found["note"] = "no efficiency: it takes two GPUs"


def epochs(check: Check, found: Found) -> Iterator[str]:
    """Whole epochs of the paper's size from --cache device, evaluation included, and what a run would take."""
    found["table"] = []
    for precision, name in itertools.product(("fp32", "bf16"), COMPARED):
        kind = f"{name}, {precision}"
        release()  # the clips of the run before, for which there may be no room beside the next
        argv = check.argv(name, "--precision", precision, "--cache", "device")
        run, method, splits = begin(argv, data=generated(check.train, check.test), epoch=0)
        wanted = run.args.epochs
        seconds = []
        found[kind] = {"seconds": seconds}
        for run.epoch in range(wanted if check.full and kind == WHOLE else TIMED):
            seconds.append(epoch_of(run, method, splits.test))
        first, *later = map(sum, seconds)
        hours = (first + (wanted - 1) * median(later)) / 3600
        found[kind] |= {"seconds of an epoch": median(later), "hours": hours}
        share = median(training / (training + evaluation) for training, evaluation in seconds[1:])
        found["table"].append(
            {"run": kind, "s an epoch": median_of(later, 1), "range": range_of(later), "of it training": f"{share:.0%}"}
            | {f"{wanted} epochs, hours": f"{hours:.3f}"}
            | {"run to its end, hours": f"{sum(map(sum, seconds)) / 3600:.3f}" if len(seconds) == wanted else "-"}
        )
        del run, method, splits
    if not found["table"]:
        yield "no epoch was timed"


def epoch_of(run: Run, method: Method, test) -> tuple[float, float]:
    """Seconds of an epoch's training, and of its evaluation."""
    began = perf_counter()
    train_epoch(run, method)
    method.on_epoch_end(run)
    synchronise(run.device)
    trained = perf_counter()
    evaluate_splits(run, method, {"test": test})
    return trained - began, perf_counter() - trained


def said(error: Exception) -> str:
    """The kind and the first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# Each with the seconds that it may take: nine minutes in all.
PARTS: dict[str, tuple[Part, int]] = {
    "agreement": (agreement, 110),
    "steps": (steps, 200),
    "caches": (caches, 40),
    "several": (several, 70),
    "epochs": (epochs, 110),
}
