"""A trained model on its test split under noise, without some modalities, or with modalities of different samples.

    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --eval_noise audio:snr:0 --eval_seeds 3
    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --eval_missing visual:0.5
    python scripts/evaluate.py results/CREMAD/joint/default/seed0/last.pt --report_contribution

Prints the figures of the split as it is (with the noise of --train_noise), those under what is asked for, and the
difference: accuracy and macro F1 of the prediction, the share of the most frequent class, and the accuracy of each
modality's read-out. Of several seeds of a condition it prints mean and standard deviation.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset import DATASETS
from dataset.recipes.corrupt import Noise
from engine.evaluate import evaluate
from methods import Method
from methods.run import collect
from scripts.trained.conditions import Conflicting, contributions, draw_present, missing, subsets
from scripts.trained.restore import add_flags, make_plain, plain_loader, restore, to_loader
from utils.errors import RunError, one_sentence
from utils.files import write_atomically
from utils.numbers import positive, probability
from utils.runs.checkpoint import load_checkpoint

FILLS = ("zero", "mean")


@dataclass(frozen=True)
class Condition:
    """What is done to the test split: noise, MODALITY:RATE of what is missing, and so on."""

    noise: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    missing_fill: str = "zero"
    conflict: float = 0.0


def main(argv: list[str] | None = None) -> dict:
    """Evaluate one checkpoint; returns what --out writes, the figures as shares (0..1).

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
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures there, too")
    add_flags(parser)
    own = parser.parse_args(argv)

    state = load_checkpoint(own.checkpoint)
    tested = Tested(restore(state, own.checkpoint, own), own)
    condition = Condition(tuple(own.eval_noise), tuple(own.eval_missing), own.missing_fill, own.eval_conflict)
    args, clean = tested.method.args, tested.figures(Condition(), contribution=own.report_contribution)
    found = {"checkpoint": str(own.checkpoint), "epoch": state["epoch"], "condition": asdict(condition), "clean": clean}
    print(f"{args.method} on {args.dataset}, setting {args.tag}, seed {args.seed}, epoch {state['epoch'] + 1}")
    if condition == Condition(missing_fill=own.missing_fill):
        print("".join(f"{name:>24} {value:8.2%}\n" for name, value in clean.items()), end="")
    else:
        found |= tested.average(condition, own.eval_seeds, own.report_contribution)
        print(f"{'':>24} {'clean':>8} {'drawn':>8} {'+-':>7} {'drop':>8}   {own.eval_seeds} seed(s)")
        for name, value in clean.items():
            mean, deviation = found["mean"][name], found["deviation"][name]
            print(f"{name:>24} {value:8.2%} {mean:8.2%} {deviation:7.2%} {value - mean:8.2%}")
    if own.out:
        write_atomically(own.out, json.dumps(found, indent=2) + "\n")
    return found


class Tested:
    """A trained method with its test split; `figures` are its figures under a condition."""

    def __init__(self, method: Method, own: argparse.Namespace):
        self.method, self.own, self.device = method, own, torch.device(own.device)
        self.source = DATASETS[method.args.dataset]
        self.train_rows, test_rows, *_ = self.source.read_splits(method.args)
        self.data = make_plain(method.args, test_rows, method.model.modalities)
        self.modalities = tuple(self.source.encoders(method.args))  # also those that a unimodal model does not read
        self.mean: dict[str, Tensor] | None = None

    def average(self, condition: Condition, seeds: int, contribution: bool = False) -> dict[str, dict[str, float]]:
        """Mean and standard deviation of the figures over the seeds 1, 2, ...; the deviation of one seed is 0."""
        drawn = [self.figures(condition, seed, contribution) for seed in range(1, seeds + 1)]
        values = {name: [figures[name] for figures in drawn] for name in drawn[0]}
        return {
            "mean": {name: statistics.mean(several) for name, several in values.items()},
            "deviation": {name: statistics.stdev(several) if seeds > 1 else 0.0 for name, several in values.items()},
        }

    def figures(self, condition: Condition, seed: int = 1, contribution: bool = False) -> dict[str, float]:
        """Accuracy, macro F1, the majority's share, and each modality's accuracy.

        With `contribution` also the accuracy of every subset of modalities and the Shapley values.

        Raises:
            RunError: if the condition is not defined for the data.
        """
        method, model = self.method, self.method.model
        data = self.corrupted(condition, seed)
        rates = read_rates(condition.missing, self.modalities)
        present = draw_present(model.modalities, rates, len(data), seed)
        fill = self.means() if condition.missing_fill == "mean" else None
        forward = missing(model, method.forward, present, fill, contribution)
        with self.precision():
            found = evaluate(model, forward, to_loader(data, method.args, self.own), self.device)
        figures = {name: found[name] for name in ("accuracy", "macro_f1", "majority", *model.modalities)}
        if contribution:
            accuracy = {names: found[names] for names in subsets(model.modalities)}
            figures |= {f"{{{', '.join(names)}}}": value for names, value in accuracy.items()}
            values = contributions(accuracy, model.modalities)
            figures |= {f"contribution {name}": value for name, value in values.items()}
        return figures

    def corrupted(self, condition: Condition, seed: int) -> Dataset:
        """The test split with the noise and the conflicts that `seed` draws."""
        data = self.data
        if condition.noise:
            try:
                noise = getattr(data, "noise", Noise({})).then(condition.noise, seed)
            except argparse.ArgumentTypeError as error:
                raise RunError(f"--eval_noise {error}") from None
            data = copy.copy(data)
            data.noise = noise
        return Conflicting(data, condition.conflict, self.modalities, seed) if condition.conflict else data

    def means(self) -> dict[str, Tensor]:
        """{modality: (dim,)}: the mean feature of the training split, without augmentation."""
        if self.mean is None:
            model = self.method.model
            loader = plain_loader(self.method.args, self.train_rows, model.modalities, self.own)
            with self.precision():
                features = collect(model, loader, self.device, lambda batch: model.encode(batch.inputs))
            self.mean = {name: feature.float().mean(dim=0) for name, feature in features.items()}
        return self.mean

    def precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.method.args.precision == "bf16")


def read_rates(words: Sequence[str], modalities: Sequence[str]) -> dict[str, float]:
    """{modality: rate} of words MODALITY:RATE.

    Raises:
        RunError: for another word, a modality that the data do not have, or one named twice.
    """
    rates: dict[str, float] = {}
    for word in words:
        name, _, rate = word.partition(":")
        if name not in (*modalities, "any"):
            raise RunError(f"--eval_missing {word}: the modalities are {', '.join(modalities)}")
        try:
            value = probability(rate)
        except argparse.ArgumentTypeError as error:
            raise RunError(f"--eval_missing {word}: {error}") from None
        for one in modalities if name == "any" else [name]:
            if one in rates:
                raise RunError(f"--eval_missing {word}: {one} has a rate already")
            rates[one] = value
    return rates


if __name__ == "__main__":
    with one_sentence():
        main()
