"""A stage's run: set up as main.py sets up its own, and trained by the same loop."""

from argparse import Namespace

import torch

from engine.setup import in_folder, make_ready, start
from engine.train import fit
from localisation.data import Pairs
from localisation.lines import StageLines
from localisation.mixture import Mixture
from localisation.model import Localiser, build_localiser
from localisation.registry import LOCALISATION
from localisation.solo import Solo
from localisation.stage import Stage
from methods.run import Run
from utils.errors import CombinationError, warn
from utils.runs.folder import RunFolder
from utils.runs.generators import seed_everything
from utils.runs.provenance import checksum, provenance
from utils.stopping import noted

MEASURED = {Solo: ("IoU@0.5", "AUC"), Mixture: ("CIoU@0.3", "AUC", "NSA", "AUROC", "recall")}
HEARD = 0.7  # of the sounding objects that the teacher should name, for stage 2 to have something to learn; ours


def make_stage(args: Namespace) -> Stage:
    """The stage that `args` names with its model, both as they are before the first step.

    Raises:
        RunError: for weights, or a run of the first stage, that do not fit.
    """
    model = build_localiser(args.encoder, args.clusters, args.seed)
    try:
        start(args, model, model.modalities)
    except ValueError as error:
        raise CombinationError(str(error)) from None
    kinds: dict[str, type[Stage]] = {stage.name: stage for stage in MEASURED}
    return kinds[args.method](args, model, LOCALISATION[args.dataset].categories(args))


def train_stage(argv: list[str], args: Namespace, device: torch.device) -> dict:
    """Train the stage that `argv` asks for, parsed to `args`, on from where its folder has come to.

    Returns:
        What result.json holds.

    Raises:
        RunError: for anything that the user can mend; InUseError if another process is at this run.
    """
    stage = make_stage(args)
    data = {path.name: checksum(path) for path in LOCALISATION[args.dataset].files(args)}
    return in_folder(stage, data, lambda folder: _train(argv, stage, data, device, folder))


def _train(argv, stage: Stage, data: dict, device: torch.device, folder: RunFolder) -> dict:
    args, model, source = stage.args, stage.model, LOCALISATION[stage.args.dataset]
    read = source.solo if isinstance(stage, Solo) else source.mixed
    clips, test = Pairs(read(args, "train")), read(args, "test")
    folder.create(provenance("scripts/localise.py", argv, device, data, weights=model.started_from))
    make_ready(args, model, device)
    run = Run(args, model, make_optimizer(args, model), clips, None, None, device)
    print(f"{args.method} on {args.dataset}: {len(clips)} training, {len(test)} test clips; {device}")
    if isinstance(stage, Mixture):
        say_before(stage, run, test, folder)
    seed_everything(args.seed)
    with noted():
        lines = StageLines(args.epochs, MEASURED[type(stage)])
        history = fit(run, stage, test, source.categories(args), folder, lines)
        history.finish()
    result = history.result()
    print("  ".join(f"{name} {value:.1%}" for name, value in result["last"].items() if isinstance(value, float)))
    print(f"written to {folder.path}")
    return result


def make_optimizer(args: Namespace, model: Localiser) -> torch.optim.Optimizer:
    """Adam; the classifiers, which the first stage alone trains, are a group with a rate of their own."""
    heads = {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for name, p in trained.items() if name not in heads]},
        {"params": [p for name, p in trained.items() if name in heads], "lr": getattr(args, "head_lr", args.lr)},
    ]
    return torch.optim.Adam(groups, args.lr, weight_decay=args.weight_decay, fused=True)


def say_before(stage: Mixture, run: Run, test, folder: RunFolder) -> None:
    """Say what its first weights make of the mixtures, and warn if its classifier of sound knows too little."""
    stage.on_fit_start(run)
    before = stage.evaluate(run, test)
    print("before: " + "  ".join(f"{name} {value:.1%}" for name, value in before.items() if isinstance(value, float)))
    if folder.writes and before.get("teacher_recall", 1.0) < HEARD:
        warn(
            f"the audio classifier of --solo names {before['teacher_recall']:.0%} of the objects that sound in a "
            "mixture: below 70 % there is little for this stage to learn"
        )
