"""What methods share that weigh the modalities against each other: when and on whom they act, and ratios of scores."""

from collections.abc import Callable

import torch
from torch import Tensor

from methods.base import Method
from models.multimodal import MultimodalModel
from utils.numbers import count


class Modulation(Method):
    """A method that treats each modality by how it stands beside the others."""

    modulates = True

    def __init__(self, args, model):
        super().__init__(args, model)
        need_two(self, model)

    @staticmethod
    def add_epochs(group, first: int, last: int, source: str) -> None:
        """Add --modulation_starts and --modulation_ends; `source` says where the defaults come from."""
        for flag, default, which in (("starts", first, "first"), ("ends", last, "last")):
            told = f"{which} epoch that acts, from 0; {source}"
            group.add_argument(f"--modulation_{flag}", type=count, default=default, help=told)

    def in_epochs(self) -> bool:
        """Whether this epoch is one of --modulation_starts to --modulation_ends, both included, counted from 0."""
        return self.args.modulation_starts <= self.epoch <= self.args.modulation_ends

    def gated(self, values: Tensor, neutral: float, acts: Callable[[str], bool] | None = None) -> Tensor:
        """(M,) `values`, with `neutral` for each modality that the method leaves alone in this epoch.

        `acts` says of a modality's name whether it is acted on: `in_force` by default.
        """
        acts = self.in_force if acts is None else acts
        pairs = zip(values, self.model.modalities, strict=True)
        return torch.stack([value if acts(name) else torch.full_like(value, neutral) for value, name in pairs])

    @torch.no_grad()
    def scale_encoders(self, factors: Tensor) -> None:
        """Multiply all gradients of each encoder by its factor, of (M,)."""
        for factor, encoder in zip(factors, self.model.encoders.values(), strict=True):
            grads = [p.grad for p in encoder.parameters() if p.grad is not None]  # none in a frozen encoder
            if grads:
                torch._foreach_mul_(grads, factor)


def need_two(method: Method, model: MultimodalModel) -> None:
    """Raise ValueError unless the model has two modalities or more."""
    if len(model.modalities) < 2:
        raise ValueError(f"{type(method).__name__} weighs modalities against each other: it needs two or more")


@torch.no_grad()
def ratio_to_others(score: Tensor) -> Tensor:
    """(M,) score of each modality over the mean score of the others; with two modalities s_m / s_other.

    The scores are positive. The weakest never exceeds 1, whatever rounding makes of a tie.
    """
    count = len(score)
    others = (score * (1 - torch.eye(count, dtype=score.dtype, device=score.device))).sum(dim=1) / (count - 1)
    ratio = score / others.clamp(min=torch.finfo(score.dtype).eps)  # finite, so that a factor 0 on it gives 0
    return torch.where(score > score.min(), ratio, ratio.clamp(max=1))
