"""Evaluation through the method's own forward, and the collection of anything per sample."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from dataset.base import Batch
from methods.run import collect
from models.multimodal import Output


def evaluate(
    model: torch.nn.Module, forward: Callable[[Batch], Output], loader: DataLoader, device: torch.device
) -> dict[str, float]:
    """The `figures` of a model's predictions on the samples of `loader`."""
    return figures(predict(model, forward, loader, device))


def predict(
    model: torch.nn.Module, forward: Callable[[Batch], Output], loader: DataLoader, device: torch.device
) -> dict[str, Tensor]:
    """(N,) each, in the loader's order: `target`, `loss`, the fused prediction `accuracy`, each modality's own by name.

    Predictions are class numbers.
    """

    def classify(batch: Batch) -> dict[str, Tensor]:
        output = forward(batch)
        heads = {"accuracy": output.logits} | output.unimodal
        found = {name: logits.argmax(dim=1) for name, logits in heads.items()}
        loss = F.cross_entropy(output.logits.float(), batch.target, reduction="none")
        return found | {"loss": loss, "target": batch.target}

    return collect(model, loader, device, classify)


def figures(found: Mapping[str, Tensor]) -> dict[str, float]:
    """Loss, accuracy and macro F1 of the fused prediction, and the accuracy of each modality's read-out (0..1).

    `found`: what `predict` returns. `majority` is the share of the most frequent class: the accuracy of a prediction
    that looks at nothing.
    """
    from sklearn.metrics import f1_score  # here, since it takes seconds to load

    found = dict(found)
    target, loss = found.pop("target"), found.pop("loss")
    accuracies = {name: (predicted == target).double().mean().item() for name, predicted in found.items()}
    macro_f1 = f1_score(target.numpy(), found["accuracy"].numpy(), average="macro", zero_division=0.0)
    majority = target.bincount().max().item() / len(target)
    return {"loss": loss.double().mean().item(), "macro_f1": float(macro_f1), "majority": majority} | accuracies
