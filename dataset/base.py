"""What every data set shares: the batch and the splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from utils.distributed.gather import Share


@dataclass
class Batch:
    """inputs: {modality: (B, ...)}; target: (B,) class numbers; index: (B,) positions in the data set that is read.

    `finish` makes the inputs, on the device that they have come to, of what the data set has given instead (its draws).
    """

    inputs: dict[str, Tensor]
    target: Tensor
    index: Tensor
    finish: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None

    def to(self, device: torch.device) -> "Batch":
        inputs = {name: x.to(device, non_blocking=True) for name, x in self.inputs.items()}
        if self.finish:
            inputs = self.finish(inputs)
        if isinstance(self.inputs, Share):
            inputs = Share(inputs, self.inputs.total)
        return Batch(inputs, self.target.to(device, non_blocking=True), self.index.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        inputs = {name: x.pin_memory() for name, x in self.inputs.items()}
        return Batch(inputs, self.target.pin_memory(), self.index.pin_memory())

    def __len__(self) -> int:
        return len(self.target)


@dataclass
class Splits:
    """What `dataset.build` returns. `held_out` and `val` come out of the training split, or are None.

    `val` may also be the data set's own validation split.

    `plain` is `train`, sample for sample, without augmentation: what `held_out` may be compared with. None without it.
    """

    train: Dataset
    plain: Dataset | None
    held_out: Dataset | None
    val: Dataset | None
    test: Dataset
    classes: Sequence[str]


def below(dataset: Dataset) -> tuple[Dataset, Sequence[int]]:
    """The data set below all Subsets, and the places in it of the samples that these leave."""
    if isinstance(dataset, Subset):
        base, at = below(dataset.dataset)
        return base, [at[i] for i in dataset.indices]
    return dataset, range(len(dataset))


def targets_of(dataset: Dataset) -> list[int]:
    """Class numbers of a data set without reading its files (a Subset asks the data set below it)."""
    base, at = below(dataset)
    return [base.targets[i] for i in at]
