"""The multimodal classifier: encode -> fuse, with a unimodal read-out, for any number of named modalities."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from models.encoders import initialise
from models.fusion import FUSIONS
from models.mmtm import Exchange
from models.parts import encode_in_parts
from utils.distributed.gather import has_dropout, own_draws, whole


@dataclass
class Output:
    """logits (B, C); unimodal {modality: (B, C)}; features {modality: (B, dim)}; target (B,)."""

    logits: Tensor
    unimodal: dict[str, Tensor]
    features: dict[str, Tensor]
    target: Tensor

    def right(self) -> dict[str, Tensor]:
        """How many of the samples are classified right: `accuracy` by the fused logits, and by each modality's own."""
        heads = {"accuracy": self.logits} | self.unimodal
        return {name: (logits.argmax(dim=1) == self.target).sum() for name, logits in heads.items()}


class Encoders(nn.Module):
    """One encoder per modality, some of them frozen maybe: what every model begins with."""

    def __init__(self, encoders: Mapping[str, nn.Module]):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.dims = {name: encoder.dim for name, encoder in encoders.items()}
        self.exchange: Exchange | None = None
        self.frozen: tuple[str, ...] = ()
        self.started_from: dict[str, str] = {}  # {modality: sha256 of the file that its first weights are from}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in the order of the encoders."""
        return tuple(self.encoders)

    def freeze(self, names: Iterable[str]) -> None:
        """Keep these encoders as they are: no gradients, and batch norm and dropout as in evaluation, always."""
        self.frozen = tuple(name for name in self.encoders if name in set(names))
        for name in self.frozen:
            self.encoders[name].requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Encoders":
        """Put everything but the frozen encoders into training mode, or all into evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.encoders[name].eval()
        return self


class MultimodalModel(Encoders):
    """One encoder per modality and a fusion head.

    `heads`, a classifier per modality, exist only when a loss trains them, `exchange` between the encoders only when a
    method wants it.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], fusion: str, classes: int):
        super().__init__(encoders)
        self.fusion = FUSIONS[fusion](self.dims, classes)
        self.classes = classes
        self.dropout = has_dropout(self.encoders)
        self.heads: nn.ModuleDict | None = None
        self.parts = 1  # in which an encoder sees a batch that it learns from

    def add_heads(self) -> None:
        """Give every modality a classifier of its own, which then is its unimodal read-out."""
        self.heads = nn.ModuleDict({name: nn.Linear(dim, self.classes) for name, dim in self.dims.items()})
        self.heads.apply(initialise)

    def add_exchange(self) -> None:
        """Let the encoders gate one another's maps. Raises ValueError where their stages do not allow it."""
        self.exchange = Exchange(self.encoders)

    def encode(self, inputs: Mapping[str, Tensor], names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Features {modality: (B, dim)} of all modalities, or of `names` alone, which the exchange does not allow.

        On several processes `inputs` are a process's share of a batch as the loader gives it, the features those of the
        whole batch; inputs of another kind than the loader's are the same in all processes.
        """
        with own_draws(self.dropout):
            if self.exchange is not None:
                features = self.exchange(self.encoders, inputs)
            else:
                features = {name: self._features(name, inputs[name]) for name in names or self.encoders}
        return whole(features, inputs)

    def _features(self, name: str, x: Tensor) -> Tensor:
        if self.parts == 1 or name in self.frozen:  # without gradients no activations are kept
            return self.encoders[name](x)
        return encode_in_parts(self.encoders[name], x, self.parts, self.dropout)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        return self.fusion(features)

    def unimodal(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The unimodal read-outs {modality: (B, classes)}: of the heads where there are some, else of the fusion."""
        if self.heads is None:
            return self.fusion.unimodal(features)
        return {name: head(features[name]) for name, head in self.heads.items()}


def clip_gradients(parameters: Iterable[nn.Parameter], norm: float | None) -> None:
    """Shorten the gradient of all these together to `norm` where it is longer; the host does not learn whether."""
    if norm is not None:
        nn.utils.clip_grad_norm_(parameters, norm)


def place(model: nn.Module, where: torch.device | Tensor) -> None:
    """Move to a device, or to a tensor's device and type; two-dimensional convolutions lie as they are fastest there.

    On accelerators that is channels_last. On a CPU it gains hardly anything, and makes batch normalisation, which then
    adds up single precision in single precision, ten thousand times less exact (docs/PERFORMANCE.md).
    """
    model.to(where)
    if (where.device if isinstance(where, Tensor) else where).type == "cpu":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def build_encoders(makers: Mapping[str, Callable[[], nn.Module]], seed: int) -> dict[str, nn.Module]:
    """Build with one generator state per part, so that an encoder starts the same whatever stands beside it.

    The CPU's global generator is then where it is for whatever else the model has.
    """
    built = {}
    for name, make in makers.items():
        # The name, not the place, decides: an encoder trained alone starts as it does in the joint model.
        torch.default_generator.manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        built[name] = make()
    torch.default_generator.manual_seed(seed)
    return built


def build_model(
    encoders: Mapping[str, Callable[[], nn.Module]], fusion: str, classes: int, seed: int
) -> MultimodalModel:
    """The multimodal classifier of a seed, with `build_encoders`.

    Raises:
        ValueError: if the fusion is not defined for this number of modalities.
    """
    return MultimodalModel(build_encoders(encoders, seed), fusion, classes)
