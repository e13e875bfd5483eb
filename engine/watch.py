"""NaN and infinity stop a run at the step where they arise: found on the device, read without waiting for it."""

import json
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from methods.base import Method
from models.multimodal import Output
from utils.errors import RunError
from utils.files import write_atomically
from utils.runs.history import Epoch


class NotFinite(RunError):
    """A step's numbers are not finite.

    `found` holds `epoch` and `step`, counted from 0; `indices`, the batch's positions in the data set; and `what` is
    not finite, in words.
    """

    def __init__(self, found: dict):
        self.found = found
        # What comes first in a step spoils the rest of it.
        kind = found["what"][0].split()[0]
        what = ", ".join(name for name in found["what"] if name.split()[0] == kind)
        super().__init__(
            f"{what} became NaN or infinite in epoch {found['epoch'] + 1}, step {found['step'] + 1}: lower --lr, check "
            "the data (not_finite.json in the run's folder has the batch), or leave --precision bf16 away, if it is set"
        )

    def write(self, folder: Path) -> None:
        """Write not_finite.json: the step, and its samples.

        Whichever process finds it first writes it: all find the same, and the others end with it.
        """
        write_atomically(folder / "not_finite.json", json.dumps(self.found, indent=2) + "\n")


class Watch:
    """Finds what is not finite in an epoch's steps, and since which step.

    `first` (K,) stays on the device: the first step in which each of K quantities was not finite, or -1. `look` reads
    it at once on the CPU; on CUDA, where the steps run `behind` the host, it reads a copy made after an earlier step,
    once that has arrived. The batches of the last steps are remembered meanwhile.
    """

    def __init__(self, epoch: int, behind: bool, remembered: int = 256):
        self.epoch, self.behind = epoch, behind
        self.names: list[str] = []
        self.first: Tensor | None = None
        self.batches: deque[tuple[int, Tensor]] = deque(maxlen=remembered)
        self.copy: Tensor | None = None
        self.copied: torch.cuda.Event | None = None

    @torch.no_grad()
    def add(self, step: int, index: Tensor, watched: Mapping[str, list[Tensor]]) -> None:
        """Look at a step on the samples `index` (B,), on the CPU.

        `watched` is {name: scalars}: each scalar is finite if all numbers that it was made of are.
        """
        names = [name for name, scalars in watched.items() for _ in scalars]
        if names != self.names:
            self.close()
            self.names, self.first, self.copy = names, None, None
        self.batches.append((step, index))
        values = torch.stack([scalar.float() for scalars in watched.values() for scalar in scalars])
        if self.first is None:
            self.first = torch.full_like(values, -1, dtype=torch.long)
        self.first = torch.where(values.isfinite() | (self.first >= 0), self.first, step)

    def look(self) -> None:
        """Raise NotFinite if it is known by now that something is not finite; on CUDA that may be some steps later."""
        if not self.behind:
            self._check(self.first)
        elif self.copied is None or self.copied.query():
            if self.copied is not None:
                self._check(self.copy)
            if self.copy is None:
                self.copy = torch.empty_like(self.first, device="cpu", pin_memory=self.first.is_cuda)
            self.copy.copy_(self.first, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()

    def close(self) -> None:
        """Raise NotFinite if anything was not finite so far; waits for the device."""
        self.copied = None
        if self.first is not None:
            self._check(self.first)

    def _check(self, first: Tensor) -> None:
        steps = first.tolist()
        bad = [step for step in steps if step >= 0]
        if bad:
            step = min(bad)
            what = dict.fromkeys(name for name, since in zip(self.names, steps, strict=True) if since == step)
            indices = next((index.tolist() for number, index in self.batches if number == step), None)
            raise NotFinite({"epoch": self.epoch, "step": step, "indices": indices, "what": list(what)})


@torch.no_grad()
def vital(method: Method, losses: Mapping[str, Tensor], output: Output) -> dict[str, list[Tensor]]:
    """The numbers of a step that `Watch.add` looks at, in the order in which a step computes them.

    Features, losses, each encoder's gradient as its Fisher trace has it, and what the method has made of all gradients.
    """
    sizes = torch._foreach_norm(list(output.features.values()), math.inf)
    sizes_of = {f"features of {name}": [size] for name, size in zip(output.features, sizes, strict=True)}
    sizes_of |= {f"train {name}": [loss] for name, loss in losses.items()}
    sizes_of |= {f"gradient of {name}": [trace] for name, trace in method.trace.sums.items()}
    grads: dict[str, list[Tensor]] = {}
    for name, parameter in method.model.named_parameters():
        part = name.removeprefix("encoders.").split(".")[0]
        # The weights stand in for a gradient that a frozen part does not have.
        grads.setdefault(part, []).append(parameter if parameter.grad is None else parameter.grad)
    sizes = iter(torch._foreach_norm([grad for part in grads.values() for grad in part]))
    return sizes_of | {f"final gradient of {part}": [next(sizes) for _ in held] for part, held in grads.items()}


def check_finite(epoch: Epoch) -> None:
    """See that an epoch's evaluation is finite, before weights that are of no use replace the checkpoint.

    Raises:
        RunError: if it is not; names the split and the number.
    """
    wrong = [
        f"{split} {name}"
        for split, metrics in epoch.evaluated.items()
        for name, value in metrics.items()
        if not math.isfinite(value)
    ]
    if wrong:
        raise RunError(
            f"{', '.join(wrong)} became NaN or infinite in epoch {epoch.epoch + 1}: lower --lr, or check the data; "
            "the checkpoint of the epoch before is kept"
        )
