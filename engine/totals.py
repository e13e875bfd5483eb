"""Sums over an epoch's samples: losses and accuracies."""

import math
import time

import torch
from torch import Tensor

from models.multimodal import Output
from utils.errors import RunError


class Totals:
    """Sums over an epoch's samples that stay on the device; the bar glances at them without waiting for it."""

    def __init__(self, every: float = 0.5):
        self.every, self.next_glance = every, time.monotonic() + every
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.samples = 0
        self.buffer: Tensor | None = None

    @torch.no_grad()
    def add(self, losses: dict[str, Tensor], output: Output) -> None:
        """Add a step's losses (scalars, means over its samples) and its numbers of right predictions."""
        count = len(output.target)
        values = {name: loss * count for name, loss in losses.items()} | output.right()
        self.names = list(values)
        stacked = torch.stack([value.float() for value in values.values()])
        self.sums = stacked if self.sums is None else self.sums + stacked
        self.samples += count

    def due(self) -> bool:
        """Whether the bar wants new numbers (at most twice a second)."""
        now = time.monotonic()
        if now < self.next_glance:
            return False
        self.next_glance = now + self.every
        return True

    def glance(self) -> dict[str, float]:
        """The means so far, for the bar; {} if there are none yet.

        On CUDA the copy runs behind the steps, so they are those of the glance before.
        """
        if self.buffer is None:
            pin = self.sums.device.type == "cuda"
            self.buffer = torch.full((len(self.names) + 1,), math.nan, pin_memory=pin)
        shown = self._means(self.buffer) if self.sums.device.type == "cuda" else None
        self.buffer[:-1].copy_(self.sums, non_blocking=True)
        self.buffer[-1] = self.samples
        shown = shown or self._means(self.buffer)
        return {name: value for name, value in shown.items() if math.isfinite(value)}

    def state_dict(self) -> dict:
        """The sums so far, on the CPU."""
        return {"names": self.names, "sums": self.sums.cpu(), "samples": self.samples}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Go on from sums that were saved; `device` is where the next ones are added."""
        self.names, self.sums, self.samples = state["names"], state["sums"].to(device), state["samples"]

    def read(self) -> dict[str, float]:
        """The means over the samples; waits for the device.

        Raises:
            RunError: if no sample was added.
        """
        if self.sums is None:
            raise RunError("the training split gives no batch: it is empty")
        return self._means(torch.cat([self.sums.cpu(), torch.tensor([float(self.samples)])]))

    def _means(self, sums: Tensor) -> dict[str, float]:
        *values, samples = sums.tolist()
        return {name: value / samples for name, value in zip(self.names, values, strict=True)}
