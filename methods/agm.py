"""AGM: Boosting Multi-modal Model Performance with Adaptive Gradient Modulation (ICCV 2023).

What a modality contributes to the prediction is the Shapley value of the logits, over passes f(S) in which the inputs
of the modalities outside a coalition S are zero (f of none counts as zero). A modality that is further ahead than on
the mean of all steps so far is slowed, one that is further behind is sped up:

    response      phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (f(S + m) - f(S));  sum_m phi_m = f(all) = z
    score         s_m = mean_i -log softmax(phi_m)_{y_i}, each term at most -log 1e-8; smaller is better
    discrepancy   r_m = exp(mean_{k != m} s_k - s_m); above 1 if m is ahead
    reference     tau_m: the same of S_m, the mean of s_m over all steps before this one (0 before the first)
    factor        kappa_m = exp(alpha min(tau_m - r_m, 10))
    gradient      L = CE(sum_m phi_m, y), with the gradient that arrives at phi_m multiplied by kappa_m

f(all) is passed in train mode; the other coalitions in eval mode, so that zeros do not enter the batch statistics, and
with gradient. For linear encoders without bias under an additive fusion this multiplies encoder m's gradient by kappa_m
exactly; otherwise nearly.

With batch norm it is not near. Where kappa_a < kappa_v the loss pushes f(a) in eval mode away from the classes, by
(kappa_v - kappa_a) / 2, and f(all) in train mode towards them. What a weight changes in eval mode alone, against
running statistics that follow it with delay, is then pushed without anything to oppose it, and evaluation is in eval
mode. At a high learning rate a model that fits its training set evaluates near chance (docs/METHODS.md).
`--padded_statistics batch` (ours) takes the features of shown modalities from the pass of all, whose gradient opposes
it; only zeros are passed in eval mode then.

These are the rules of the public code (its two-modality file; r_m for M modalities from its other one). It runs every
padded pass through the whole model, and one that it does not use. As encoders are apart here, each needs two more
forwards only: of its inputs (none by batch statistics), and of one sample of zeros, which serves the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import full_precision
from methods.modulation import Modulation
from methods.shapley import coalitions, shapley_weights
from utils.numbers import not_negative

MAX_LOSS = -math.log(1e-8)  # public code: probabilities are at least 1e-8
MAX_EXPONENT = 10.0  # public code


class AGM(Modulation):
    """Adaptive gradient modulation: each modality's share of the logits is trained at a speed of its own."""

    columns = ("kappa",)

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--alpha", type=not_negative, default=1.0, help="strength; default of the public code")
        group.add_argument(
            "--clip", type=not_negative, default=1.0,
            help="when a fusion weight's gradient has an entry above it, the norm of all gradients is cut to it; "
            "0: never; public code: 1",
        )  # fmt: skip
        group.add_argument(
            "--padded_statistics", choices=("running", "batch"), default="running",
            help="of batch norm where a modality is shown without another: running, in eval mode (public code), or the "
            "batch's own (ours), which a high learning rate needs",
        )  # fmt: skip

    def __init__(self, args, model):
        super().__init__(args, model)
        self.coalitions = coalitions(len(model.modalities))
        self.shapley = shapley_weights(len(model.modalities))
        self.reference = torch.zeros(len(model.modalities))  # S_m
        self.steps = 0  # that the reference is the mean of

    def forward(self, batch):
        output = super().forward(batch)
        if self.model.training:
            values = self.values(batch.inputs, output)
            kappa = self.factors((self.shapley_of(values) * values.detach()).sum(dim=1), output.target)
            # The value of z; its gradient is that of sum_m kappa_m phi_m, and exactly that of z where kappa is 1.
            shares = ((kappa - 1).view(-1, 1, 1, 1) * self.shapley_of(values)).sum(dim=0)
            output.logits = output.logits + (shares * (values - values.detach())).sum(dim=0)
        return output

    def values(self, inputs, output) -> Tensor:
        """(coalitions, B, C) f(S) of every coalition, the last of them the output's logits, in full precision."""
        active = any(self.in_force(name) for name in self.model.modalities)
        self.model.eval()
        with torch.set_grad_enabled(active):  # otherwise only the reference goes on
            shown = output.features if self.args.padded_statistics == "batch" else self.model.encode(inputs)
            hidden = self.model.encode({name: torch.zeros_like(x[:1]) for name, x in inputs.items()})
            hidden = {name: feature.expand_as(shown[name]) for name, feature in hidden.items()}
            values = []
            for members in self.coalitions[:-1]:
                chosen = [shown if i in members else hidden for i in range(len(shown))]
                values.append(self.model.fuse({name: of[name] for of, name in zip(chosen, shown, strict=True)}))
        self.model.train()
        return full_precision(torch.stack([*values, output.logits]))

    def shapley_of(self, values: Tensor) -> Tensor:
        """(M, coalitions, 1, 1) weights, where the values are."""
        self.shapley = self.shapley.to(values, non_blocking=True)
        return self.shapley[:, :, None, None]

    @torch.no_grad()
    def factors(self, responses: Tensor, target: Tensor) -> Tensor:
        """(M,) kappa of this step, 1 for whom --modulate_during keeps out; then the step joins the reference."""
        score = scores(responses, target)
        self.reference = self.reference.to(score, non_blocking=True)
        gap = discrepancy(self.reference) - discrepancy(score)
        kappa = self.gated(torch.exp(self.args.alpha * gap.clamp(max=MAX_EXPONENT)), neutral=1)
        self.steps += 1
        self.reference = self.reference + (score - self.reference) / self.steps
        self.note("kappa", kappa)
        return kappa

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        if self.args.clip and any(self.in_force(name) for name in self.model.modalities):
            weights = [p.grad for p in self.model.fusion.parameters() if p.ndim > 1 and p.grad is not None]
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            largest = torch.stack(torch._foreach_norm(weights, math.inf)).max()
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            shortened = (self.args.clip / norm).clamp(max=1)
            torch._foreach_mul_(grads, torch.where(largest > self.args.clip, shortened, 1.0))

    def state_dict(self) -> dict:
        return super().state_dict() | {"reference": self.reference, "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.reference, self.steps = state["reference"], state["steps"]


def scores(responses: Tensor, target: Tensor) -> Tensor:
    """(M,) s_m of responses (M, B, C)."""
    losses = F.cross_entropy(responses.flatten(0, 1), target.repeat(len(responses)), reduction="none")
    return losses.view(len(responses), -1).clamp(max=MAX_LOSS).mean(dim=1)


def discrepancy(score: Tensor) -> Tensor:
    """(M,) r_m = exp(mean of the others' scores - s_m)."""
    return torch.exp((score.sum() - score) / (len(score) - 1) - score)
