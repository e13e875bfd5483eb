"""Encoders: from one modality's input to a feature vector. Each has `dim`, the length of its feature."""

from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor


class Staged(nn.Module):
    """An encoder made of stages, between which something may act on the maps (models/mmtm.py).

    `stages` run one after the other, `widths` are the channels after each. `fold` makes the first one's input of a
    batch, (B or B * T, channels, ...), and `pool` features (B, dim) of the last one's maps.
    """

    stages: Sequence[nn.Module] | nn.Sequential
    widths: tuple[int, ...]
    dim: int

    def fold(self, x: Tensor) -> Tensor:
        """The first stage's input (B or B * T, channels, ...) from a batch (B, ...)."""
        return x

    def pool(self, maps: Tensor, batch: int) -> Tensor:
        """Features (B, dim) from the last stage's maps (B or B * T, dim, ...): their mean over time and space."""
        return maps.flatten(2).mean(dim=2).unflatten(0, (batch, -1)).mean(dim=1)

    def maps(self, x: Tensor) -> Tensor:
        """The last stage's maps (B or B * T, dim, ...) of a batch (B, ...)."""
        maps = self.fold(x)
        for stage in self.stages:
            maps = stage(maps)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, dim) of a batch (B, ...)."""
        return self.pool(self.maps(x), len(x))

    def keep_size(self) -> "Staged":
        """Let the last stage leave its maps as large as it gets them, for who looks where in a picture things are.

        Its convolutions of pictures move by one pixel, with the weights that they have; returns the encoder.
        """
        for module in self.stages[-1].modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
        return self


class ResNet(Staged):
    """A ResNet of torchvision from scratch, with the given number of input channels and without its classifier.

    (B, channels, H, W) -> (B, dim). Frames (B, T, channels, H, W) are folded into the batch and their features averaged
    over time and space. `block` names torchvision's class of blocks, `depths` how many of them a stage has.
    """

    block: str
    depths: tuple[int, ...]

    def __init__(self, channels: int):
        from torchvision.models import resnet  # here, since it takes seconds to load

        super().__init__()
        parts = dict(resnet.ResNet(getattr(resnet, self.block), list(self.depths)).named_children())
        parts["conv1"] = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, parts[name])
        self.apply(initialise)

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The four groups of blocks, the first with the stem before it."""
        stem = nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool, self.layer1)
        return stem, self.layer2, self.layer3, self.layer4

    def fold(self, x: Tensor) -> Tensor:
        """Frames (B, T, channels, H, W) as pictures (B * T, channels, H, W); pictures as they are."""
        return x.flatten(0, 1) if x.ndim == 5 else x


class ResNet18(ResNet):
    """ResNet-18, the encoder of most of the papers (He et al., CVPR 2016, Table 1): 512 features."""

    block, depths = "BasicBlock", (2, 2, 2, 2)
    dim, widths = 512, (64, 128, 256, 512)


class ResNet34(ResNet):
    """ResNet-34 (He et al., CVPR 2016, Table 1): 512 features, twice the multiplications of ResNet-18."""

    block, depths = "BasicBlock", (3, 4, 6, 3)
    dim, widths = 512, (64, 128, 256, 512)


class ResNet50(ResNet):
    """ResNet-50 as torchvision has it, with its stride in the 3 x 3 convolutions: 2048 features."""

    block, depths = "Bottleneck", (3, 4, 6, 3)
    dim, widths = 2048, (256, 512, 1024, 2048)


RESNETS = {"resnet18": ResNet18, "resnet34": ResNet34, "resnet50": ResNet50}


class ConvNet(Staged):
    """A small network for CPUs: four 3 x 3 convolutions (3 x 3 x 3 for frames), each with batch norm and ReLU.

    (B, channels, H, W) -> (B, 128), the mean over space; the first convolution keeps the size, the others halve it.
    Frames (B, T, channels, H, W) need `frames`: time is convolved, too, and halved by the last three; the first halves
    the pictures. Some 17 million multiplications a clip of 16 frames of 32 x 32, where ResNet-18 takes 600 million.
    """

    dim = 128
    widths = (16, 32, 64, 128)

    def __init__(self, channels: int, frames: bool = False):
        super().__init__()
        convolution, norm = (nn.Conv3d, nn.BatchNorm3d) if frames else (nn.Conv2d, nn.BatchNorm2d)
        strides = ((1, 2, 2) if frames else 1, 2, 2, 2)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(convolution(before, width, 3, stride, padding=1, bias=False), norm(width), nn.ReLU())
                for before, width, stride in zip((channels, *self.widths), self.widths, strides, strict=False)
            )
        )
        self.apply(initialise)

    def fold(self, x: Tensor) -> Tensor:
        """Frames (B, T, channels, H, W) as (B, channels, T, H, W), for convolutions over time."""
        return x.transpose(1, 2) if x.ndim == 5 else x


class Transformer(nn.Module):
    """MultiBench's transformer over a series of features, for what is no picture: (B, T, channels) -> (B, dim).

    Each step is projected (a convolution of one step, no bias) and passes `layers` of PyTorch's encoder layers, as
    PyTorch sets them up: feed-forward layers of 2048, ReLU, dropout 0.1. The feature is what stands at the last step.
    As in MultiBench there is no code of the positions, so the order of the steps before the last has no influence, and
    no mask, so padding takes part in the attention.

    Raises:
        ValueError: if `heads` does not divide `dim`.
    """

    def __init__(self, channels: int, dim: int, layers: int = 5, heads: int = 5):
        super().__init__()
        if dim % heads:
            raise ValueError(f"a transformer of {heads} heads needs a width that they divide, not {dim}")
        self.dim = dim
        self.project = nn.Conv1d(channels, dim, kernel_size=1, bias=False)
        layer = nn.TransformerEncoderLayer(dim, heads, batch_first=True)
        self.transform = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, dim) of a series (B, T, channels)."""
        steps = self.project(x.transpose(1, 2)).transpose(1, 2)
        return self.transform(steps)[:, -1]


class MLP(Staged):
    """Hidden layers for precomputed features, each linear without bias, with batch norm and ReLU.

    (B, features) -> (B, dim); a series (B, T, features) is read as its mean over time.
    """

    def __init__(self, features: int, dim: int, layers: int):
        super().__init__()
        self.dim, self.widths = dim, (dim,) * layers
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU())
                for before in (features, *self.widths[1:])
            )
        )
        self.apply(initialise)

    def fold(self, x: Tensor) -> Tensor:
        """A vector (B, features) for every sample."""
        return x.mean(dim=1) if x.ndim == 3 else x

    def pool(self, maps: Tensor, batch: int) -> Tensor:
        """The last layer's values (B, dim), as they are."""
        return maps


class Projection(nn.Module):
    """One linear layer: (B, features) -> (B, dim); a series (B, T, features) is read as its mean over time."""

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.dim = dim
        self.layer = nn.Linear(features, dim)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, dim) of a batch (B, features) or (B, T, features)."""
        return self.layer(x.mean(dim=1) if x.ndim == 3 else x)


class WordAverage(nn.Module):
    """The mean of a text's word embeddings and two linear layers with ReLU (Iyyer et al., ACL 2015), from scratch.

    (B, length) word numbers, padded with 0 -> (B, 128). Padding does not count: a feature does not depend on how far
    its text is padded, and a text without words has the mean zero, as have the zero inputs by which AGM hides a
    modality. The order of the words is not seen, which some thousand short texts hardly teach.
    """

    dim = 128

    def __init__(self, words: int):
        super().__init__()
        self.embedding = nn.Embedding(words, self.dim, padding_idx=0)
        self.layers = nn.Sequential(nn.Linear(self.dim, self.dim), nn.ReLU(), nn.Linear(self.dim, self.dim), nn.ReLU())
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, dim) of word numbers (B, length), where 0 is padding."""
        count = (x != 0).sum(dim=1, keepdim=True).clamp(min=1)
        return self.layers(self.embedding(x).sum(dim=1) / count)  # the embedding of 0 is zero, and stays it


def initialise(module: nn.Module) -> None:
    """Initialisation of the paper's public code: convolutions kaiming-normal (fan-out), linear layers xavier-normal."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.ones_(module.weight)
    for name, parameter in module.named_parameters(recurse=False):
        if name == "bias":
            nn.init.zeros_(parameter)
