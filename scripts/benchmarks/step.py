"""What a training step costs: every method beside the bare step, and InfoReg beside InfoReg written naively.

    python scripts/benchmark.py step --dataset CREMAD --synthetic --batch_size 16
    python scripts/benchmark.py step --dataset GRID --methods ogm inforeg --against joint --steps 10

A step is the training loop's, from the forward pass to the optimizer's step, on batches that have been read before. It
is of the eighth epoch with the prime learning windows open, so that every method acts at its defaults. What a method
does between steps (G-Blending's estimates, the passes over the data of PMR, re-learning and valuation, the training of
G2D's teachers) comes on top. Rows that are no method:

    bare         forward, one backward pass of the joint loss, optimizer; memory format and optimizer are the loop's
    contiguous   the same, written plainly: contiguous weights, and an optimizer that takes one after another
    naive        InfoReg as such steps are commonly written (scripts/benchmarks/naive.py), contiguous, too

`_split` after a name stands for --unimodal_loss split. A step of the row and one of the reference (--against)
alternate; a round is --steps of each. The ratio is that of their times in a round: median and range over the rounds.
`--methods bare` shows what the ratio of equal steps comes to on this machine.

The rest is counted, without a clock. forward, backward: passes of the batch through each encoder. FLOPs: of matrix
products and convolutions, over the bare step's; teachers are in it. backward calls: into autograd. host reads:
operations whose result the host waits for. more operations: of PyTorch, beyond the bare step's. more bytes: what stays
in memory after a step beyond the bare step's, by encoder parameter.

Other flags are main.py's: those of joint training hold for every row, the rest (--teachers, say) for those that have
them. Without --teachers those of G2D are untrained, which take as long; without --modality the last one is trained.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from dataset import DATASETS
from dataset.base import Batch
from engine.parser import make_parser, parse
from engine.setup import make_method
from engine.train import step
from methods import METHODS, Method
from methods.run import Run
from methods.teachers import Taught
from models.multimodal import build_model
from scripts.benchmarks.counts import Counts, count, held_bytes
from scripts.benchmarks.naive import NaiveInfoReg
from scripts.benchmarks.peak import against_peak
from scripts.benchmarks.runs import add_synthetic, prepare
from scripts.benchmarks.timing import Report, clock, compare, in_turn
from utils.numbers import positive
from utils.precision import autocast
from utils.runs.setting import options_of

SPLIT = "_split"
WRITTEN = {"bare": "joint", "contiguous": "joint", "naive": "inforeg"}  # rows that are no method: whose flags they take
PLAIN = ("contiguous", "naive")
TAKING = ["naive", *(name for name, method in METHODS.items() if method.takes_unimodal_loss)]
ROWS = [*WRITTEN, *METHODS, *(name + SPLIT for name in TAKING)]
USUAL = ["contiguous", "naive", "naive" + SPLIT, *METHODS, "inforeg" + SPLIT]
OURS = {"--method": "name what to compare by --methods"}


@dataclass
class Stepper:
    """A row that is being measured: `step` takes one step, on the next of its batches."""

    run: Run
    batches: list[Batch]
    step: Callable[[], object]

    def clock(self) -> Iterator[float]:
        """The seconds of one step after another, without end."""
        return clock(self.run.device, self.step)


@dataclass
class Gauge:
    """The counts of one step of a row."""

    counts: Counts
    held: int  # bytes, without the batches


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this benchmark."""
    kinds = f"of {', '.join((*WRITTEN, *METHODS))}; with {SPLIT} those that take a unimodal loss"
    parser.add_argument("--methods", choices=ROWS, nargs="+", default=USUAL, metavar="ROW", help=kinds)
    parser.add_argument("--against", choices=ROWS, default="bare", metavar="ROW", help="the reference (default: bare)")
    parser.add_argument("--steps", type=positive, default=1, help="of each a round (default: 1)")
    add_synthetic(parser)


def measure(asked: argparse.Namespace, words: Sequence[str]) -> Report:
    """The rows that `asked` names, under main.py's flags `words`.

    Raises:
        RunError: if a row cannot be built or the data cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = flags_of(asked.dataset, [asked.against, *asked.methods], words, Path(folder))
        for name in asked.methods:
            make_method(parse(flags[name]))  # what is wrong with the last row is said before the first is timed
        bare, base = gauged("bare", flags["bare"], asked.synthetic)
        reference = bare if asked.against == "bare" else take(asked.against, flags[asked.against], asked.synthetic)
        times, counts, raw = [], [], {}
        for name in asked.methods:
            row, gauge = gauged(name, flags[name], asked.synthetic)
            rounds = in_turn([reference.clock(), row.clock()], asked.steps, asked.rounds, name)
            del row
            rounds = [tuple(seconds / asked.steps for seconds in both) for both in rounds]
            times.append(compare(name, asked.against, rounds, "ms a step", 1000) | work_of(gauge.counts, base.counts))
            counts.append({"method": name} | overhead_of(gauge, base, parameters(bare.run)))
            raw[name] = {"seconds": rounds} | asdict(gauge)
        rates, note = against_peak(bare.clock(), base.counts, bare.run, asked.rounds)
    args = bare.run.args
    title = (
        f"Training steps on {asked.dataset}{' (random inputs)' * asked.synthetic}, batches of {args.batch_size}, on "
        f"{bare.run.device}, {args.precision}: {asked.rounds} rounds of {asked.steps} steps, in turn with "
        f"{asked.against}."
    )
    base = asdict(base) | {"encoder_parameters": parameters(bare.run), "rates": rates}
    return Report(
        title, bare.run.device, {"against": asked.against, "bare": base, "rows": raw}, [times, counts], [note]
    )


def flags_of(dataset: str, rows: Sequence[str], words: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """{row: main.py's command line}, of `bare` and of `rows`; untrained teachers go to `folder`."""
    names = list(dict.fromkeys(["bare", *rows]))
    method_of = {name: WRITTEN.get(name.removesuffix(SPLIT), name.removesuffix(SPLIT)) for name in names}
    dealt = deal(words, dataset, list(method_of.values()))
    common = ["--dataset", dataset, *dealt["joint"]]
    for method in dealt:
        dealt[method] += missing(method, dealt[method], common, folder)
    unimodal = {name: ["--unimodal_loss", "split"] * name.endswith(SPLIT) for name in names}
    return {
        name: ["--dataset", dataset, "--method", method, *dealt[method], *unimodal[name]]
        for name, method in method_of.items()
    }


def deal(words: Sequence[str], dataset: str, methods: list[str]) -> dict[str, list[str]]:
    """{method: the words that are for it}, for joint and `methods`.

    A flag that joint training has is for all, another for those that have it, and one that nobody has for joint
    training, which refuses it by name. Values follow their flag.
    """
    known = {name: options_of(make_parser(dataset, name)) for name in ("joint", *methods)}
    dealt: dict[str, list[str]] = {name: [] for name in known}
    takers = list(known)
    for word in words:
        if word.startswith("--"):
            having = [name for name, flags in known.items() if word.split("=")[0] in flags]
            takers = list(known) if "joint" in having else having or ["joint"]
        for name in takers:
            dealt[name].append(word)
    return dealt


def missing(method: str, words: Sequence[str], common: Sequence[str], folder: Path) -> list[str]:
    """Flags that a method cannot do without, where the user has not given them: modalities, untrained teachers."""
    given = {word.split("=")[0] for word in words}
    if method == "unimodal" and "--modality" not in given:
        return ["--modality", list(encoders_of(common))[-1]]
    if method == "mslr" and "--modality_lr" not in given:
        return ["--modality_lr", f"{next(iter(encoders_of(common)))}=0.5"]
    if issubclass(METHODS.get(method, Method), Taught) and "--teachers" not in given:
        return ["--teachers", *save_teachers(common, folder)]
    return []


def encoders_of(common: Sequence[str]) -> dict[str, Callable]:
    """{modality: what makes its encoder} of the data set that the words name."""
    args = parse([*common, "--method", "joint"])
    return DATASETS[args.dataset].encoders(args)


def save_teachers(common: Sequence[str], folder: Path) -> list[str]:
    """Checkpoints of untrained unimodal models, as --teachers names them."""
    words = []
    for name, encoder in encoders_of(common).items():
        args = parse([*common, "--method", "unimodal", "--modality", name])
        classes = DATASETS[args.dataset].class_names(args)
        model = build_model({name: encoder}, args.fusion, len(classes), args.seed)
        state = {"model": model.state_dict(), "args": vars(args), "epoch": 0, "classes": list(classes)}
        torch.save(state, folder / f"{name}.pt")
        words.append(f"{name}={folder / name}.pt")
    return words


def take(name: str, argv: Sequence[str], synthetic: bool) -> Stepper:
    """The row of that name under main.py's flags `argv`, ready for its first step."""
    kind = name.removesuffix(SPLIT)
    run, method, batches = prepare(argv, synthetic, plain=kind in PLAIN)
    if kind == "naive":
        step_on = NaiveInfoReg(run).step
    else:
        step_on = partial(bare_step, run) if kind in WRITTEN else partial(step, run, method)
    turns = itertools.cycle(batches)
    return Stepper(run, batches, lambda: step_on(next(turns)))


def bare_step(run: Run, batch: Batch) -> None:
    """The least that every method has to do."""

    with autocast(run.device, run.args.precision):
        loss = F.cross_entropy(run.model.fuse(run.model.encode(batch.inputs)), batch.target)
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()


def gauged(name: str, argv: Sequence[str], synthetic: bool) -> tuple[Stepper, Gauge]:
    """A row, and what its second step does: the first makes gradients and momentum."""
    row = take(name, argv, synthetic)
    row.step()
    counts = count(row.step, row.run.model.encoders)
    batches = [x for batch in row.batches for x in (*batch.inputs.values(), batch.target, batch.index)]
    return row, Gauge(counts, held_bytes(row) - sum(x.nbytes for x in batches))


def parameters(run: Run) -> int:
    """How many weights the encoders have."""
    return sum(p.numel() for p in run.model.encoders.parameters())


def work_of(counts: Counts, bare: Counts) -> dict[str, str]:
    """A row's passes through each encoder, and its FLOPs over the bare step's."""
    return {
        "forward": passes(counts.forward, bare.forward),
        "backward": passes(counts.backward, bare.backward),
        "FLOPs": f"{counts.flops / bare.flops:.2f}",
    }


def passes(samples: dict[str, int], batch: dict[str, int]) -> str:
    """`1`, or `audio 2, visual 2.1` where encoders differ; `batch`: samples of one pass."""
    shown = {name: f"{count / batch[name]:.3g}" for name, count in samples.items()}
    same = len(set(shown.values())) == 1 and samples.keys() == batch.keys()
    return next(iter(shown.values())) if same else ", ".join(f"{name} {number}" for name, number in shown.items())


def overhead_of(gauge: Gauge, base: Gauge, size: int) -> dict[str, str]:
    """What a row does or holds beyond the bare step; `size`: the encoders' weights."""
    return {
        "backward calls": str(gauge.counts.backward_calls),
        "host reads": str(gauge.counts.host_reads),
        "more operations": str(gauge.counts.operations - base.counts.operations),
        "more bytes": f"{(gauge.held - base.held) / size:.2f}",
    }
