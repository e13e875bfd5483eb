"""Fusion heads: from the features of all modalities to class logits, each with its own unimodal read-out.

A fusion is called with {modality: (B, dim)} and returns (B, classes). Its `unimodal` returns {modality: (B, classes)}:
what the head says of each modality by itself. Concat and sum are additive, so they split exactly, and shared and
boosted are their means; film and gated are not, so a modality is read with the other's features set to zero (paper,
Table 5).
"""

from collections.abc import Mapping

import torch
import torch.nn as nn
from torch import Tensor

from models.encoders import initialise


class Concat(nn.Module):
    """z = W [f^1; ...; f^M] + b, one linear layer over the concatenated features."""

    def __init__(self, dims: Mapping[str, int], classes: int):
        super().__init__()
        self.modalities, self.dims = tuple(dims), tuple(dims.values())
        self.head = nn.Linear(sum(self.dims), classes)
        self.apply(initialise)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        return self.head(torch.cat([features[name] for name in self.modalities], dim=1))

    def unimodal(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z^m = W_[:,m] f^m + b / M, so that the unimodal logits sum to the fused ones."""
        blocks = self.head.weight.split(self.dims, dim=1)
        bias = self.head.bias / len(self.dims)
        return {name: features[name] @ block.T + bias for name, block in zip(self.modalities, blocks, strict=True)}


class Sum(nn.Module):
    """z = sum_m (W_m f^m + b_m), one linear layer per modality."""

    def __init__(self, dims: Mapping[str, int], classes: int):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(dim, classes) for name, dim in dims.items()})
        self.apply(initialise)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        return torch.stack(list(self.unimodal(features).values())).sum(dim=0)

    def unimodal(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z^m = W_m f^m + b_m, {modality: (B, classes)}."""
        return {name: head(features[name]) for name, head in self.heads.items()}


class Shared(nn.Module):
    """z = mean_m (W f^m + b), one linear layer that all modalities share (MLA, CVPR 2024), of features of one width."""

    def __init__(self, dims: Mapping[str, int], classes: int):
        super().__init__()
        if len(set(dims.values())) > 1:
            widths = ", ".join(f"{name} {dim}" for name, dim in dims.items())
            raise ValueError(
                f"--fusion shared is one layer for features of one width, not {widths}: choose encoders of one width"
            )
        self.modalities = tuple(dims)
        self.head = nn.Linear(next(iter(dims.values())), classes)
        self.apply(initialise)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        return torch.stack(list(self.unimodal(features).values())).mean(dim=0)

    def unimodal(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z^m = W f^m + b, {modality: (B, classes)}."""
        return {name: self.head(features[name]) for name in self.modalities}


class Boosted(nn.Module):
    """z = mean_m sum_j (W relu(V_mj f^m + c_mj) + b), by one W and b for all (AUG, NeurIPS 2025).

    A modality has one classifier V_m1, c_m1 to begin with; AUG adds more. How many are in use is part of the weights.
    """

    hidden = 256  # numbers that a classifier makes of a feature; public code

    def __init__(self, dims: Mapping[str, int], classes: int):
        super().__init__()
        self.modalities, self.dims = tuple(dims), dict(dims)
        self.layers = nn.ModuleDict({name: nn.ModuleList([nn.Linear(dim, self.hidden)]) for name, dim in dims.items()})
        self.head = nn.Linear(self.hidden, classes)
        self.apply(initialise)
        self.used = [1] * len(dims)  # by modality, for the host, as the buffer has it
        self.register_buffer("count", torch.tensor(self.used))

    def reserve(self, most: int, trained: bool = True) -> None:
        """Make classifiers that may come into use, up to `most` of each modality; those not `trained` stay as made."""
        for name, layers in self.layers.items():
            for _ in range(most - len(layers)):
                layers.append(nn.Linear(self.dims[name], self.hidden).apply(initialise).requires_grad_(trained))

    def use_another(self, modality: int) -> None:
        """Take one more classifier of the modality with this number into use."""
        self.used[modality] += 1
        self.count.copy_(torch.tensor(self.used))

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self.used = self.count.tolist()

    def classify(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits {modality: (n, B, classes)} of each of the n classifiers in use."""
        return {
            name: self.head(torch.stack([layer(features[name]).relu() for layer in self.layers[name][:n]]))
            for name, n in zip(self.modalities, self.used, strict=True)
        }

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        return torch.stack(list(self.unimodal(features).values())).mean(dim=0)

    def unimodal(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z^m, the sum over the modality's classifiers, {modality: (B, classes)}."""
        return {name: logits.sum(dim=0) for name, logits in self.classify(features).items()}


class TwoModalityFusion(nn.Module):
    """Base of the fusions in which one modality acts on the other: the first one named acts on the second."""

    name: str

    def __init__(self, dims: Mapping[str, int]):
        super().__init__()
        if len(dims) != 2:
            raise ValueError(
                f"--fusion {self.name} is defined for two modalities, not for {len(dims)} ({', '.join(dims)}): "
                "use concat or sum"
            )
        self.first, self.second = dims

    def unimodal(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits of each modality with the other's features set to zero."""
        first, second = features[self.first], features[self.second]
        return {
            self.first: self({self.first: first, self.second: torch.zeros_like(second)}),
            self.second: self({self.first: torch.zeros_like(first), self.second: second}),
        }


class FiLM(TwoModalityFusion):
    """z = W_o (g * f^2 + h) + b_o with [g; h] = A f^1 + c (Perez et al., AAAI 2018); two modalities only."""

    name = "film"

    def __init__(self, dims: Mapping[str, int], classes: int):
        super().__init__(dims)
        self.film = nn.Linear(dims[self.first], 2 * dims[self.second])
        self.head = nn.Linear(dims[self.second], classes)
        self.apply(initialise)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        scale, shift = self.film(features[self.first]).chunk(2, dim=1)
        return self.head(scale * features[self.second] + shift)


class Gated(TwoModalityFusion):
    """z = W_o (sigmoid(G_1 f^1 + c_1) * (G_2 f^2 + c_2)) + b_o (Kiela et al., AAAI 2018); two modalities only."""

    name = "gated"

    def __init__(self, dims: Mapping[str, int], classes: int):
        super().__init__(dims)
        self.gate = nn.Linear(dims[self.first], dims[self.second])
        self.value = nn.Linear(dims[self.second], dims[self.second])
        self.head = nn.Linear(dims[self.second], classes)
        self.apply(initialise)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        return self.head(torch.sigmoid(self.gate(features[self.first])) * self.value(features[self.second]))


FUSIONS = {
    "concat": Concat,
    "sum": Sum,
    "film": FiLM,
    "gated": Gated,
    "shared": Shared,
    "boosted": Boosted,
}
