"""The training split of a trained model as a pool of samples without labels, and what the model says of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataset.base import Batch, below
from methods.run import collect
from methods.shapley import shapley_weights
from scripts.trained.conditions import missing, subsets
from scripts.trained.restore import Trained
from selection.warm import Scored
from utils.errors import RunError
from utils.precision import autocast


class Pool(NamedTuple):
    """Names of N samples, and the unit features {modality: (N, dim)} by which the model compares them."""

    names: list[str]
    features: dict[str, np.ndarray]


def pool_of(trained: Trained, data: Dataset) -> Pool:
    """The samples of `data`, of the training split without augmentation, in its order.

    Raises:
        DataError: if anything of it is missing on disk.
    """
    method = trained.method
    features = read(trained, data, lambda batch: method.embed(method.model.encode(batch.inputs)))
    return Pool(names_of(data), {name: array.float().numpy() for name, array in features.items()})


def scored_by(trained: Trained, data: Dataset) -> Scored:
    """What the model says of the samples of `data`; it is asked without some modalities as if their features were zero.

    Raises:
        RunError: if the method trains no classifier; DataError as `pool_of`.
    """
    method, model = trained.method, trained.method.model
    if not method.classifies:
        raise RunError(f"--method {trained.args.method} trains no classifier, so nothing is known of the classes")
    there = torch.ones(len(below(data)[0]), dtype=torch.bool)
    zero = {name: torch.zeros(dim) for name, dim in model.dims.items()}
    forward = missing(model, method.forward, dict.fromkeys(model.modalities, there), zero, every_subset=True)
    names, weights = model.modalities, shapley_weights(len(model.modalities))

    def score(batch: Batch) -> dict[tuple[str, str], Tensor]:
        output = forward(batch)
        none, *others = (output.unimodal[part].softmax(dim=1, dtype=torch.float64) for part in subsets(names))
        given = others[-1].argmax(dim=1, keepdim=True)
        gains = torch.cat([(part - none).gather(1, given) for part in others], dim=1)  # (B, coalitions)
        values = gains @ weights.to(gains).T
        found = {("probabilities", ""): others[-1].float()}
        found |= {("features", name): feature.float() for name, feature in output.features.items()}
        return found | {("contributions", name): values[:, m] for m, name in enumerate(names)}

    arrays = {key: array.numpy() for key, array in read(trained, data, score).items()}
    by_modality = ({name: arrays[kind, name] for name in names} for kind in ("features", "contributions"))
    return Scored(arrays["probabilities", ""], *by_modality)


def read(trained: Trained, data: Dataset, fn: Callable[[Batch], dict]) -> dict:
    """`fn` of every batch of `data` in the precision of the run, concatenated, on the CPU."""
    with autocast(trained.device, trained.args.precision):
        return collect(trained.method.model, trained.loader(data), trained.device, fn)


def names_of(data: Dataset) -> Sequence[str]:
    """The names of its samples."""
    base, at = below(data)
    return [base.names[i] for i in at]
