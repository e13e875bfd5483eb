"""The training split of a trained model as a pool of samples without labels."""

from typing import NamedTuple

import numpy as np

from dataset.base import below
from dataset.registry import listed
from methods.run import collect
from scripts.trained.restore import Trained
from utils.precision import autocast


class Pool(NamedTuple):
    """Names of N samples, and the unit features {modality: (N, dim)} by which the model compares them."""

    names: list[str]
    features: dict[str, np.ndarray]


def pool_of(trained: Trained) -> Pool:
    """The samples that the model was trained on, without augmentation and in the order of the split.

    Raises:
        DataError: if anything of it is missing on disk.
    """
    method, data = trained.method, listed(trained.args, trained.data(trained.splits()[0]))
    with autocast(trained.device, trained.args.precision):
        features = collect(
            method.model,
            trained.loader(data),
            trained.device,
            lambda batch: method.embed(method.model.encode(batch.inputs)),
        )
    base, at = below(data)
    return Pool([base.names[i] for i in at], {name: array.float().numpy() for name, array in features.items()})
