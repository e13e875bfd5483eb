"""How far each encoder moves in an epoch, and how much of that a regulation holds back."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from inforeg.window import Metrics


class Movement:
    """The distance that each encoder moves in an epoch, and `hold`, its share of the way that its gradients ask for.

    distance = ||w_end - w_start||, over all parameters of the encoder that are trained.

    hold = distance / ||sum over the steps of  lr / (1 - momentum) (g + weight_decay w_start)||, where g is the gradient
    of the trained loss before `after_backward` edits it and before it is clipped. The denominator is how far SGD would
    have gone by these gradients alone. So `hold` needs no other epoch and no other run to be read: near 1, the encoder
    was free (momentum carried over from the epoch before, and to the next one, moves it a little off 1); at 0.1 it made
    a tenth of its way. Under a constant gradient and a constant alpha the proximal term of InfoReg gives
    (1 - exp(-x)) / x over n steps, with x = alpha lr / (1 - momentum) n: a small rate or a short epoch leaves x small,
    and such a setting holds nothing.

    Call `start_epoch()`, `update()` after each backward pass and before anything edits the gradients, and `end_epoch()`
    after the last step. It keeps two copies of the encoders' weights and reads nothing from the device before the end.
    `hold` is None for an optimizer other than SGD, whose steps are not proportional to gradients.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
        self._parameters = {name: [p for p in e.parameters() if p.requires_grad] for name, e in encoders.items()}
        self._groups = {
            name: next((g for g in optimizer.param_groups if any(p is parameters[0] for p in g["params"])), None)
            for name, parameters in self._parameters.items()
            if parameters
        }
        self._is_sgd = isinstance(optimizer, torch.optim.SGD)
        self._start: dict[str, list[Tensor]] = {}
        self._asked: dict[str, list[Tensor]] = {}  # the sums over the steps of lr / (1 - momentum) g
        self._rates: dict[str, float] = {}  # those of lr / (1 - momentum)

    @torch.no_grad()
    def start_epoch(self) -> None:
        """Keep the weights with which the epoch begins."""
        self._start = {name: [p.clone() for p in parameters] for name, parameters in self._parameters.items()}
        self._asked = {name: [torch.zeros_like(p) for p in parameters] for name, parameters in self._parameters.items()}
        self._rates = dict.fromkeys(self._parameters, 0.0)

    @torch.no_grad()
    def update(self) -> None:
        """Add the gradients that the encoders hold now, at the rate of the step that follows."""
        for name, group in self._groups.items():
            pairs = zip(self._asked[name], self._parameters[name], strict=True)
            pairs = [(asked, p.grad) for asked, p in pairs if p.grad is not None]
            if self._is_sgd and group and pairs:
                rate = group["lr"] / (1 - group["momentum"])
                asked, grads = zip(*pairs, strict=True)
                torch._foreach_add_(asked, grads, alpha=rate)
                self._rates[name] += rate

    @torch.no_grad()
    def end_epoch(self) -> Metrics:
        """The epoch's `distance` and `hold`, by modality; `hold` is None where no way was asked for."""
        lengths = {}
        for name, parameters in self._parameters.items():
            if parameters:
                decay = self._groups[name]["weight_decay"] if self._groups[name] else 0.0
                asked = torch._foreach_add(self._asked[name], self._start[name], alpha=decay * self._rates[name])
                moved = torch._foreach_sub(parameters, self._start[name])
                lengths[name] = torch.stack([_length(moved), _length(asked)])
        lengths = {name: pair.tolist() for name, pair in lengths.items()}
        distance = {name: lengths[name][0] if name in lengths else 0.0 for name in self._parameters}
        # Where nothing asked for a way, or the optimizer is another, there is none to hold back.
        asked = {name: lengths[name][1] if self._rates[name] else 0.0 for name in self._parameters}
        hold = {name: lengths[name][0] / asked[name] if asked[name] else None for name in self._parameters}
        self._start, self._asked = {}, {}
        return {"distance": distance, "hold": hold}

    def state_dict(self) -> dict[str, Any]:
        """The epoch so far."""
        return {"start": dict(self._start), "asked": dict(self._asked), "rates": dict(self._rates)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on within an epoch; `start_epoch()` is not called again."""
        self.start_epoch()
        for ours, saved in ((self._start, state["start"]), (self._asked, state["asked"])):
            for name, tensors in saved.items():
                for mine, tensor in zip(ours[name], tensors, strict=True):
                    mine.copy_(tensor)
        self._rates = dict(state["rates"])


def _length(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors)).norm()
