"""Missing and conflicting modalities, sample by sample, and what each modality contributes.

What is drawn depends on a seed, the sample's place in the split and the modality alone: every method sees the same.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dataset.base import Batch, MultimodalDataset, targets_of
from methods.shapley import coalitions, shapley_weights
from models.multimodal import MultimodalModel, Output
from utils.errors import RunError

Forward = Callable[[Batch], Output]


def draw_present(modalities: Sequence[str], rates: Mapping[str, float], count: int, seed: int) -> dict[str, Tensor]:
    """{modality: (count,) bool}, whether it is there; each is missing by itself, with its probability in `rates`."""
    draws = {name: np.random.default_rng([seed, *f"missing:{name}".encode()]).random(count) for name in modalities}
    return {name: torch.from_numpy(drawn >= rates.get(name, 0.0)) for name, drawn in draws.items()}


def without(
    model: MultimodalModel, output: Output, present: Mapping[str, Tensor], fill: Mapping[str, Tensor] | None = None
) -> Output:
    """The output where modalities are missing; `present` {modality: (B,) bool} on the output's device.

    The features of what is missing are zero, and a modality that is left alone is read by its unimodal read-out: so
    with all others missing the prediction is exactly what every table reports of it. With `fill`, {modality: (dim,)},
    these features stand in for what is missing, and the prediction is always the fused one. Where nothing is missing
    it is what the method predicts.
    """
    features = {}
    for name, feature in output.features.items():
        absent = torch.zeros_like(feature) if fill is None else fill[name].to(feature)
        features[name] = torch.where(present[name][:, None], feature, absent)
    logits, unimodal = model.fuse(features), model.unimodal(features)
    left = torch.stack([present[name] for name in features]).sum(dim=0)
    if fill is None:
        for name, alone in unimodal.items():
            logits = torch.where((present[name] & (left == 1))[:, None], alone, logits)
    logits = torch.where((left == len(features))[:, None], output.logits, logits)
    return Output(logits, unimodal, features, output.target)


def missing(
    model: MultimodalModel,
    forward: Forward,
    present: Mapping[str, Tensor],
    fill: Mapping[str, Tensor] | None = None,
    every_subset: bool = False,
) -> Forward:
    """`forward` where `present` {modality: (N,) bool} says what a sample of the split has.

    With `every_subset` the read-outs hold, beside each modality's, the prediction from every subset of the modalities,
    under the tuple of their names.
    """

    def predict(batch: Batch) -> Output:
        complete = forward(batch)
        there = {name: of_split.to(batch.index.device)[batch.index] for name, of_split in present.items()}
        output = without(model, complete, there, fill)
        if every_subset:
            for names in subsets(model.modalities):
                part = {name: of_batch & (name in names) for name, of_batch in there.items()}
                output.unimodal |= {names: without(model, complete, part, fill).logits}
        return output

    return predict


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """All subsets, the empty one first and then in the order of `coalitions`."""
    return [(), *(tuple(modalities[m] for m in members) for members in coalitions(len(modalities)))]


def contributions(accuracy: Mapping[tuple[str, ...], float], modalities: Sequence[str]) -> dict[str, float]:
    """Shapley values of the accuracy; they sum to that of all modalities minus that of none.

    phi_m = sum over the S without m of |S|! (M - |S| - 1)! / M! (accuracy(S + m) - accuracy(S))
    """
    none, *others = (accuracy[names] for names in subsets(modalities))
    gains = torch.tensor([value - none for value in others], dtype=torch.float64)
    return dict(zip(modalities, (shapley_weights(len(modalities)) @ gains).tolist(), strict=True))


class Conflicting(MultimodalDataset):
    """`data`, whose inputs draw nothing, with one modality of a share of the samples taken from another class.

    The modality is one of `modalities`, whether or not it is read; the sample that it is taken from is one of all those
    of other classes.

    Raises:
        RunError: if there is one class only.
    """

    def __init__(self, data: MultimodalDataset, share: float, modalities: Sequence[str], seed: int):
        self.data, self.share, self.modalities, self.seed = data, share, tuple(modalities), seed
        self.targets = targets_of(data)
        if len(set(self.targets)) < 2:
            raise RunError("the test split has one class only: no modality can be that of another class")

    def __getitem__(self, position: int):
        inputs, target, index = self.data[position]
        random = np.random.default_rng([self.seed, *b"conflict", position])
        if random.random() < self.share:
            name = self.modalities[random.integers(len(self.modalities))]
            other = int(random.choice(np.flatnonzero(np.array(self.targets) != target)))
            if name in inputs:
                inputs = inputs | {name: self.data[other][0][name]}
        return inputs, target, index
