"""Maps of a model's features in the plane by t-SNE, and how well the classes separate among the features."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits

from dataset import DATASETS
from methods import Method
from methods.run import collect
from scripts.trained.restore import plain_loader
from utils.errors import RunError

PERPLEXITY = 30.0  # scikit-learn's, and at most a third of the samples


class Map(NamedTuple):
    """One modality's features on the test split. The classes are numbers of `names`."""

    classes: np.ndarray  # (N,)
    points: np.ndarray  # (N, 2)
    silhouettes: np.ndarray  # (N,)
    names: Sequence[str]


def make_maps(method: Method, path: Path, flags) -> dict[str, Map]:
    """{modality: its map} of a method's test split; `path`: its checkpoint, in messages.

    Raises:
        RunError: if the test split has one class only.
    """
    args, model = method.args, method.model
    source = DATASETS[args.dataset]
    loader = plain_loader(args, source.read_splits(args)[1], model.modalities, flags)
    features = collect(model, loader, torch.device(flags.device), lambda b: model.encode(b.inputs) | {"": b.target})
    classes, names = features.pop("").numpy(), source.class_names(args)
    try:
        return {
            name: Map(classes, embed(x.numpy()), silhouette_samples(x.numpy(), classes), names)
            for name, x in features.items()
        }
    except ValueError as error:  # too few samples, or one class only
        raise RunError(f"{path}: the test split cannot be mapped ({error})") from None


def embed(features: np.ndarray) -> np.ndarray:
    """(N, dim) -> (N, 2). Features that are all the same, of a dead encoder, are one point."""
    if not np.ptp(features, axis=0).any():
        return np.zeros((len(features), 2))
    tsne = TSNE(perplexity=min(PERPLEXITY, (len(features) - 1) / 3), init="pca", random_state=0)
    with threadpool_limits(1):  # sums in several threads differ from one time to the next
        return tsne.fit_transform(features)
