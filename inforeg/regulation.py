"""InfoReg: Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition (CVPR 2025).

Inside its prime learning window (window.py), the encoder that is ahead is held near its weights of the previous epoch,
so that the others can catch up:

    score    s_m = mean_i log softmax(z_i^m)_{y_i}                                                   (Eq. 8)
    lead     Delta_m = mean over the C_m modalities with a smaller score of (s_m - s_m'), else 0     (Eq. 9-10)
    term     P_m = alpha/2 ||w_m - w_m^{t-1}||^2,  alpha = exp(beta tanh(Delta_m)), if Delta_m > 0   (Eq. 12-16)

The paper prints the score with the opposite sign and calls the larger one better; this is the sign under which it is.

`variant="official"` is what the public code does instead: the score is the sum over the batch of the true class's
probability; alpha = c_m exp(beta tanh(Delta_m)) with beta 1, c = 0.95 for the first modality and 0.1 for the others;
the first modality's trace decides for all; that trace includes the regulation (window.py has the rest). It is always
trained with the unimodal losses.

`regulation` chooses how the leader is slowed: by the term above (`proximal`), by multiplying its gradient by 1/alpha
(`gradient`), or its learning rate of that step by 1/alpha (`lr`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from inforeg.scores import confidence, log_likelihood
from inforeg.window import DURING, VARIANTS, WINDOWS, FisherTrace, Metrics, PrimeWindow

REGULATIONS = ("proximal", "gradient", "lr")
BETA = {"paper": 0.9, "official": 1.0}  # Fig. 7; the public code's literal
OFFICIAL_SCALE = (0.95, 0.1)  # first modality (audio), every other


def scores(unimodal_logits: Mapping[str, Tensor], target: Tensor, variant: str = "paper") -> Tensor:
    """(M,) performance of each modality on the batch, larger is better (Eq. 8), from logits (B, C) and classes (B,)."""
    return {"paper": log_likelihood, "official": confidence}[variant](unimodal_logits, target)


def leads(score: Tensor) -> Tensor:
    """(M,) Delta_m of the scores (M,): the mean lead of m over the modalities behind it, 0 for the last (Eq. 9-10)."""
    gaps = (score.unsqueeze(1) - score.unsqueeze(0)).clamp(min=0)
    return gaps.sum(dim=1) / (gaps > 0).sum(dim=1).clamp(min=1)


class InfoReg:
    """The regulation as a part for any training loop.

        regulation = InfoReg({"audio": model.audio, "visual": model.visual}, beta=0.9, threshold=0.04)
        for epoch in range(epochs):
            regulation.start_epoch()
            for batch in loader:
                ...  # forward, zero_grad, backward
                regulation.step(unimodal_logits, target)
                optimizer.step()
            regulation.end_epoch()

    encoders: {modality: module}; unimodal_logits: {modality: (B, C)} in the same names; target: (B,). `window` is the
    rule of the prime learning window (window.py), the variant's own by default, and what is left as None takes the
    rule's value, or the variant's (BETA). With `every`, for the accumulated window, its traces are those of that many
    steps, not of epochs, and it opens and closes within an epoch; w_m^{t-1} stays what it was at the epoch's start.
    With `regulation="lr"` call `attach(optimizer)` first.

    It reads and edits gradients (`lr`: the step that the optimizer has made), keeps one copy of the encoders' weights,
    and reads nothing back from the device before `end_epoch`.

    Raises:
        ValueError: for an unknown variant, regulation, window or `during`, a combination that is not defined, or an
            encoder without parameters.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        beta: float | None = None,
        threshold: float | None = None,
        smoothing: int | None = None,
        start_epoch: int | None = None,
        regulation: str = "proximal",
        variant: str = "paper",
        during: str = "prime",
        window: str | None = None,
        every: int | None = None,
    ) -> None:
        _check(encoders, regulation, variant, during, window or variant, every)
        self.beta = BETA[variant] if beta is None else beta
        self.regulation, self.variant, self.during = regulation, variant, during
        self.modalities = tuple(encoders)
        self.trace = FisherTrace(encoders, variant, every)
        self.window = PrimeWindow(self.trace.periods, threshold, smoothing, start_epoch, window or variant)
        self._parameters: dict[str, list[Tensor]] = {
            name: list(encoder.parameters()) for name, encoder in encoders.items()
        }
        self._kept: dict[str, list[Tensor]] = {}  # w^{t-1} (proximal), or the weights before the step (lr)
        self._alpha: dict[str, Tensor] = {}  # this step's, of the encoders that may be regulated
        self._active: tuple[str, ...] = ()  # the encoders that may be regulated in this epoch or period
        self._decided = -1  # the number of the period that `_active` is of
        self._begun = self._attached = False  # whether within an epoch; whether an optimizer is known
        # (4, M) over the steps since the decision: score, lead, alpha of the leaders, who led
        self._sums = torch.zeros(())
        self._earlier: list[tuple[list[str], Tensor]] = []  # of the epoch's earlier decisions: the encoders, their sums
        self._steps = 0  # of the epoch

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `lr` act on this optimizer: its step is shortened to 1/alpha, as a rate of lr/alpha makes it.

        Raises:
            ValueError: for another regulation, which acts on the gradients alone.
        """
        if self.regulation != "lr":
            raise ValueError(f"attach() is for regulation='lr', not {self.regulation!r}, which needs no optimizer")
        optimizer.register_step_pre_hook(lambda *_: self._keep(self._alpha))
        optimizer.register_step_post_hook(lambda *_: self._shorten_step())
        self._attached = True

    def start_epoch(self) -> None:
        """Decide which encoders may be regulated in this epoch, and keep their weights w^{t-1}.

        Raises:
            ValueError: for `regulation="lr"` without an optimizer.
        """
        self._decide()
        if self.regulation == "lr" and not self._attached and (self._active or self.trace.every):
            raise ValueError("regulation='lr' acts on the optimizer's step: call attach(optimizer) first")
        if self.regulation == "proximal":
            self._keep(self.modalities if self.trace.every else self._active)
        self._begun = True

    def _decide(self) -> None:
        """Choose the encoders that may be regulated until the next trace is known; a frozen one may not."""
        if self._decided == self.window.epoch:
            return
        if self._begun:
            self._earlier.append((list(self._active), self._sums))
            self._sums = torch.zeros(())
        self._decided = self.window.epoch
        begun = self._decided >= self.window.start_epoch
        learning = (name for name in self.modalities if any(p.requires_grad for p in self._parameters[name]))
        self._active = tuple(name for name in learning if begun and self.window.admits(name, self.during))

    @torch.no_grad()
    def step(self, unimodal_logits: Mapping[str, Tensor], target: Tensor) -> None:
        """Between backward and `optimizer.step()`: measure the gradients, then regulate the encoder that is ahead.

        unimodal_logits: {modality: (B, C)}; target: (B,) class numbers.

        Raises:
            ValueError: outside an epoch, in which nothing would be regulated, or if a modality has no logits.
        """
        if not self._begun:
            raise ValueError("step() outside an epoch: call start_epoch() before its first step")
        if missing := [name for name in self.modalities if name not in unimodal_logits]:
            raise ValueError(f"unimodal_logits has no logits of {', '.join(missing)}, whose encoder is regulated")
        if self.variant == "paper":
            self.trace.update()
        self._decide()
        score = scores({name: unimodal_logits[name] for name in self.modalities}, target, self.variant)
        lead = leads(score)
        alpha = self._alpha_of(lead)
        ahead = (lead > 0).to(alpha.dtype)
        strength = alpha * ahead
        self._regulate(alpha, strength)
        if self.variant == "official":
            self.trace.update()
        self._sums = self._sums + torch.stack([score, lead, strength, ahead])
        self._steps += 1

    def end_epoch(self) -> Metrics:
        """The epoch's metrics by name and modality; appends the traces, on which the next windows depend.

        `fisher_trace` and `gradient_norm`; `relative_change` and `prime_window` as they were in this epoch; `score` and
        `lead`, means over the steps; `regulated`, the share of steps in which the encoder was; `alpha`, its mean over
        those steps.

        Raises:
            ValueError: if there was no step since the last epoch's end.
        """
        record = self.window.record(self.trace.first_period)
        record["fisher_trace"], record["gradient_norm"] = self.trace.end_epoch(), self.trace.gradient_norm
        parts = [*self._earlier, (list(self._active), self._sums)]
        sums = torch.stack([sums.expand(4, len(self.modalities)) for _, sums in parts]).tolist()
        for name in ("score", "lead", "alpha", "regulated"):
            record[name] = {}
        for i, modality in enumerate(self.modalities):
            score, lead = (sum(part[row][i] for part in sums) / self._steps for row in (0, 1))
            acted = [part for (active, _), part in zip(parts, sums, strict=True) if modality in active]
            regulated = sum(part[3][i] for part in acted)
            record["score"][modality], record["lead"][modality] = score, lead
            record["regulated"][modality] = regulated / self._steps
            record["alpha"][modality] = sum(part[2][i] for part in acted) / regulated if regulated else None
        self._sums, self._earlier, self._steps, self._active, self._begun = torch.zeros(()), [], 0, (), False
        return record

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs beside the encoders' weights, after any step or epoch.

        Within an epoch `weights` holds w^{t-1} of the encoders that may be regulated, which the proximal term needs.
        """
        holds = self.modalities if self.trace.every else self._active
        kept = {name: list(self._kept[name]) for name in holds if self._begun and self.regulation == "proximal"}
        regulated = {"active": list(self._active), "decided": self._decided, "weights": kept, "steps": self._steps}
        sums = {"sums": self._sums, "earlier": list(self._earlier)}
        return {"trace": self.trace.state_dict(), "begun": self._begun} | regulated | sums

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Within an epoch `start_epoch()` is not called again; call `attach` for `lr`."""
        self.trace.load_state_dict(state["trace"])
        self._begun, self._active, self._steps = state["begun"], tuple(state["active"]), state["steps"]
        self._decided = state["decided"]
        self._keep(state["weights"])
        for name, weights in state["weights"].items():
            torch._foreach_copy_(self._kept[name], weights)
        device = self._parameters[self.modalities[0]][0].device
        self._sums = state["sums"].to(device)
        self._earlier = [(list(active), sums.to(device)) for active, sums in state["earlier"]]

    def _alpha_of(self, lead: Tensor) -> Tensor:
        """(M,) alpha of the leads (M,) (Eq. 14-15), or what the public code has for it."""
        alpha = torch.exp(self.beta * torch.tanh(lead))
        if self.variant == "official":
            alpha = torch.cat([OFFICIAL_SCALE[0] * alpha[:1], OFFICIAL_SCALE[1] * alpha[1:]])
        return alpha

    def _regulate(self, alpha: Tensor, strength: Tensor) -> None:
        """Slow the encoders that may be regulated; alpha: (M,); strength: (M,) alpha of the leaders, else 0."""
        alphas, strengths = (dict(zip(self.modalities, values.unbind(), strict=True)) for values in (alpha, strength))
        self._alpha = {name: alphas[name] for name in self._active}
        for name in self._active:
            if self.regulation == "proximal":
                self._pull_back(name, strengths[name])
            elif self.regulation == "gradient" and (grads := self._gradients(name)):
                torch._foreach_mul_(grads, 1 / alphas[name])

    def _gradients(self, name: str) -> list[Tensor]:
        """The gradients that the encoder holds; a frozen one holds none and is left alone."""
        return [p.grad for p in self._parameters[name] if p.grad is not None]

    @torch.no_grad()
    def _keep(self, names: Iterable[str]) -> None:
        """Copy the weights that these encoders have now."""
        for name in names:
            if name not in self._kept:
                self._kept[name] = [torch.empty_like(p) for p in self._parameters[name]]
            torch._foreach_copy_(self._kept[name], self._parameters[name])

    def _pull_back(self, name: str, alpha: Tensor) -> None:
        """Add the gradient of P_m, alpha (w_m - w_m^{t-1})."""
        if grads := self._gradients(name):
            pairs = zip(self._parameters[name], self._kept[name], strict=True)
            now, before = zip(*((p, w) for p, w in pairs if p.grad is not None), strict=True)
            pull = torch._foreach_sub(now, before)
            torch._foreach_mul_(pull, alpha)
            torch._foreach_add_(grads, pull)

    @torch.no_grad()
    def _shorten_step(self) -> None:
        """Take back 1 - 1/alpha of the step that the optimizer has made."""
        for name, alpha in self._alpha.items():
            back = torch._foreach_sub(self._kept[name], self._parameters[name])
            torch._foreach_mul_(back, 1 - 1 / alpha)
            torch._foreach_add_(self._parameters[name], back)


def _check(
    encoders: Mapping[str, nn.Module], regulation: str, variant: str, during: str, window: str, every: int | None
) -> None:
    """Raises ValueError for what `InfoReg` does not define."""
    known = ((variant, VARIANTS), (regulation, REGULATIONS), (during, DURING), (window, WINDOWS))
    for value, allowed in known:
        if value not in allowed:
            raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    if every and window != "accumulated":
        raise ValueError(f"traces of {every} steps are for the accumulated window: the {window} one compares epochs")
    if variant == "official" and regulation != "proximal":
        raise ValueError("the official variant's constants are below 1, so it regulates by the proximal term only")
    if empty := [name for name, encoder in encoders.items() if not list(encoder.parameters())]:
        raise ValueError(f"nothing to regulate: {', '.join(empty)} has no parameters")
