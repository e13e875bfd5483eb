"""Information acquisition: each encoder's Fisher trace per epoch, and the prime learning window that follows from it.

Both serve every method of this repository, and any training loop: they need an encoder's gradients and nothing else.
Equation numbers are those of the InfoReg paper (CVPR 2025).
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

VARIANTS = ("paper", "official")
DURING = ("prime", "all", "outside")
Metrics = dict[str, dict[str, Any]]  # {name of a metric: {modality: number, truth or None}}


class FisherTrace:
    """Tr(F_m) of each encoder, once per epoch (Eq. 3-7).

    `paper`: the mean over the epoch's steps of ||g_m||^2, where g_m is the gradient, over all parameters of encoder m,
    of the loss that is being trained. `official` (public code): over convolution and linear weights only, the mean over
    a weight's elements of the sum over steps of g^2, summed over the weights.

    Beside it `gradient_norm`, the mean over the steps of the epoch that ended last of ||g_m|| over the same parameters:
    the size of the gradient, which Figure 3 holds against the trace.

    Call `update()` after each backward pass and `end_epoch()` after the last; the sums stay on the device until then.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], variant: str = "paper") -> None:
        self.variant = variant
        self.history: dict[str, list[float]] = {name: [] for name in encoders}
        self.gradient_norm: dict[str, float] = {}
        self._parameters = {name: _traced(encoder, variant) for name, encoder in encoders.items()}
        self._sums: dict[str, Tensor] = {}  # of the trace and of the norm
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Add the gradients that the encoders hold now. A frozen encoder (no gradients) acquires nothing."""
        for name, parameters in self._parameters.items():
            grads = [p.grad for p in parameters if p.grad is not None]
            if grads:
                norms = torch._foreach_norm(grads)
                size = root = torch.stack(norms).norm()
                if self.variant == "official":
                    root = torch.stack(torch._foreach_div(norms, [g.numel() ** 0.5 for g in grads])).norm()
                self._sums[name] = self._sums.get(name, 0) + torch.stack([root.square(), size])
        self._steps += 1

    @property
    def sums(self) -> dict[str, Tensor]:
        """{modality: the epoch's sum of traces so far}, on the device; of encoders that had gradients."""
        return {name: sums[0] for name, sums in self._sums.items()}

    def end_epoch(self) -> dict[str, float]:
        """Append the epoch's traces to `history` and return them.

        Raises:
            ValueError: if there was no step since the last epoch's end.
        """
        if not self._steps:
            raise ValueError("end_epoch() without a step: call update() after each backward pass")
        sums = {name: self._sums[name].tolist() if name in self._sums else (0.0, 0.0) for name in self.history}
        steps = self._steps if self.variant == "paper" else 1
        traces = {name: trace / steps for name, (trace, _) in sums.items()}
        self.gradient_norm = {name: size / self._steps for name, (_, size) in sums.items()}
        for name, trace in traces.items():
            self.history[name].append(trace)
        self._sums, self._steps = {}, 0
        return traces

    def state_dict(self) -> dict[str, Any]:
        """The traces so far and this epoch's sums, after any step."""
        history = {name: list(traces) for name, traces in self.history.items()}
        return {"history": history, "sums": dict(self._sums), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, from which `sums` and `steps` may be missing: an epoch then begins."""
        # In place: a PrimeWindow reads these very lists.
        for name, traces in state["history"].items():
            self.history[name][:] = traces
        sums = state.get("sums", {})
        self._sums = {name: sums[name].to(self._parameters[name][0].device) for name in sums}
        self._steps = state.get("steps", 0)


def _traced(encoder: nn.Module, variant: str) -> list[Tensor]:
    """The parameters whose gradients the variant's trace is made of."""
    if variant == "paper":
        return list(encoder.parameters())
    return [
        layer.weight for layer in encoder.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    ]


class PrimeWindow:
    """The epochs in which an encoder's information still grows (Eq. 11), decided before each epoch from earlier traces.

    In epoch t the window of m is open when (Tr^{t-1} - Tr^{t-2}) / Tr^{t-1} > threshold, the paper's K. With
    `smoothing` w, each of the two is the mean of the last w traces up to that epoch. Before `start_epoch` every window
    is closed.

    `official` (public code): the first encoder's trace decides for all; the list of traces starts with `smoothing`
    zeros, which keeps the window of a constant trace open for that many epochs; the change is 1 in epoch 0.

    history: {modality: traces so far}, read live; pass `FisherTrace.history`.
    """

    def __init__(
        self,
        history: Mapping[str, list[float]],
        threshold: float = 0.04,
        smoothing: int = 1,
        start_epoch: int = 2,
        variant: str = "paper",
    ) -> None:
        self.history, self.threshold, self.smoothing = history, threshold, smoothing
        self.start_epoch, self.variant = start_epoch, variant

    @property
    def epoch(self) -> int:
        """The number of the epoch that comes next (0 before the first)."""
        return len(next(iter(self.history.values())))

    def change(self, modality: str) -> float | None:
        """Relative change of the trace that decides for `modality`; None while there are too few epochs.

        A trace that is zero now gives 0: an encoder without gradients acquires nothing.
        """
        if self.variant == "official":
            if self.epoch == 0:
                return 1.0
            traces = [0.0] * (self.smoothing + 1) + next(iter(self.history.values()))
        else:
            traces = self.history[modality]
        if len(traces) < 2:
            return None
        newest = _mean(traces[-self.smoothing :])
        before = _mean(traces[:-1][-self.smoothing :])
        # Finite also where a trace falls from the largest numbers to the smallest.
        return max((newest - before) / newest, -sys.float_info.max) if newest > 0 else 0.0

    def is_open(self, modality: str) -> bool:
        """Whether the coming epoch is one of the prime window of `modality`."""
        change = self.change(modality)
        return self.epoch >= self.start_epoch and change is not None and change > self.threshold

    def record(self) -> Metrics:
        """{"relative_change": {modality: ...}, "prime_window": {modality: ...}} of the epoch that comes next."""
        return {
            "relative_change": {name: self.change(name) for name in self.history},
            "prime_window": {name: self.is_open(name) for name in self.history},
        }

    def admits(self, modality: str, during: str) -> bool:
        """Whether a modulation of `modality` acts in the coming epoch: `prime`, `outside` or `all` (Table 4)."""
        return {"all": True, "prime": self.is_open(modality), "outside": not self.is_open(modality)}[during]


def _mean(values: list[float]) -> float:
    return sum(value / len(values) for value in values)
