"""Multimodal transfer modules: encoders that gate one another's maps (MMTM, Joze et al., CVPR 2020)."""

from collections.abc import Mapping

import torch
import torch.nn as nn
from torch import Tensor

from models.encoders import Staged, initialise
from utils.distributed.gather import batch_mean

REMEDY = "choose another --method or, with --dataset features, --encoder mlp --layers 2"


class MMTM(nn.Module):
    """One unit. With s_m the mean of modality m's map over space and time, for every modality a gate of its channels:

        h = relu(W [s_1; ...; s_M] + b)           of half as many values as there are channels in all
        gate_m = sigmoid(E_m h + c_m)             map_m <- gate_m map_m

    `average` holds the mean of all gates of training so far, of which each batch is one.
    """

    def __init__(self, widths: Mapping[str, int]):
        super().__init__()
        total = sum(widths.values())
        self.squeeze = nn.Linear(total, total // 2)
        self.excite = nn.ModuleDict({name: nn.Linear(total // 2, width) for name, width in widths.items()})
        self.apply(initialise)
        for name, width in widths.items():
            self.register_buffer(f"average_{name}", torch.zeros(width))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, maps: Mapping[str, Tensor], batch: int, curated: Tensor | None) -> dict[str, Tensor]:
        """Gated maps. `curated` (M,) is true for a modality whose gate is the average, one constant for all samples."""
        squeezed = [
            x.reshape(*x.shape[:2], -1).mean(dim=2).unflatten(0, (batch, -1)).mean(dim=1) for x in maps.values()
        ]
        hidden = self.squeeze(torch.cat(squeezed, dim=1)).relu()
        gates = {name: torch.sigmoid(excite(hidden)) for name, excite in self.excite.items()}
        if self.training:
            self._update(gates)
        if curated is not None:
            averages = {name: self.get_buffer(f"average_{name}").to(gate.dtype) for name, gate in gates.items()}
            pairs = zip(gates.items(), curated, strict=True)
            gates = {name: torch.where(constant, averages[name], gate) for (name, gate), constant in pairs}
        return {name: x * _over(gates[name], x) for name, x in maps.items()}

    @torch.no_grad()
    def _update(self, gates: Mapping[str, Tensor]) -> None:
        self.batches += 1
        for name, gate in gates.items():
            average = self.get_buffer(f"average_{name}")
            average += (batch_mean(gate) - average) / self.batches


def _over(gate: Tensor, maps: Tensor) -> Tensor:
    """(B, C) as a factor on maps (B or B * T, C, ...)."""
    gate = gate.repeat_interleave(len(maps) // len(gate), dim=0)
    return gate.view(*gate.shape, *(1,) * (maps.ndim - 2))


class Exchange(nn.Module):
    """An MMTM after every stage of the encoders but the first.

    Raises:
        ValueError: unless there are several encoders, all in stages and equally many.
    """

    def __init__(self, encoders: Mapping[str, nn.Module]):
        super().__init__()
        whole = [name for name, encoder in encoders.items() if not isinstance(encoder, Staged)]
        if whole:
            raise ValueError(
                f"MMTM units stand between the stages of encoders; that of {', '.join(whole)} has none: {REMEDY}"
            )
        stages = {name: len(encoder.widths) for name, encoder in encoders.items()}
        if len(encoders) < 2 or len({*stages.values()}) > 1 or 1 in stages.values():
            told = ", ".join(f"{count} of {name}" for name, count in stages.items())
            raise ValueError(
                f"MMTM units need several encoders of equally many stages, two or more, and these have {told}: {REMEDY}"
            )
        widths = zip(*(encoder.widths[1:] for encoder in encoders.values()), strict=True)
        self.units = nn.ModuleList(MMTM(dict(zip(encoders, stage, strict=True))) for stage in widths)
        self.curated: Tensor | None = None  # (M,) bool: the modalities that get the average gates, in training

    def forward(self, encoders: Mapping[str, Staged], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features {modality: (B, dim)}."""
        batch = len(next(iter(inputs.values())))
        stages = {name: iter(encoder.stages) for name, encoder in encoders.items()}
        maps = {name: next(stages[name])(encoder.fold(inputs[name])) for name, encoder in encoders.items()}
        for unit in self.units:
            maps = {name: next(stages[name])(x) for name, x in maps.items()}
            maps = unit(maps, batch, self.curated if self.training else None)
        return {name: encoder.pool(maps[name], batch) for name, encoder in encoders.items()}
