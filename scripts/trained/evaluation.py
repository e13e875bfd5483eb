"""A trained model on its test split under noise, without some modalities, or with modalities of different samples."""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dataset.base import MultimodalDataset
from engine.evaluate import metrics_of, predict
from methods.run import collect
from scripts.trained.conditions import Conflicting, contributions, draw_present, missing, subsets
from scripts.trained.restore import Trained
from utils.errors import RunError
from utils.numbers import probability
from utils.precision import autocast
from utils.runs.predictions import Predictions

FILLS = ("zero", "mean")
SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "mAP", "ece", "majority")


@dataclass(frozen=True)
class Condition:
    """The noise on the test split, MODALITY:RATE of what is missing, its features, the share of conflicts."""

    noise: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    missing_fill: str = "zero"
    conflict: float = 0.0


class Evaluation:
    """A trained method with its test split, and its metrics under a condition.

    Raises:
        RunError: if the method trains no classifier.
    """

    def __init__(self, trained: Trained):
        if not trained.method.classifies:
            raise RunError(f"--method {trained.args.method} trains no classifier: it predicts nothing to be evaluated")
        self.trained, self.method, self.device = trained, trained.method, trained.device
        self.train_rows, test_rows, *_ = trained.splits()
        self.data = trained.data(test_rows)
        self.modalities = tuple(trained.source.encoders(trained.args))  # also those that a unimodal model does not read
        self.mean: dict[str, Tensor] | None = None

    def average(self, condition: Condition, seeds: int, contribution: bool = False) -> dict[str, dict[str, float]]:
        """Mean and, of several, standard deviation of the metrics over the seeds 1, 2, ..."""
        drawn = [self.metrics(condition, seed, contribution) for seed in range(1, seeds + 1)]
        values = {name: [metrics[name] for metrics in drawn] for name in drawn[0]}
        found = {"mean": {name: statistics.mean(several) for name, several in values.items()}}
        if seeds > 1:
            found["deviation"] = {name: statistics.stdev(several) for name, several in values.items()}
        return found

    def metrics(self, condition: Condition, seed: int = 1, contribution: bool = False) -> dict[str, float]:
        """SHARES of the fused prediction (engine/evaluate.py) and each modality's accuracy, as shares (0..1).

        With `contribution` also the accuracy of every subset of modalities and the Shapley values.

        Raises:
            RunError: if the condition is not defined for the data.
        """
        modalities = self.method.model.modalities
        every = metrics_of(self.predictions(condition, seed, contribution))
        metrics = {name: every[name] for name in (*SHARES, *modalities)}
        if contribution:
            accuracy = {names: every[names] for names in subsets(modalities)}
            metrics |= {f"{{{', '.join(names)}}}": value for names, value in accuracy.items()}
            values = contributions(accuracy, modalities)
            metrics |= {f"contribution {name}": value for name, value in values.items()}
        return metrics

    def predictions(self, condition: Condition, seed: int = 1, every_subset: bool = False) -> Predictions:
        """What the model predicts of the test split, fused and by modality; maybe also from every subset of these.

        Raises:
            RunError: if the condition is not defined for the data.
        """
        method, model = self.method, self.method.model
        data = self.corrupted(condition, seed)
        rates = read_rates(condition.missing, self.modalities)
        present = draw_present(model.modalities, rates, len(data), seed)
        fill = self.means() if condition.missing_fill == "mean" else None
        forward = missing(model, method.forward, present, fill, every_subset)
        with self.precision():
            return predict(model, forward, self.trained.loader(data), self.device)

    def corrupted(self, condition: Condition, seed: int) -> MultimodalDataset:
        """The test split with the noise and the conflicts that `seed` draws."""
        data = self.data
        if condition.noise:
            try:
                data = data.with_noise(data.noise.then(condition.noise, seed))
            except argparse.ArgumentTypeError as error:
                raise RunError(f"--eval_noise {error}") from None
        return Conflicting(data, condition.conflict, self.modalities, seed) if condition.conflict else data

    def means(self) -> dict[str, Tensor]:
        """{modality: (dim,)}: the mean feature of the samples that the model was trained on, without augmentation."""
        if self.mean is None:
            model = self.method.model
            loader = self.trained.loader(self.trained.labelled(self.train_rows))
            with self.precision():
                features = collect(model, loader, self.device, lambda batch: model.encode(batch.inputs))
            self.mean = {name: feature.float().mean(dim=0) for name, feature in features.items()}
        return self.mean

    def precision(self) -> torch.autocast:
        """The precision in which the run was trained."""
        return autocast(self.device, self.method.args.precision)


def read_rates(words: Sequence[str], modalities: Sequence[str]) -> dict[str, float]:
    """{modality: rate} of words MODALITY:RATE.

    Raises:
        RunError: for another word, a modality that the data do not have, or one named twice.
    """
    rates: dict[str, float] = {}
    for word in words:
        name, _, rate = word.partition(":")
        if not rate:
            raise RunError(f"--eval_missing {word}: it is MODALITY:RATE, such as {modalities[0]}:0.5")
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
