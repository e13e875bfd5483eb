"""A trained model on its test split under noise, without some modalities, or with modalities of different samples.

    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --eval_noise audio:snr:0 --eval_seeds 3
    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --eval_missing visual:0.5
    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --report_contribution
    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --per_class --confusion confusion

Prints the metrics of the split as it is (with the noise of --train_noise), those under what is asked for, and the
difference: of the fused prediction accuracy, mean of the classes' accuracies (balanced_accuracy), macro F1, mean of
their average precisions (mAP), expected calibration error (ece: 15 bins, Guo et al. 2017) and the share of the most
frequent class (majority); then the accuracy of each modality's read-out. Of several seeds of a condition it prints mean
and standard deviation.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from scripts.results.classes import ByClass
from scripts.results.render import FORMS, render
from scripts.trained.evaluation import FILLS, Condition, Evaluation
from scripts.trained.restore import add_flags, restore
from utils.errors import one_sentence
from utils.files import write_atomically
from utils.numbers import positive, probability
from utils.runs.checkpoint import checkpoint_of
from utils.runs.plots import draw_confusion
from utils.runs.predictions import FUSED


def main(argv: list[str] | None = None) -> dict:
    """Evaluate one checkpoint; returns what --out writes, the metrics as shares (0..1).

    Raises:
        RunError: if the checkpoint or its data cannot be read, or a condition is not defined for the data.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=checkpoint_of, help="last.pt or best.pt of a run, or its folder")
    parser.add_argument(
        "--eval_noise", action="append", default=[], metavar="MODALITY:KIND:LEVEL[@SHARE]",
        help="noise on the test samples, as for --train_noise of main.py; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--eval_missing", action="append", default=[], metavar="MODALITY:RATE",
        help="share of the test samples that lack the modality; any: every one by itself; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--missing_fill", choices=FILLS, default="zero",
        help="features of what is missing: zero, and what is left alone is read by its unimodal read-out; or the "
        "training split's mean, through the fusion (default: zero)",
    )  # fmt: skip
    parser.add_argument(
        "--eval_conflict", type=probability, default=0.0, metavar="RATE",
        help="share of the test samples with one modality taken from a sample of another class",
    )  # fmt: skip
    parser.add_argument(
        "--report_contribution", action="store_true", help="Shapley values of the accuracy over subsets of modalities"
    )
    parser.add_argument(
        "--per_class", action="store_true",
        help="also a table of the classes: accuracy, fused and by modality, and average precision; under a condition "
        "as its first seed draws it",
    )  # fmt: skip
    parser.add_argument("--format", choices=FORMS, default="md", help="of that table; csv has shares (default: md)")
    parser.add_argument(
        "--confusion", type=Path, metavar="NAME", help="draw the confusion matrix as NAME.svg, .pdf and .png, likewise"
    )
    parser.add_argument("--eval_seeds", type=positive, default=1, help="how often noise and the like are drawn")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the metrics there, too")
    add_flags(parser)
    flags = parser.parse_args(argv)

    trained = restore(flags.checkpoint, flags)
    tested, args, epoch = Evaluation(trained), trained.args, trained.state["epoch"]
    condition = Condition(tuple(flags.eval_noise), tuple(flags.eval_missing), flags.missing_fill, flags.eval_conflict)
    clean = tested.metrics(Condition(), contribution=flags.report_contribution)
    result = {
        "checkpoint": str(flags.checkpoint), "epoch": epoch, "condition": asdict(condition), "clean": clean,
    }  # fmt: skip
    drawn = condition != Condition(missing_fill=flags.missing_fill)
    if drawn:
        result |= tested.average(condition, flags.eval_seeds, flags.report_contribution)
    print(f"{args.method} on {args.dataset}, setting {args.tag}, seed {args.seed}, epoch {epoch + 1}")
    show(result, flags.eval_seeds)
    if flags.per_class or flags.confusion:
        result |= show_classes(tested, condition if drawn else Condition(), flags)
    if flags.confusion:
        print(f"written: {flags.confusion}.svg, .pdf and .png")
    if flags.out:
        write_atomically(flags.out, json.dumps(result, indent=2) + "\n")
        print(f"written: {flags.out}")
    return result


def show(result: dict, seeds: int) -> None:
    """Print the metrics in columns: clean alone, or beside those under the condition."""
    if "mean" not in result:
        print("".join(f"{name:>24} {value:8.2%}\n" for name, value in result["clean"].items()), end="")
        return
    drawn = f"{'drawn':>8}" + f" {'+-':>7}" * (seeds > 1)
    print(f"{'':>24} {'clean':>8} {drawn} {'drop':>8}   {seeds} seed{'s' * (seeds > 1)}")
    for name, value in result["clean"].items():
        mean = result["mean"][name]
        drawn = f"{mean:8.2%}" + (f" {result['deviation'][name]:7.2%}" if seeds > 1 else "")
        print(f"{name:>24} {value:8.2%} {drawn} {value - mean:8.2%}")


def show_classes(tested: Evaluation, condition: Condition, flags: argparse.Namespace) -> dict[str, dict]:
    """Print the table of the classes and draw the confusion matrix, as asked for; returns what --out adds."""
    names, predictions = tested.trained.state["classes"], tested.predictions(condition)
    if flags.confusion:
        args = tested.trained.args
        title = f"confusion matrix; {args.method} on {args.dataset}, seed {args.seed}"
        draw_confusion(predictions.target, predictions.classes[FUSED], names, flags.confusion, title)
    if not flags.per_class:
        return {}
    by_class = ByClass.of_predictions(names, predictions)
    header, rows = by_class.grid(full=flags.format == "csv")
    print(f"\n{render(header, rows, flags.format, 'Accuracy by class, fused and by modality, and average precision')}")
    return {"classes": by_class.plain()}


if __name__ == "__main__":
    with one_sentence():
        main()
