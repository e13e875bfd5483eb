"""A data set of three modalities."""

from functools import partial

import torch
from helpers.narrow import NarrowResNet18

from dataset.base import MultimodalDataset


class Three(MultimodalDataset):
    """Random pictures; only those of `audio` tell the class, by their level."""

    modalities = ("audio", "visual", "depth")
    protocol = "the tests'"
    method_defaults = {}
    defaults = dict(
        data_root="nowhere", batch_size=12, epochs=1, optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=0.0,
        lr_step=9, lr_gamma=0.1,
    )  # fmt: skip

    def __init__(self, args, rows, modalities, train):
        draws = torch.Generator().manual_seed(rows[0])
        self.modality_names, self.targets = modalities, [number % 3 for number in rows]
        self.names = [f"sample{number}" for number in rows]
        level = torch.tensor(self.targets, dtype=torch.float32).view(-1, 1, 1, 1)
        self.inputs = {name: torch.randn(len(rows), 1, 32, 32, generator=draws) for name in self.modalities}
        self.inputs["audio"] = 2 * level + 0.1 * self.inputs["audio"]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return {name: self.inputs[name][i] for name in self.modality_names}, self.targets[i], i

    @classmethod
    def add_args(cls, group):
        pass

    @classmethod
    def split_files(cls, args):
        return []

    @classmethod
    def encoders(cls, args):
        return dict.fromkeys(cls.modalities, partial(NarrowResNet18, channels=1))

    @classmethod
    def class_names(cls, args):
        return ("low", "middle", "high")

    @classmethod
    def read_splits(cls, args):
        return range(36), range(36, 54)
