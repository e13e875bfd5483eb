"""The parts that every data set shares: the batch, the splits, and the contract of a data set as a base class."""

import copy
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dataset.recipes.corrupt import Noise
from utils.distributed.gather import Share
from utils.files import packed

Finish = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass
class Batch:
    """A batch of B samples.

    inputs: {modality: (B, ...)}; target: (B,) class numbers; index: (B,) positions in the data set that is read.

    `finish` makes the inputs on the device, once the batch is there, from what the data set gave in their place.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    index: Tensor
    finish: Finish | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, where its inputs are finished."""
        inputs = {name: x.to(device, non_blocking=True) for name, x in self.inputs.items()}
        if self.finish:
            inputs = self.finish(inputs)
        if isinstance(self.inputs, Share):
            inputs = Share(inputs, self.inputs.total)
        return Batch(inputs, self.target.to(device, non_blocking=True), self.index.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in pinned memory, from which it is copied to a GPU without waiting; DataLoader calls this."""
        inputs = {name: x.pin_memory() for name, x in self.inputs.items()}
        return Batch(inputs, self.target.pin_memory(), self.index.pin_memory())

    @property
    def tensors(self) -> list[Tensor]:
        """All that the batch holds."""
        return [*self.inputs.values(), self.target, self.index]

    def __len__(self) -> int:
        return len(self.target)


class EpochPlan(Protocol):
    """An epoch's order and what reads it: dataset/storage/stream.py has the one of tar shards."""

    order: Sequence[int]

    def stream(self, data: Dataset, batches: Sequence[Sequence[int]]) -> Dataset:
        """`data`, read as `batches` will ask for it."""


class MultimodalDataset(Dataset):
    """One split of a data set; the class is the data set, and this one the contract.

    A sample is ({modality: tensor}, class number, position in the split); a modality has the same shape in all samples.
    Whatever a subclass is built on is checked in `read_splits` and `__init__`, before the first step, and what a user
    can mend is a DataError. Random draws in `__getitem__` come from torch's global generator alone (dataset/loader.py).

    names: what each sample is called, which noise depends on; targets: class numbers; noise: what --train_noise does to
    inputs, each passed through `noise.on(modality, name)`.
    """

    protocol: ClassVar[str]  # whose recipe the defaults are, for --help
    defaults: ClassVar[Mapping[str, Any]]  # data_root, the data set's own flags, and the recipe of training
    method_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # method -> its flags, as published for this data
    reads_clips: ClassVar[bool] = False  # whether `of_files` is defined
    forms: ClassVar[Mapping[str, str]] = {}  # modality -> sound, picture, values or words: the noise that there is

    draws: ClassVar[bool] = True  # whether samples may depend on draws, for each of which the loader sets the generator
    finish: Finish | None = None  # makes inputs, on the device, of what a sample has in their place
    names: Sequence[str]
    targets: Sequence[int]

    def __init__(
        self, args: Namespace, names: Sequence[str], targets: Sequence[int], modalities: Sequence[str], train: bool
    ):
        """Keep what all data sets have. modalities: those to read, in a sample's order; train: with augmentation."""
        self.names, self.targets = names, targets
        self.modality_names, self.train = tuple(modalities), train
        self.noise = Noise.of(args, self.forms)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[dict[str, Tensor], int, int]:
        raise NotImplementedError

    def __getitems__(self, positions: Sequence[int]) -> "list[tuple[dict[str, Tensor], int, int]] | Batch":
        """The samples at `positions`, or their batch, where a data set without draws makes it faster at once."""
        return [self[position] for position in positions]

    def with_noise(self, noise: Noise) -> "MultimodalDataset":
        """The same split under other noise."""
        other = copy.copy(self)
        other.noise = noise
        return other

    def renumbered(self, numbers: Sequence[int]) -> "MultimodalDataset":
        """The same split with `numbers[k]` for class number k."""
        other = copy.copy(self)
        other.targets = [numbers[target] for target in self.targets]
        return other

    def plan(self, at: Sequence[int], generator: torch.Generator) -> EpochPlan | None:
        """The order in which a training epoch over the positions `at` is read best, drawn by `generator`; None: any."""
        return None

    @classmethod
    def add_args(cls, group) -> None:
        """Add the flags that only this data set has."""

    @classmethod
    def refusal(cls, args: Namespace) -> str | None:
        """A sentence that says why the flags do not go together; None if they do."""
        if packed(args.data_root):
            return f"--data_root {args.data_root}: {args.dataset} is not read from shards; name its folder"
        return None

    @classmethod
    def encoders(cls, args: Namespace) -> Mapping[str, Callable[[], nn.Module]]:
        """{modality: what makes its encoder}; decides which modalities there are, and their order."""
        raise NotImplementedError

    @classmethod
    def class_names(cls, args: Namespace) -> Sequence[str]:
        """The labels in the order of their class numbers."""
        raise NotImplementedError

    @classmethod
    def read_splits(cls, args: Namespace) -> Sequence[Any]:
        """Rows of the training split, of the test split and, if there is one, of a validation split of the data's own.

        `rows` are whatever the class is made with: `cls(args, rows, modalities, train)`.

        Raises:
            DataError: if a file is missing or malformed, or a sample stands in two splits.
        """
        raise NotImplementedError

    @classmethod
    def of_files(
        cls, args: Namespace, paths: Sequence[str | Path], modalities: Sequence[str], prepared: Mapping[str, Any]
    ) -> "MultimodalDataset":
        """The samples that these files or folders hold, all of class 0, as evaluation sees them: what is predicted.

        No other file is read. `prepared` holds the settings with which the training data were prepared.

        Raises:
            DataError: for files that are no such samples.
        """
        raise NotImplementedError

    @classmethod
    def split_files(cls, args: Namespace) -> list[Path]:
        """The files that say which samples there are, in which split; runs record their checksums.

        Without any, a run that goes on with other data under the same names goes unnoticed.
        """
        return []


@dataclass
class Splits:
    """The splits that `dataset.build` returns. `held_out` and `val` come out of the training split, or are None.

    `val` may also be the data set's own validation split.

    `plain` is `train`, sample for sample, without augmentation, to compare `held_out` with; None where that is None.
    """

    train: Dataset
    plain: Dataset | None
    held_out: Dataset | None
    val: Dataset | None
    test: MultimodalDataset
    classes: Sequence[str]


def below(dataset: Dataset) -> tuple[MultimodalDataset, Sequence[int]]:
    """The data set below all Subsets, and the positions in it of the samples that these leave."""
    if isinstance(dataset, Subset):
        base, at = below(dataset.dataset)
        return base, [at[i] for i in dataset.indices]
    return dataset, range(len(dataset))


def targets_of(dataset: Dataset) -> list[int]:
    """Class numbers of a data set without reading its files (a Subset asks the data set below it)."""
    base, at = below(dataset)
    return [base.targets[i] for i in at]
