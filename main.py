"""Train one method on one data set: `python main.py --dataset CREMAD --method inforeg` (see --help)."""

import sys
from argparse import Namespace

import torch

from dataset import build, checksums
from engine.parser import parse
from engine.setup import choose_device, in_folder, make_method, make_optimizer, make_ready, suit
from engine.train import fit
from methods import Method
from methods.run import Run
from utils.distributed.processes import processes
from utils.errors import one_sentence, refusals
from utils.runs.folder import RunFolder
from utils.runs.generators import seed_everything
from utils.runs.plots import draw
from utils.runs.provenance import provenance
from utils.runs.regulation import describe_regulation
from utils.stopping import noted, signals


def main(argv: list[str] | None = None) -> dict:
    """Run the command line `argv` and return what result.json holds.

    Raises:
        RunError: for anything that the user can mend, in one sentence; InUseError if another process is at this run.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    with refusals(), processes(), signals():
        device = choose_device(args)
        method = make_method(args)
        return in_folder(method, checksums(args), lambda folder: train(argv, args, device, method, folder))


def train(argv: list[str], args: Namespace, device: torch.device, method: Method, folder: RunFolder) -> dict:
    """Train to the last epoch, as `argv` says, parsed to `args`; write what the run's folder holds."""
    model = method.model
    splits = build(args, model.modalities, method.held_out)
    suit(args, method, splits, device)
    folder.create(provenance("main.py", argv, device, checksums(args), weights=model.started_from))
    make_ready(args, model, device)
    optimizer = make_optimizer(args, model)
    run = Run(args, model, optimizer, splits.train, splits.held_out, splits.val, device, plain=splits.plain)
    print(f"{args.method} on {args.dataset}: {len(splits.train)} training, {len(splits.test)} test samples; {device}")
    # Anew, so that what a method draws does not depend on how much of the model was initialised before.
    seed_everything(args.seed)
    with noted():  # from now on there is something to save
        history = fit(run, method, splits.test, splits.classes, folder)
        lines = [epoch.line() for epoch in history.epochs]
        if folder.writes:
            title = f"{args.method} on {args.dataset}, seed {args.seed}"
            draw(lines, folder.path / "figures", title, history.arrays())
        history.finish()
    for rule, metrics in history.result().items() if method.classifies else ():
        names = ("accuracy", "macro_f1", "majority", *model.modalities)
        shown = "  ".join(f"{name} {metrics[name]:.2%}" for name in names)
        print(f"{rule:>6} (epoch {metrics['epoch'] + 1}): {shown}")
    if line := describe_regulation(lines, args):
        print(line)
    print(f"written to {folder.path}")
    return history.result()


if __name__ == "__main__":
    with one_sentence():
        main()
