"""What a training step of each method costs, as a multiple of joint training's.

    python scripts/step_time.py --dataset GRID --methods ogm inforeg --steps 10 --batch_size 16

The table counts steps only: what a method does between them (G-Blending's estimates, the passes over the data of PMR,
re-learning and valuation, the training of G2D's teachers) comes on top. A step is the training loop's, from the forward
pass to the optimizer's step, on batches that have been read before. They are steps of the eighth epoch with the prime
learning windows open, so that every method acts at its defaults.

A step of joint and one of the method alternate; a round is `--steps` of each. The ratio is that of their times in a
round: median and range over the rounds. `--methods joint` shows what the ratio of equal steps comes to on this machine.
Other flags are main.py's: those of joint training hold for every method, the rest (`--teachers`, say) for the methods
that have them.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch
from torch.utils.data import Dataset, Subset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset import DATASETS, build  # noqa: E402  (the repository's root has just been put on the path)
from dataset.base import Batch  # noqa: E402
from main import choose_device, make_method  # noqa: E402
from methods import METHODS, Method  # noqa: E402
from models.multimodal import place  # noqa: E402
from utils.args import make_parser, parse  # noqa: E402
from utils.errors import RunError, stop  # noqa: E402
from utils.numbers import positive  # noqa: E402
from utils.record import seed_everything  # noqa: E402
from utils.run import Run  # noqa: E402
from utils.train import make_optimizer, step  # noqa: E402

BATCHES = 4  # that the steps take in turn
EPOCH = 7  # from 0; the defaults' longest warm-up, OPM's, is of six epochs
LEAST_ROUNDS = 5


def main(argv: list[str] | None = None) -> str:
    """Print the table and return it as Markdown.

    Raises:
        RunError: if a method cannot be built or the data cannot be read.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", choices=DATASETS, required=True, help="whose batches to train on")
    parser.add_argument("--methods", choices=METHODS, nargs="+", required=True, help="what to compare with joint")
    parser.add_argument("--steps", type=positive, default=10, help="of each method a round (default: 10)")
    parser.add_argument("--rounds", type=positive, default=LEAST_ROUNDS, help=f"{LEAST_ROUNDS} (default) or more")
    own, words = parser.parse_known_args(argv)
    if own.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {own.rounds}: the median and the range are of {LEAST_ROUNDS} or more")
    if any(word.split("=")[0] == "--method" for word in words):
        parser.error("--method: name what to compare by --methods")

    flags = {name: ["--dataset", own.dataset, *found] for name, found in deal(words, own.dataset, own.methods).items()}
    run, method, batches = prepare(["--method", "joint", *flags["joint"]])
    joint = seconds(run, method, batches)
    lines = [
        f"Training steps on {own.dataset}, batches of {run.args.batch_size}, on {run.device}: {own.rounds} rounds of "
        f"{own.steps} steps, in turn with joint.",
        "",
        "| method | ms a step | joint, ms a step | ratio, median | ratio, range |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in own.methods:
        rounds = compare(joint, seconds(*prepare(["--method", name, *flags[name]])), own.steps, own.rounds)
        ratios = [other / one for one, other in rounds]
        one, other = (1000 * statistics.median(column) / own.steps for column in zip(*rounds, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        lines.append(f"| {name} | {other:.1f} | {one:.1f} | {statistics.median(ratios):.2f} | {spread} |")
    table = "\n".join(lines) + "\n"
    print(table)
    return table


def deal(words: list[str], dataset: str, methods: list[str]) -> dict[str, list[str]]:
    """{method: the words that are for it}, for joint and `methods`.

    A flag that joint training has is for all, another for those that have it, and one that nobody has for joint
    training, which refuses it by name. Values follow their flag.
    """
    known = {name: make_parser(dataset, name)._option_string_actions for name in ("joint", *methods)}
    dealt: dict[str, list[str]] = {name: [] for name in known}
    takers = list(known)
    for word in words:
        if word.startswith("--"):
            having = [name for name, flags in known.items() if word.split("=")[0] in flags]
            takers = list(known) if "joint" in having else having or ["joint"]
        for name in takers:
            dealt[name].append(word)
    return dealt


def prepare(argv: list[str]) -> tuple[Run, Method, list[Batch]]:
    """A method as it is in its eighth epoch, and the batches of that epoch, read and on the device.

    Raises:
        RunError: if the training split does not fill a batch.
    """
    args = parse(argv)
    device = choose_device(args)
    method = make_method(args)
    model = method.model
    place(model, device)
    splits = build(args, model.modalities, method.held_out)
    train, held_out, plain = (few(data, args.batch_size) for data in (splits.train, splits.held_out, splits.plain))
    run = Run(args, model, make_optimizer(args, model), train, held_out, None, device, EPOCH, plain)
    seed_everything(args.seed)
    # Traces that double from epoch to epoch open every window.
    method.trace.load_state_dict({"history": {name: [2.0**i for i in range(EPOCH)] for name in model.modalities}})
    method.on_fit_start(run)
    method.on_epoch_start(run)
    loader = run.loader(method.train_data(run))
    batches = [batch.to(device) for batch in itertools.islice(loader, BATCHES) if len(batch) == args.batch_size]
    if not batches:
        raise RunError(f"--batch_size {args.batch_size}: the training split has only {len(splits.train)} samples")
    return run, method, batches


def few(data: Dataset | None, batch_size: int) -> Dataset | None:
    """Samples for BATCHES batches, spread evenly over `data`."""
    if data is None:
        return None
    wanted = BATCHES * batch_size
    return Subset(data, range(len(data))[:: max(1, len(data) // wanted)][:wanted])


def seconds(run: Run, method: Method, batches: list[Batch]) -> Iterator[float]:
    """The seconds of one step after another, without end."""
    run.model.train()
    for batch in itertools.cycle(batches):
        synchronise(run.device)
        began = perf_counter()
        step(run, method, batch)
        synchronise(run.device)
        yield perf_counter() - began


def synchronise(device: torch.device) -> None:
    """Wait for the device: CUDA works behind the calls."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(joint: Iterator[float], other: Iterator[float], steps: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of joint's and of the other's steps by round, taken in turn.

    One step of each comes before and is not counted: it makes what the later ones reuse (gradients, momentum).
    """
    next(joint), next(other)
    found = []
    for _ in range(rounds):
        pairs = [(next(joint), next(other)) for _ in range(steps)]
        found.append(tuple(sum(column) for column in zip(*pairs, strict=True)))
    return found


if __name__ == "__main__":
    try:
        main()
    except RunError as error:
        stop(error)
