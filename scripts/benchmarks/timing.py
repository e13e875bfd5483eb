"""Clocks that run in turn, and what the benchmarks report: tables, the machine, everything measured as JSON."""

import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import torch
from tqdm import tqdm

from scripts.results.render import render

LEAST_ROUNDS = 5


@dataclass
class Report:
    """A benchmark's result. `tables`: lists of rows {column: text}; `raw`: every number, as JSON knows numbers."""

    title: str
    device: torch.device
    raw: dict
    tables: list[list[dict[str, str]]]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The title, the tables and the notes."""
        tables = (render(list(rows[0]), [list(row.values()) for row in rows], "md") for rows in self.tables)
        return "\n".join([f"{self.title}\n", *tables, *(f"{note}\n" for note in self.notes)])


def clock(device: torch.device, work: Callable[[], object]) -> Iterator[float]:
    """The seconds of one call of `work` after another, without end."""
    while True:
        synchronise(device)
        began = perf_counter()
        work()
        synchronise(device)
        yield perf_counter() - began


def synchronise(device: torch.device) -> None:
    """Wait for the device: CUDA works behind the calls."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(clocks: Sequence[Iterator[float]], steps: int, rounds: int, label: str) -> list[tuple[float, ...]]:
    """Seconds of each clock's steps by round, taken in turn: one step of each, then the next of each.

    One step of each comes before and is not counted: it makes what the later ones reuse (gradients, momentum).
    """
    seconds = []
    with tqdm(total=1 + rounds * steps, desc=label, leave=False, disable=None) as bar:
        if bar.disable:  # no terminal: whoever reads the log sees what it is at
            print(label, file=sys.stderr, flush=True)
        for one in clocks:
            next(one)
        bar.update()
        for _ in range(rounds):
            taken = []
            for _ in range(steps):
                taken.append([next(one) for one in clocks])
                bar.update()
            seconds.append(tuple(map(sum, zip(*taken, strict=True))))
    return seconds


def compare(name: str, reference: str, times: Sequence[tuple[float, float]], unit: str, scale: float) -> dict[str, str]:
    """A table's row: `times` are the seconds of the reference and of `name` by round, shown multiplied by `scale`."""
    ratios = [other / one for one, other in times]
    one, other = (median_of([scale * seconds for seconds in column], 1) for column in zip(*times, strict=True))
    return {
        "method": name, unit: other, f"{reference}, {unit}": one,
        "ratio, median": median_of(ratios), "ratio, range": range_of(ratios),
    }  # fmt: skip


def median_of(values: Sequence[float], digits: int = 2) -> str:
    """The median as text."""
    return f"{statistics.median(values):.{digits}f}"


def range_of(values: Sequence[float], digits: int = 2) -> str:
    """The least and the largest value as text."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def machine(device: torch.device) -> str:
    """The processor, the threads, the GPU and PyTorch, in a line: without it no time means anything."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    return f"{processor()}, {cores} core(s), {threads} thread(s); {gpu}; PyTorch {torch.__version__}"


def processor() -> str:
    """The model of the CPU, as Linux names it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
