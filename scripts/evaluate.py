"""A trained model on its test split under noise, without some modalities, or with modalities of different samples.

    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --eval_noise audio:snr:0 --eval_seeds 3
    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --eval_missing visual:0.5
    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --report_contribution

Prints the metrics of the split as it is (with the noise of --train_noise), those under what is asked for, and the
difference: accuracy and macro F1 of the prediction, the share of the most frequent class, and the accuracy of each
modality's read-out. Of several seeds of a condition it prints mean and standard deviation.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from scripts.trained.evaluation import FILLS, Condition, Evaluation
from scripts.trained.restore import add_flags, restore
from utils.errors import one_sentence
from utils.files import write_atomically
from utils.numbers import positive, probability


def main(argv: list[str] | None = None) -> dict:
    """Evaluate one checkpoint; returns what --out writes, the metrics as shares (0..1).

    Raises:
        RunError: if the checkpoint or its data cannot be read, or a condition is not defined for the data.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="last.pt or best.pt of a run")
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
    if condition != Condition(missing_fill=flags.missing_fill):
        result |= tested.average(condition, flags.eval_seeds, flags.report_contribution)
    print(f"{args.method} on {args.dataset}, setting {args.tag}, seed {args.seed}, epoch {epoch + 1}")
    show(result, flags.eval_seeds)
    if flags.out:
        write_atomically(flags.out, json.dumps(result, indent=2) + "\n")
    return result


def show(result: dict, seeds: int) -> None:
    """Print the metrics in columns: clean alone, or beside those under the condition."""
    if "mean" not in result:
        print("".join(f"{name:>24} {value:8.2%}\n" for name, value in result["clean"].items()), end="")
        return
    print(f"{'':>24} {'clean':>8} {'drawn':>8} {'+-':>7} {'drop':>8}   {seeds} seed(s)")
    for name, value in result["clean"].items():
        mean, deviation = result["mean"][name], result["deviation"][name]
        print(f"{name:>24} {value:8.2%} {mean:8.2%} {deviation:7.2%} {value - mean:8.2%}")


if __name__ == "__main__":
    with one_sentence():
        main()
