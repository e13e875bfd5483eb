"""The command line. Every default names its source; an unknown flag, or one of another method, stops the run."""

import argparse
import sys

from dataset import DATASETS
from dataset.base import MultimodalDataset
from dataset.recipes.corrupt import kinds_of, read
from engine.hints import explain, one_of
from inforeg.window import DURING, WINDOWS
from methods import METHODS, PRETRAINING, Method, method_of
from models.fusion import FUSIONS
from utils.numbers import count, fraction, not_negative, number, positive, positive_float, seed
from utils.runs.setting import folder_name, make_tag

USAGE = "python main.py --dataset NAME --method NAME [flags]"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; `tag` is filled in from the flags that differ from the defaults.

    Raises:
        SystemExit: with a usage message, for anything that is wrong with it.
    """
    argv = sys.argv[1:] if argv is None else argv
    first = argparse.ArgumentParser(usage=USAGE, add_help=False, allow_abbrev=False)
    _add_choice(first)
    chosen, _ = first.parse_known_args(argv)
    parser = make_parser(chosen.dataset, chosen.method)
    # Help is shown by the last pass, which knows every default.
    args, unknown = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])
    if unknown:
        parser.error(explain(unknown, parser, chosen.dataset, chosen.method))
    # What follows from the method's own flags (a variant's constants, say) is a default too: the user's flags win, then
    # what is published for the method on this data set.
    published = DATASETS[args.dataset].method_defaults.get(args.method, {})
    defaults = {"window": "paper"} | method_of(args.method).defaults(args) | published
    parser.set_defaults(**window_defaults(args.window or defaults["window"]) | defaults)
    args = parser.parse_args(argv)
    args.freeze = sorted(set(args.freeze)) if args.freeze else None
    args.modality_lr = sorted(set(args.modality_lr)) if args.modality_lr else None
    if refusal := DATASETS[args.dataset].refusal(args):
        parser.error(refusal)
    if args.accumulate > 1 and args.sync_bn:
        parser.error(
            "--sync_bn normalises over the whole batch, which --accumulate has encoded in parts: leave one away"
        )
    if args.window_every and args.window != "accumulated":
        parser.error(f"--window_every is for --window accumulated: the {args.window} one compares epochs")
    if args.window == "accumulated" and args.window_smoothing != 1:
        parser.error("--window_smoothing does not apply: the accumulated window is a sum over all epochs already")
    name_folder(args, parser)
    return args


def name_folder(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """See that --out and --tag can name the run's folder; a tag that is not given tells what differs from the defaults.

    Raises:
        SystemExit: with a usage message, if they cannot.
    """
    if not args.out.isprintable():  # TensorBoard takes no others
        parser.error(f"--out {args.out!r} has characters that cannot be printed")
    if args.tag is None:
        args.tag = make_tag(vars(args), {flag: parser.get_default(flag) for flag in vars(args)})
    elif not args.tag or args.tag != folder_name(args.tag).lstrip("."):
        parser.error(f'--tag {args.tag!r} is not a folder name: no more than 255 bytes, none of / \\ : * ? " < > |')


def window_defaults(rule: str) -> dict:
    """The values of --threshold, --window_smoothing and --start_epoch that follow from --window."""
    constants = dict(WINDOWS[rule])
    return {"window_smoothing": constants.pop("smoothing")} | constants


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        without = action.default is None or action.default is False  # 0 is a default worth showing
        return action.help if without else super()._get_help_string(action)


def make_parser(dataset: str, method: str) -> argparse.ArgumentParser:
    """The parser of all flags that there are with this data set and method, with the data set's defaults."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Train one method on one data set and write results/<dataset>/<method>/<tag>/seed<k>/.",
        epilog=f"Defaults are those of --dataset {dataset} --method {method}; name others to see theirs.",
        usage=USAGE,
        allow_abbrev=False,
        formatter_class=lambda prog: HelpFormatter(prog, max_help_position=32, width=110),
    )
    _add_choice(parser)
    source, chosen = DATASETS[dataset], method_of(method)
    _add_data(parser.add_argument_group(f"data set {dataset} (defaults: {source.protocol})"), source)
    _add_model(parser.add_argument_group("model"), chosen)
    _add_training(parser.add_argument_group(f"training (defaults: {source.protocol})"), chosen)
    _add_window(parser.add_argument_group("prime learning window (recorded for every method)"), chosen)
    chosen.add_args(parser.add_argument_group(f"method {method}"))
    add_run(parser.add_argument_group("run"))
    parser.set_defaults(**source.defaults)
    return parser


def _add_data(group, source: type[MultimodalDataset]) -> None:
    group.add_argument("--data_root", help="folder or shards of the prepared data (data/README.md)")
    group.add_argument(
        "--val_fraction", type=fraction, default=0.0,
        help="stratified share of the training split that selects the epoch, in place of a validation split of the "
        "data set's own; the papers use none",
    )  # fmt: skip
    group.add_argument(
        "--train_list", metavar="FILE",
        help="train on these samples of the training split alone, a name in each line (scripts/select_subset.py writes "
        "such a list)",
    )  # fmt: skip
    group.add_argument(
        "--train_noise", action="append", metavar="MODALITY:KIND:LEVEL",
        type=lambda text: str(read(text, source.forms)),
        help="the data as if recorded with this noise, training and test alike; repeatable; what the levels are says "
        f"dataset/recipes/corrupt.py; the kinds are {kinds_of(source.forms)}",
    )  # fmt: skip
    source.add_args(group)


def named_file(text: str) -> str:
    """An argument type: MODALITY=FILE."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODALITY=FILE")
    return text


def modality_factor(text: str) -> str:
    """An argument type: MODALITY=FACTOR, the factor written as every other number is."""
    name, _, factor = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODALITY=FACTOR")
    return f"{name}={positive_float(factor)}"


def _add_model(group, chosen: type[Method]) -> None:
    group.add_argument("--fusion", choices=FUSIONS, default="concat", help="paper, Section 4; Table 5 compares all")
    if chosen.takes_unimodal_loss:
        group.add_argument(
            "--unimodal_loss", choices=("none", "split", "heads"), default="none",
            help="add one cross entropy per modality, on the fusion head's read-out (split) or on a classifier of its "
            "own (heads); the paper's starred rows are split",
        )  # fmt: skip

    group.add_argument(
        "--weights", action="append", type=named_file, metavar="MODALITY=FILE",
        help="start this encoder from a file: torchvision's state dict of a ResNet, or a last.pt or best.pt; .pth, .pt "
        "or .safetensors; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--freeze", action="append", metavar="MODALITY",
        help="leave this encoder as it starts, batch norm in evaluation mode; repeatable",
    )  # fmt: skip


def _add_training(group, chosen: type[Method]) -> None:
    group.add_argument("--epochs", type=positive, help="passes over the training split")
    group.add_argument("--batch_size", type=positive, help="samples a step")
    group.add_argument(
        "--accumulate", type=positive, default=1, metavar="PARTS",
        help="parts in which the encoders see a batch, for less memory and one more forward pass; losses, scores and "
        "traces are those of the batch, but batch norm sees a part; ours, by gradient caching (models/parts.py)",
    )  # fmt: skip
    group.add_argument(
        "--optimizer", choices=("sgd", "adam", "adamw"), help="Adam and AdamW cancel most of a gradient's scaling"
    )
    group.add_argument("--lr", type=positive_float, help="learning rate")
    group.add_argument(
        "--encoder_lr_factor", type=positive_float, default=1.0,
        help="of the encoders' learning rate; 1.5 with --unimodal_loss heads is the control of MMPareto's gamma",
    )  # fmt: skip
    group.add_argument(
        "--modality_lr", type=modality_factor, nargs="+", metavar="MODALITY=FACTOR",
        help="of the learning rate of these modalities' encoders, beside --encoder_lr_factor; 1 for every other one",
    )  # fmt: skip
    group.add_argument("--momentum", type=fraction, help="of SGD")
    group.add_argument("--weight_decay", type=not_negative, help="on every parameter")
    group.add_argument(
        "--schedule", choices=("step", "cosine", "constant"), default="step",
        help="of the learning rate: by --lr_step and --lr_gamma, as the papers have it; half a cosine over --epochs; "
        "or none",
    )  # fmt: skip
    group.add_argument("--lr_step", type=positive, help="epochs between two decays of --schedule step")
    group.add_argument("--lr_gamma", type=positive_float, help="factor of each decay")
    group.add_argument(
        "--lr_warmup", type=count, default=0, metavar="EPOCHS",
        help="first epochs, over which the learning rate rises linearly to the schedule's, (epoch + 1) / (EPOCHS + 1) "
        "of it in an epoch counted from 0; ours",
    )  # fmt: skip
    group.add_argument(
        "--clip_norm", type=positive_float,
        help="shorten the gradient of all parameters to this norm where it is longer, after the method has edited it",
    )  # fmt: skip
    if chosen.weighs_classes():
        group.add_argument(
            "--class_weights", choices=("balanced",),
            help="weigh class c by N / (C n_c) in all cross entropies, N training samples of C classes, n_c of it; as "
            "scikit-learn's",
        )  # fmt: skip
    group.add_argument(
        "--patience", type=positive, metavar="EPOCHS",
        help="end the run after so many epochs in a row that were not better on the validation split than the best "
        "before them; needs --val_fraction, or data with such a split; ours",
    )  # fmt: skip
    group.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32",
        help="bf16: autocast; no fp16, which needs scaled gradients",
    )  # fmt: skip
    group.add_argument(
        "--compile", action="store_true", help="compile the encoders (torch.compile): minutes before the first step"
    )
    group.add_argument("--seed", type=seed, default=0, help="of the weights, the data order and the augmentation")


def _add_window(group, chosen: type[Method]) -> None:
    group.add_argument(
        "--window", choices=WINDOWS,
        help="paper: Eq. 11, the trace grows from epoch to epoch; official: the public code's rule, by the first "
        "modality's trace; accumulated (ours): the last trace over the sum of all so far",
    )  # fmt: skip
    group.add_argument(
        "--threshold", type=number, help="K; 0.04 by Fig. 8 for the paper's window, 0.05 official, 0.1 accumulated"
    )
    group.add_argument(
        "--window_smoothing", type=positive, help="epochs of which the trace is the mean; 1, official: 10"
    )
    group.add_argument(
        "--window_every", type=positive, metavar="STEPS",
        help="accumulated: a trace, and a decision, in as many steps; by default an epoch's",
    )  # fmt: skip
    group.add_argument(
        "--start_epoch", type=count,
        help="first epoch, from 0, whose window may open, with --window_every a number of traces; 2 by Algorithm "
        "1, official: 0, accumulated: 1",
    )  # fmt: skip
    if chosen.modulates:
        group.add_argument("--modulate_during", choices=DURING, default="all", help="when the method acts; Table 4")


def add_run(group) -> None:
    """Add where a run is computed and written; nothing of it names a setting."""
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one"
    )
    group.add_argument(
        "--sync_bn", action="store_true",
        help="on several processes (torchrun): batch norm over the whole batch, not over a process's share",
    )  # fmt: skip
    group.add_argument("--workers", type=count, default=2, help="loader processes; results do not depend on it")
    group.add_argument(
        "--checkpoint_minutes", type=not_negative, default=30.0,
        help="write a checkpoint within an epoch, too, when the last one is older; 0: at the end of an epoch only",
    )  # fmt: skip
    group.add_argument("--out", default="results", help="folder of all results")
    group.add_argument(
        "--tag", help="name of this setting in --out; by default the flags that differ from their defaults"
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the folder, or start it; with its --tag and more epochs also beyond its end",
    )


def _add_choice(parser: argparse.ArgumentParser) -> None:
    for flag, names, default, text in (
        ("--dataset", DATASETS, "CREMAD", "what to train on"),
        ("--method", (*METHODS, *PRETRAINING), "inforeg", "how to train"),
    ):
        parser.add_argument(flag, choices=names, type=one_of(names), default=default, help=text)
