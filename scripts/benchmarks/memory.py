"""Memory of a training step, counted without allocating it: what a method holds, what a sample adds, what fits.

    python scripts/benchmark.py memory --dataset CREMAD
    python scripts/benchmark.py memory --dataset CREMAD --methods joint inforeg --image_size 128

The step is the training loop's second one, in the eighth epoch with the prime learning windows open. It runs on
PyTorch's fake tensors, which know their shapes and have no memory. Counted is every tensor that is alive at once:

    held        between steps: weights, gradients, the optimizer's momentum, the copies of the loop and of the method
    a sample    what each sample more adds to the peak, its inputs included
    peak        at --batch_size, held included
    batch in    the largest batch whose peak is below so many GB (1e9 bytes)

Not counted is what PyTorch and its libraries take beside the tensors: the CUDA context, work space of convolutions,
gaps between blocks. No clock is read, so --rounds changes nothing. Other flags are those of `step`.
"""

import argparse
import copy
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from dataset.base import Batch
from engine.parser import parse
from engine.train import step
from inforeg.movement import Movement
from methods import METHODS, Method
from methods.run import Run
from scripts.benchmarks.counts import storages_of
from scripts.benchmarks.runs import prepare
from scripts.benchmarks.step import flags_of
from scripts.benchmarks.synthetic import shapes_of
from scripts.benchmarks.timing import Report

OURS = {"--method": "name what to count by --methods", "--precision": "both are counted"}
PRECISIONS = ("fp32", "bf16")
ROOMS = (8, 24, 80)  # GB of memory of a GPU
SMALL = "--device cpu --workers 0 --batch_size 2".split()  # of the set-up, on which neither weights nor copies depend


@dataclass
class Peak:
    """Bytes of a step: `held` between steps, `sample` for each sample more, `peak` at the batch of `size`."""

    held: int
    sample: float
    peak: int
    size: int

    def fits(self, room: float) -> int:
        """The largest batch in so many bytes, 0 if there is none."""
        return max(0, int(self.size + (room - self.peak) / self.sample))


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive: those that it is told of, and those made while it is entered."""

    def __init__(self, owner: object):
        super().__init__()
        self.sizes: dict[int, int] = {}  # of the memory that is alive, by its place
        self.now = self.most = 0
        for storage in storages_of(owner):
            self.add(storage)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self.add(x.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count this memory until it is given back."""
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.drop, storage._cdata).atexit = False

    def drop(self, place: int) -> None:
        """This memory has been given back."""
        self.now -= self.sizes.pop(place)


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    parser.add_argument(
        "--methods", choices=METHODS, nargs="+", default=list(METHODS), metavar="NAME", help="default: all"
    )
    parser.set_defaults(synthetic=True)


def measure(asked: argparse.Namespace, words: Sequence[str]) -> Report:
    """The memory of every method that `asked` names, under main.py's flags `words`.

    Raises:
        RunError: if a method cannot be built, or the data set has no shapes of sound and frames.
    """
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        flags = flags_of(asked.dataset, asked.methods, [*words, "--device", "cpu"], Path(folder))
        args = parse(flags["bare"])
        for name in tqdm(asked.methods, desc="counting", leave=False, disable=None):
            run, method, _ = prepare([*flags[name], *SMALL], synthetic=True)
            shapes = {name: shapes_of(args)[name] for name in run.model.modalities}
            peaks = {precision: peak_of(run, method, precision, shapes, args.batch_size) for precision in PRECISIONS}
            rows.append(row_of(name, peaks))
            raw[name] = {precision: asdict(peak) for precision, peak in peaks.items()}
    title = f"Memory of a training step on {asked.dataset} in batches of {args.batch_size}, counted."
    return Report(title, torch.device("cpu"), {"rows": raw}, [rows])


def row_of(name: str, peaks: dict[str, Peak]) -> dict[str, str]:
    """A row of the table."""
    row = {"method": name, "held, MB": f"{peaks['fp32'].held / 1e6:.0f}"}
    for precision, peak in peaks.items():
        row |= {
            f"a sample, MB, {precision}": f"{peak.sample / 1e6:.1f}",
            f"peak, GB, {precision}": f"{peak.peak / 1e9:.2f}",
        }
    rooms = " / ".join(map(str, ROOMS))
    for precision, peak in peaks.items():
        row[f"batch in {rooms} GB, {precision}"] = " / ".join(str(peak.fits(1e9 * room)) for room in ROOMS)
    return row


def peak_of(run: Run, method: Method, precision: str, shapes: dict[str, tuple[int, ...]], size: int) -> Peak:
    """The memory of a step of a method that is ready for it, on batches of `size` samples of `shapes`."""
    run.args.precision = precision
    counted = [count(run, method, shapes, samples) for samples in (size, 2 * size)]
    (held, peak), (_, twice) = counted
    return Peak(held, (twice - peak) / size, peak, size)


def count(run: Run, method: Method, shapes: dict[str, tuple[int, ...]], size: int) -> tuple[int, int]:
    """Bytes that are held after the second step, without the batch, and at most within it; the run stays as it is."""
    movement = Movement(run.model.encoders, run.optimizer)
    movement.start_epoch()
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        run, method, movement = copy.deepcopy((run, method, movement))
    with fake:
        numbers = torch.zeros(size, dtype=torch.long)
        batch = Batch({name: torch.zeros(size, *shape) for name, shape in shapes.items()}, numbers, numbers.clone())
        with Alive([run, method, movement, batch]) as alive:
            step(run, method, batch, movement)
            alive.most = alive.now
            step(run, method, batch, movement)
    return alive.now - sum(x.nbytes for x in batch.tensors), alive.most
