"""Small models and data in float64, so that the mathematics can be compared to many digits and in milliseconds."""

import torch
import torch.nn as nn

from dataset.base import MultimodalDataset
from models.encoders import Staged

CLASSES = 3


class TinyEncoder(Staged):
    """Convolution, batch norm and a linear layer: one layer of each kind that a trace or a regulation treats apart."""

    widths = (4, 4)

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.conv = nn.Conv2d(1, 4, kernel_size=3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, dim)

    @property
    def stages(self):
        return self.conv, nn.Sequential(self.norm, nn.ReLU())

    def pool(self, maps, batch):
        return self.linear(maps.mean(dim=(2, 3)))


class TinyData(MultimodalDataset):
    """Random images whose mean carries the class, so that a few steps change the accuracies."""

    def __init__(self, modalities=("audio", "visual"), count=10, seed=0):
        draws = torch.Generator().manual_seed(seed)
        self.targets = [i % CLASSES for i in range(count)]
        self.images = {
            name: torch.randn(count, 1, 5, 5, generator=draws, dtype=torch.float64)
            + torch.tensor(self.targets).view(-1, 1, 1, 1)
            for name in modalities
        }

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return {name: images[i] for name, images in self.images.items()}, self.targets[i], i
