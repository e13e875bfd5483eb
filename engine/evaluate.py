"""Evaluation through the method's own forward."""

from collections.abc import Callable, Hashable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.base import Batch
from dataset.loader import make_loader
from methods.base import Method
from methods.run import Run, collect
from models.multimodal import Output
from utils.metrics import average_precisions, calibration_error, class_accuracies
from utils.precision import autocast
from utils.runs.predictions import FUSED, Predictions

KINDS = ("class", "probability")


def heads_of(output: Output) -> dict[Hashable, Tensor]:
    """{head: its logits (B, C)} of a method's output."""
    return {FUSED: output.logits} | output.unimodal


def predict(
    model: torch.nn.Module, forward: Callable[[Batch], Output], loader: DataLoader, device: torch.device
) -> Predictions:
    """Predict every sample of `loader`."""

    def classify(batch: Batch) -> dict[Hashable, Tensor]:
        output = forward(batch)
        arrays = {"loss": F.cross_entropy(output.logits.float(), batch.target, reduction="none")}
        for head, logits in heads_of(output).items():
            arrays["class", head] = logits.argmax(dim=1)  # of the logits: rounded probabilities may be equal
            arrays["probability", head] = logits.softmax(dim=1, dtype=torch.float32)
        return arrays | {"target": batch.target}

    arrays = collect(model, loader, device, classify)
    target, loss = arrays.pop("target"), arrays.pop("loss")
    return Predictions(target, loss, *({head: arrays[k, head] for k, head in arrays if k == kind} for kind in KINDS))


def metrics_of(predictions: Predictions) -> dict[str, float]:
    """Loss, accuracy and other metrics of the fused prediction, and the accuracy of each modality's read-out (0..1).

    `majority` is the share of the most frequent class: the accuracy of a prediction that looks at nothing;
    `balanced_accuracy` and `mAP` are the means over the classes that have samples of their accuracy and of their
    average precision; `ece` is the expected calibration error (utils/metrics.py).
    """
    from sklearn.metrics import f1_score  # here, since it takes seconds to load

    target, predicted = predictions.target.numpy(), predictions.classes[FUSED].numpy()
    probabilities = predictions.probabilities[FUSED].numpy()
    present = np.unique(target)
    metrics = {
        "loss": predictions.loss.double().mean().item(),
        "macro_f1": float(f1_score(target, predicted, average="macro", zero_division=0.0)),
        "balanced_accuracy": float(class_accuracies(target, predicted, probabilities.shape[1])[present].mean()),
        "mAP": float(average_precisions(target, probabilities)[present].mean()),
        "ece": calibration_error(target, predicted, probabilities),
        "majority": float(np.bincount(target).max() / len(target)),
    }
    for head, classes in predictions.classes.items():
        metrics["accuracy" if head == FUSED else head] = (classes == predictions.target).double().mean().item()
    return metrics


def evaluate_splits(
    run: Run, method: Method, splits: Mapping[str, Dataset | None]
) -> tuple[dict[str, dict[str, float]], Predictions | None]:
    """The metrics of each split that there is, in the run's precision, and the predictions for the last one.

    A method that learns no classes has metrics of its own (`Method.evaluate`) and no predictions.

    Raises:
        Stopped: if the run has been sent a signal.
    """
    metrics, predictions = {}, None
    forward = autocast(run.device, run.args.precision)(method.forward)
    for name, data in splits.items():
        if data is not None and (measured := method.evaluate(run, data)) is not None:
            metrics[name] = measured
        elif data is not None:
            loader = make_loader(data, run.args.batch_size, run.args.workers, pin=run.device.type == "cuda")
            predictions = predict(run.model, forward, loader, run.device)
            metrics[name] = metrics_of(predictions)
    return metrics, predictions
