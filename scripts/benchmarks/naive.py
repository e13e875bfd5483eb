"""InfoReg's step as such steps are commonly written in this field: the same mathematics, for comparison.

One backward pass per loss, with a copy of every gradient; scores sample by sample through `.item()`; Python loops over
all parameters that look each one up by name; a copy of the whole model for the weights of the epoch before. Written
for this benchmark from the equations in methods/inforeg.py, which it equals: tests/scripts/test_benchmark_counts.py.
"""

import copy
import math

import torch
import torch.nn.functional as F

from dataset.base import Batch
from methods.run import Run
from utils.errors import CombinationError


class NaiveInfoReg:
    """The step of `--method inforeg`, by the flags of `run`, with all windows open.

    `trace` is {modality: sum over the steps of ||g_m||^2}.

    Raises:
        CombinationError: for a regulation or a variant other than the paper's.
    """

    def __init__(self, run: Run):
        self.model, self.optimizer, self.args = run.model, run.optimizer, run.args
        if (self.args.variant, self.args.regulation) != ("paper", "proximal"):
            raise CombinationError("the naive step is the paper's: leave --variant and --regulation away, or the row")
        self.names = {
            modality: [f"encoders.{modality}.{name}" for name, _ in encoder.named_parameters()]
            for modality, encoder in self.model.encoders.items()
        }
        self.trace = dict.fromkeys(self.model.modalities, 0.0)
        self.total_loss = 0.0
        self.start_epoch()

    def start_epoch(self) -> None:
        """Keep the weights from which an encoder must not move away."""
        self.previous = copy.deepcopy(self.model)

    def step(self, batch: Batch) -> None:
        """One step of training on the batch."""
        with torch.autocast(batch.target.device.type, torch.bfloat16, enabled=self.args.precision == "bf16"):
            features = self.model.encode(batch.inputs)
            logits, unimodal = self.model.fuse(features), self.model.unimodal(features)
            losses = {"joint": F.cross_entropy(logits, batch.target)}
            if self.args.unimodal_loss != "none":
                for modality in unimodal:
                    losses[modality] = F.cross_entropy(unimodal[modality], batch.target)
        self.gradients = {}
        for loss in losses:
            self.optimizer.zero_grad()
            losses[loss].backward(retain_graph=True)
            self.gradients[loss] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.grad is not None:
                    self.gradients[loss][name] = copy.deepcopy(parameter.grad)
            self.total_loss += losses[loss].item()
        self.optimizer.zero_grad()
        for name, parameter in self.model.named_parameters():
            for loss in self.gradients:
                if name in self.gradients[loss].keys():
                    if parameter.grad is None:
                        parameter.grad = copy.deepcopy(self.gradients[loss][name])
                    else:
                        parameter.grad = parameter.grad + self.gradients[loss][name]
        for modality in self.trace:
            for name, parameter in self.model.named_parameters():
                if name in self.names[modality] and parameter.grad is not None:
                    self.trace[modality] += (parameter.grad**2).sum().item()
        self.regulate(self.scores(unimodal, batch.target))
        self.optimizer.step()

    def scores(self, unimodal: dict[str, torch.Tensor], target: torch.Tensor) -> dict[str, float]:
        """The scores of Eq. 8."""
        scores = {}
        for modality in unimodal:
            score = 0.0
            for i in range(len(target)):
                score += torch.log_softmax(unimodal[modality][i], dim=0)[target[i].item()].item()
            scores[modality] = score / len(target)
        return scores

    def regulate(self, scores: dict[str, float]) -> None:
        """Eq. 9 to 16: another loss, and another backward pass, for each encoder that is ahead."""
        for modality in scores:
            behind = [scores[modality] - scores[other] for other in scores if scores[other] < scores[modality]]
            if len(behind) == 0:
                continue
            alpha = math.exp(self.args.beta * math.tanh(sum(behind) / len(behind)))
            distance = 0.0
            for name, parameter in self.model.named_parameters():
                for other, before in self.previous.named_parameters():
                    if name == other and name in self.names[modality]:
                        distance = distance + ((parameter - before.detach()) ** 2).sum()
            (alpha / 2 * distance).backward()
