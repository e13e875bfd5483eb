"""Evaluation through the method's own forward."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.base import Batch
from dataset.loader import make_loader
from methods.base import Method
from methods.run import Run, collect
from models.multimodal import Output
from utils.precision import autocast


def evaluate(
    model: torch.nn.Module, forward: Callable[[Batch], Output], loader: DataLoader, device: torch.device
) -> dict[str, float]:
    """The metrics of a model's predictions on the samples of `loader`."""
    return metrics_of(predict(model, forward, loader, device))


def predict(
    model: torch.nn.Module, forward: Callable[[Batch], Output], loader: DataLoader, device: torch.device
) -> dict[str, Tensor]:
    """Predict every sample of `loader`.

    Returns (N,) tensors in the loader's order: class numbers `target`, `loss`, and the predicted class numbers, those
    of the fused logits as `accuracy` and those of each modality's read-out by its name.
    """

    def classify(batch: Batch) -> dict[str, Tensor]:
        output = forward(batch)
        heads = {"accuracy": output.logits} | output.unimodal
        classes = {name: logits.argmax(dim=1) for name, logits in heads.items()}
        loss = F.cross_entropy(output.logits.float(), batch.target, reduction="none")
        return classes | {"loss": loss, "target": batch.target}

    return collect(model, loader, device, classify)


def metrics_of(predictions: Mapping[str, Tensor]) -> dict[str, float]:
    """Loss, accuracy and macro F1 of the fused prediction, and the accuracy of each modality's read-out (0..1).

    `predictions`: what `predict` returns. `majority` is the share of the most frequent class: the accuracy of a
    prediction that looks at nothing.
    """
    from sklearn.metrics import f1_score  # here, since it takes seconds to load

    heads = dict(predictions)
    target, loss = heads.pop("target"), heads.pop("loss")
    accuracies = {name: (predicted == target).double().mean().item() for name, predicted in heads.items()}
    macro_f1 = f1_score(target.numpy(), heads["accuracy"].numpy(), average="macro", zero_division=0.0)
    majority = target.bincount().max().item() / len(target)
    return {"loss": loss.double().mean().item(), "macro_f1": float(macro_f1), "majority": majority} | accuracies


def evaluate_splits(
    run: Run, method: Method, splits: Mapping[str, Dataset | None]
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    """The metrics of each split that there is, in the run's precision, and the predictions for the last one.

    Raises:
        Stopped: if the run has been sent a signal.
    """
    metrics, predictions = {}, {}
    forward = autocast(run.device, run.args.precision)(method.forward)
    for name, data in splits.items():
        if data is not None:
            loader = make_loader(data, run.args.batch_size, run.args.workers, pin=run.device.type == "cuda")
            predictions = predict(run.model, forward, loader, run.device)
            metrics[name] = metrics_of(predictions)
    return metrics, predictions
