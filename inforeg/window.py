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
# The constants of each rule of the window: Fig. 8 and Algorithm 1; the public code's literals; ours.
WINDOWS: dict[str, dict[str, Any]] = {
    "paper": dict(threshold=0.04, smoothing=1, start_epoch=2),
    "official": dict(threshold=0.05, smoothing=10, start_epoch=0),
    "accumulated": dict(threshold=0.1, smoothing=1, start_epoch=1),
}
Metrics = dict[str, dict[str, Any]]  # {name of a metric: {modality: number, truth or None}}


class FisherTrace:
    """Tr(F_m) of each encoder, once per epoch (Eq. 3-7).

    `paper`: the mean over the epoch's steps of ||g_m||^2, where g_m is the gradient, over all parameters of encoder m,
    of the loss that is being trained. `official` (public code): over convolution and linear weights only, the mean over
    a weight's elements of the sum over steps of g^2, summed over the weights.

    Beside it `gradient_norm`, the mean over the steps of the epoch that ended last of ||g_m|| over the same parameters:
    the size of the gradient, which Figure 3 holds against the trace.

    Call `update()` after each backward pass and `end_epoch()` after the last; the sums stay on the device until then.
    `history` has a trace per epoch. With `every`, `periods` has one per that many steps (the last period of an epoch
    may be shorter), and the sums are read once in a period; without, a period is an epoch.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], variant: str = "paper", every: int | None = None) -> None:
        self.variant, self.every = variant, every
        self.history: dict[str, list[float]] = {name: [] for name in encoders}
        self.periods = {name: [] for name in encoders} if every else self.history
        self.gradient_norm: dict[str, float] = {}
        self._parameters = {name: _traced(encoder, variant) for name, encoder in encoders.items()}
        self._sums: dict[str, Tensor] = {}  # of the trace and of the norm, over the period's steps so far
        self._steps = 0  # of the period
        self._ended: list[tuple[int, dict[str, list[float]]]] = []  # steps and sums of the epoch's earlier periods

    def start_step(self) -> None:
        """End the period that is full. Called before the forward pass, the whole step sees the same windows."""
        if self.every and self._steps == self.every:
            self._end_period()

    @torch.no_grad()
    def update(self) -> None:
        """Add the gradients that the encoders hold now. A frozen encoder (no gradients) acquires nothing."""
        self.start_step()
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
        """{modality: the period's sum of traces so far}, on the device; of encoders that had gradients."""
        return {name: sums[0] for name, sums in self._sums.items()}

    @property
    def first_period(self) -> int:
        """The number of the period with which this epoch began."""
        return len(next(iter(self.periods.values()))) - len(self._ended)

    def _end_period(self) -> None:
        sums = {name: self._sums[name].tolist() if name in self._sums else [0.0, 0.0] for name in self.history}
        if self.every:
            for name, (trace, _) in sums.items():
                self.periods[name].append(trace / self._steps)
        self._ended.append((self._steps, sums))
        self._sums, self._steps = {}, 0

    def end_epoch(self) -> dict[str, float]:
        """Append the epoch's traces to `history` and return them.

        Raises:
            ValueError: if there was no step since the last epoch's end.
        """
        if not self._steps:
            raise ValueError("end_epoch() without a step: call update() after each backward pass")
        self._end_period()
        count = sum(steps for steps, _ in self._ended)
        steps = count if self.variant == "paper" else 1
        traces = {name: sum(sums[name][0] for _, sums in self._ended) / steps for name in self.history}
        self.gradient_norm = {name: sum(sums[name][1] for _, sums in self._ended) / count for name in self.history}
        for name, trace in traces.items():
            self.history[name].append(trace)
        self._ended = []
        return traces

    def state_dict(self) -> dict[str, Any]:
        """The traces so far and this epoch's sums, after any step."""
        state: dict[str, Any] = {"sums": dict(self._sums), "steps": self._steps, "ended": list(self._ended)}
        kinds = {"history": self.history} | ({"periods": self.periods} if self.every else {})
        return state | {kind: {name: list(values) for name, values in kept.items()} for kind, kept in kinds.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, of which all but `history` may be missing: an epoch then begins."""
        # In place: a PrimeWindow reads these very lists.
        for kind, kept in (("history", self.history), ("periods", self.periods)):
            for name, traces in state.get(kind, {}).items():
                kept[name][:] = traces
        sums = state.get("sums", {})
        self._sums = {name: sums[name].to(self._parameters[name][0].device) for name in sums}
        self._steps, self._ended = state.get("steps", 0), list(state.get("ended", []))


def _traced(encoder: nn.Module, variant: str) -> list[Tensor]:
    """The parameters whose gradients the variant's trace is made of."""
    if variant == "paper":
        return list(encoder.parameters())
    return [
        layer.weight for layer in encoder.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    ]


class PrimeWindow:
    """The epochs in which an encoder's information still grows, decided before each epoch from the traces before it.

    The window of m is open in epoch t when the change that the rule measures exceeds `threshold`, the paper's K, and t
    is not before `start_epoch`. Write Tr^s for the trace of m in epoch s. The rules:

    `paper` (Eq. 11): (Tr^{t-1} - Tr^{t-2}) / Tr^{t-1}; with `smoothing` w, each of the two is the mean of the last w
    traces up to that epoch. It is open while the trace grows from epoch to epoch.

    `official` (public code): the same change, but the first encoder's trace decides for all, the list of traces starts
    with `smoothing` zeros, and the change is 1 in epoch 0. Over the first ten epochs this is `accumulated` with the
    first encoder's trace; then the zeros have left the mean, and it is Eq. 11 smoothed over ten epochs.

    `accumulated` (ours, not the paper's): Tr^{t-1} / (Tr^0 + ... + Tr^{t-1}), what the last epoch added over all that
    has been acquired. With a constant trace it closes after 1/K epochs, with a falling one sooner, with a rising one
    later. It has no smoothing, and no window in epoch 0, before which there is no trace.

    What is left as None takes the rule's value (WINDOWS). history: {modality: traces so far}, read live; pass
    `FisherTrace.history`.

    Raises:
        ValueError: for an unknown rule, or smoothing of the accumulated one.
    """

    def __init__(
        self,
        history: Mapping[str, list[float]],
        threshold: float | None = None,
        smoothing: int | None = None,
        start_epoch: int | None = None,
        rule: str = "paper",
    ) -> None:
        if rule not in WINDOWS:
            raise ValueError(f"{rule!r} is not one of {', '.join(WINDOWS)}")
        if rule == "accumulated" and smoothing not in (None, 1):
            raise ValueError("the accumulated window has no smoothing: it is a sum over all epochs already")
        given = {"threshold": threshold, "smoothing": smoothing, "start_epoch": start_epoch}
        constants = WINDOWS[rule] | {name: value for name, value in given.items() if value is not None}
        self.history, self.rule = history, rule
        self.threshold: float = constants["threshold"]
        self.smoothing, self.start_epoch = int(constants["smoothing"]), int(constants["start_epoch"])

    @property
    def epoch(self) -> int:
        """The number of the epoch, or of the period, that comes next (0 before the first)."""
        return len(next(iter(self.history.values())))

    def change(self, modality: str, epoch: int | None = None) -> float | None:
        """The change that decides for `modality` in `epoch`, by default the coming one; None while too few are known.

        A trace that is zero now gives 0: an encoder without gradients acquires nothing.
        """
        epoch = self.epoch if epoch is None else epoch
        own, first = self.history[modality][:epoch], next(iter(self.history.values()))[:epoch]
        if self.rule == "accumulated":
            return _share_of_sum(own)
        if self.rule == "official" and epoch == 0:
            return 1.0
        traces = [0.0] * (self.smoothing + 1) + first if self.rule == "official" else own
        if len(traces) < 2:
            return None
        newest = _mean(traces[-self.smoothing :])
        before = _mean(traces[:-1][-self.smoothing :])
        # Finite also where a trace falls from the largest numbers to the smallest.
        return max((newest - before) / newest, -sys.float_info.max) if newest > 0 else 0.0

    def is_open(self, modality: str, epoch: int | None = None) -> bool:
        """Whether `epoch`, by default the coming one, is one of the prime window of `modality`."""
        change = self.change(modality, epoch)
        begun = (self.epoch if epoch is None else epoch) >= self.start_epoch
        return begun and change is not None and change > self.threshold

    def record(self, since: int | None = None) -> Metrics:
        """{"relative_change": {modality: ...}, "prime_window": {modality: ...}} of the epoch that comes next.

        With `since`, of the periods from that one to the coming one: the last one's change, and the share of them in
        which the window was open.
        """
        periods = range(self.epoch if since is None else since, self.epoch + 1)
        opened = {name: [self.is_open(name, period) for period in periods] for name in self.history}
        return {
            "relative_change": {name: self.change(name) for name in self.history},
            "prime_window": {
                name: values[0] if len(values) == 1 else sum(values) / len(values) for name, values in opened.items()
            },
        }

    def admits(self, modality: str, during: str) -> bool:
        """Whether a modulation of `modality` acts in the coming epoch: `prime`, `outside` or `all` (Table 4)."""
        is_open = self.is_open(modality)
        return {"all": True, "prime": is_open, "outside": not is_open}[during]


def _share_of_sum(traces: list[float]) -> float | None:
    """The last trace over the sum of all; None without any, 0 if the last one is zero."""
    if not traces:
        return None
    largest = max(traces)  # divided by it, no sum of finite traces overflows
    return traces[-1] / largest / sum(trace / largest for trace in traces) if traces[-1] > 0 else 0.0


def _mean(values: list[float]) -> float:
    return sum(value / len(values) for value in values)
