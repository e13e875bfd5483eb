"""The command line of the two stages; an unknown flag stops the run."""

import argparse
from pathlib import Path

from engine.hints import one_of, suggestion
from engine.parser import HelpFormatter, add_run, name_folder, named_file
from localisation.mixture import Mixture
from localisation.model import ENCODERS
from localisation.registry import LOCALISATION
from localisation.solo import Solo
from localisation.stage import Stage
from utils.numbers import positive, seed

STAGES: dict[str, type[Stage]] = {"train-solo": Solo, "train-mix": Mixture}
# What the loop asks of every run, and no stage has a flag for.
FIXED = dict(
    schedule="constant", lr_warmup=0, clip_norm=None, patience=None, compile=False, modality_lr=None, weights=None
)


def parse(command: str, argv: list[str]) -> argparse.Namespace:
    """Read the command line of a stage as the loop's arguments; `epochs` is the number of all passes.

    Raises:
        SystemExit: with a usage message, for anything that is wrong with it.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_choice(first)
    chosen, _ = first.parse_known_args(argv)
    parser = make_parser(command, chosen.dataset)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = unknown[0].split("=")[0]
        meant = "--rounds" if flag == "--epochs" else suggestion(flag, parser)
        parser.error(f"unknown argument {unknown[0]}{f'; did you mean {meant}?' if meant else ''}")
    stage, source = STAGES[command], LOCALISATION[args.dataset]
    if refusal := source.refusal(args):
        parser.error(refusal)
    args.method, args.epochs = stage.name, stage.epochs(args)
    args.freeze = sorted(set(args.freeze)) if args.freeze else None
    places = {"method": stage.name, "epochs": args.epochs}
    if "solo" in vars(args):
        places["solo"] = str(Path(args.out) / args.dataset / Solo.name / "default" / f"seed{args.seed}")
        args.solo = args.solo or places["solo"]
    parser.set_defaults(**places)
    name_folder(args, parser)
    return args


def make_parser(command: str, dataset: str) -> argparse.ArgumentParser:
    """The parser of all flags that a stage has with this data set, with the data set's defaults."""
    stage, source = STAGES[command], LOCALISATION[dataset]
    parser = argparse.ArgumentParser(
        prog=f"localise.py {command}",
        description=f"{stage.__doc__.partition('.')[0]}; writes results/<dataset>/{stage.name}/<tag>/seed<k>/.",
        epilog=f"Defaults are those of --dataset {dataset}.",
        allow_abbrev=False,
        formatter_class=lambda prog: HelpFormatter(prog, max_help_position=32, width=110),
    )
    _add_choice(parser)
    group = parser.add_argument_group(f"data set {dataset} (defaults: {source.protocol})")
    group.add_argument("--data_root", help="folder of the prepared data (data/README.md)")
    group.add_argument("--image_size", type=positive, help="pixels a side of a frame")
    source.add_args(group)
    group = parser.add_argument_group("model")
    group.add_argument("--encoder", choices=ENCODERS, help="of both modalities; convnet: small, for CPUs")
    group.add_argument("--clusters", type=positive, help="K, the categories to be found")
    if stage is Solo:
        group.add_argument(
            "--weights", action="append", type=named_file, metavar="MODALITY=FILE",
            help="start this encoder from a file, as main.py --weights: torchvision's ResNet-18 for `visual`, say",
        )  # fmt: skip
    group.add_argument(
        "--freeze", action="append", metavar="MODALITY", help="leave this encoder as it starts; repeatable"
    )
    group = parser.add_argument_group("training (defaults: the public code, unless the data set has its own)")
    stage.add_args(group)
    stage.add_common(group)
    group.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast")
    group.add_argument("--seed", type=seed, default=0, help="of the weights, the data order and the augmentation")
    add_run(parser.add_argument_group("run"))
    fixed = {name: value for name, value in FIXED.items() if name != "weights" or stage is not Solo}
    parser.set_defaults(**fixed | dict(source.defaults) | dict(source.recipes.get(stage.name, {})))
    return parser


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", choices=LOCALISATION, type=one_of(LOCALISATION), default="scenes", help="what to train on"
    )
