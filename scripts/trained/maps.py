"""Maps of a model's features in the plane by t-SNE, and how well the classes separate among the features."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits

from methods.run import collect
from scripts.trained.restore import Trained
from utils.errors import RunError

PERPLEXITY = 30.0  # scikit-learn's, and at most a third of the samples


class Map(NamedTuple):
    """One modality's features on the test split. The classes are numbers of `names`."""

    classes: np.ndarray  # (N,)
    points: np.ndarray  # (N, 2)
    silhouettes: np.ndarray  # (N,)
    names: Sequence[str]


def make_maps(trained: Trained, path: Path) -> dict[str, Map]:
    """{modality: its map} of the test split; `path`: the model's checkpoint, in messages.

    Raises:
        RunError: if the test split has one class only.
    """
    model, loader = trained.method.model, trained.loader(trained.data(trained.splits()[1]))
    features = collect(model, loader, trained.device, lambda batch: model.encode(batch.inputs) | {"": batch.target})
    classes, names = features.pop("").numpy(), trained.state["classes"]
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
