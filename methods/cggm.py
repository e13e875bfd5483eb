"""CGGM: Classifier-guided Gradient Modulation for Enhanced Multimodal Learning (NeurIPS 2024).

A classifier for each modality, which learns from constant features, shows from step to step how fast that modality
improves. The encoders of slow ones get larger gradients, and a loss pulls the fusion's gradient towards those of the
classifiers:

    progress   delta_m = e_m(t) - e_m(t - 1), with e_m the accuracy of classifier m on the batch of a step
    balance    B_m = 1 - delta_m / sum_k delta_k;  sum_m B_m = M - 1
    magnitude  g <- rho B_m g of all parameters of encoder m
    direction  L_gm = mean_m (|B_m| - B_m cos(G_m, g_m))
    loss       L = CE(z, y) + lambda L_gm + w sum_m CE(z^m, y), the last of the classifiers alone

G_m = mean_i (softmax(z_i) - onehot(y_i)) (f_i^m)' is the gradient of CE(z, y) by the weights that the fusion has for
modality m. g_m, a constant, is that of CE(z^m, y) by those of classifier m. L_gm trains fusion and encoders.

Accuracies of batches are mostly noise once learning is slow. The ratio then turns negative, so that an encoder climbs,
or is 1e6 where the sum cancels, which the public code leaves to the clipping of gradients (`--variant official`). Here
B_m is clamped to [0, 1], and 1 - 1/M for all where the sum is zero. The public code also takes the cosines of weights
in the place of gradients, and adds L_gm one step late. There is no B in the first step, which is joint training.

The direction is for concat and sum. One forward and one backward pass a step.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from inforeg.scores import full_precision
from methods.mmcosine import weights_of
from methods.modulation import Modulation
from models.fusion import Concat, Sum
from models.multimodal import Output
from utils.numbers import not_negative

VARIANTS = {
    "paper": dict(coefficients="clamped", direction="gradients", clip_norm=None),
    "official": dict(coefficients="published", direction="weights", clip_norm=0.8),
}
LEAST_PROGRESS = 1e-3  # a smaller sum of differences of accuracies is none


class CGGM(Modulation):
    """Joint training by which classifiers on constant features say how large and whereto an encoder's step is."""

    takes_unimodal_loss = False  # its classifiers' losses reach no encoder
    columns = ("coefficient", "cosine")  # rho B_m; cos(G_m, g_m), or that of --direction weights

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="bounded coefficients and cosines of gradients, or the public code's rules; --coefficients, "
            "--direction and --clip_norm follow",
        )  # fmt: skip
        group.add_argument("--rho", type=not_negative, default=1.3, help="of the encoders' gradients; public code: 1.3")
        group.add_argument(
            "--direction_weight", type=not_negative, default=0.2,
            help="lambda; public code: 0.2 for MOSI, 0.05 for Food-101",
        )  # fmt: skip
        group.add_argument(
            "--coefficients", choices=("clamped", "published", "none"),
            help="B_m between 0 and 1 (ours), without bounds (public code), or encoders' gradients as they are",
        )  # fmt: skip
        group.add_argument(
            "--direction", choices=("gradients", "weights", "none"),
            help="the cosines are of gradients (paper) or of the weights themselves (public code); none: without L_gm",
        )  # fmt: skip
        group.add_argument(
            "--classifier_weight", type=not_negative, default=0.5,
            help="w; public code: half the learning rate, which this is under SGD",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        return VARIANTS[args.variant]

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def __init__(self, args, model):
        super().__init__(args, model)
        if args.direction != "none" and not isinstance(model.fusion, Concat | Sum):
            raise ValueError(
                "CGGM's direction is defined for additive fusions: use --fusion concat or sum, or --direction none"
            )
        model.add_heads()
        self.accuracy: Tensor | None = None  # (M,) e_m of the step before
        self._accuracy: Tensor | None = None  # of this step
        self._balance: Tensor | None = None  # (M,) B_m of this step; 0 in the first
        self._cosine: Tensor | None = None  # (M,)

    def forward(self, batch) -> Output:
        if not self.model.training:
            return super().forward(batch)
        features = self.model.encode(batch.inputs)
        constants = {name: feature.detach() for name, feature in features.items()}
        return Output(self.model.fuse(features), self.model.unimodal(constants), features, batch.target)

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        for name, logits in output.unimodal.items():
            losses[f"loss_{name}"] = self.cross_entropy(logits, output.target)
            losses["loss"] = losses["loss"] + self.args.classifier_weight * losses[f"loss_{name}"]
        self._accuracy = accuracies(output.unimodal, output.target)
        self._balance = torch.zeros_like(self._accuracy)
        if self.accuracy is not None:
            progress = self._accuracy - self.accuracy
            self._balance = balance(progress, clamped=self.args.coefficients != "published")
        if self.args.direction != "none":
            cosine, acting = self.cosines(output), self.gated(self._balance, neutral=0)
            losses["loss_direction"] = self.args.direction_weight * (acting.abs() - acting * cosine).mean()
            losses["loss"] = losses["loss"] + losses["loss_direction"]
            self._cosine = cosine.detach()
        return losses

    def cosines(self, output: Output) -> Tensor:
        """(M,) between what the fusion and each classifier have for the modality, by --direction."""
        if self.args.direction == "weights":
            fused, own = weights_of(self.model.fusion), {n: head.weight for n, head in self.model.heads.items()}
        else:
            fused = self.gradients(dict.fromkeys(output.features, output.logits), output)
            own = self.gradients(output.unimodal, output)
        pairs = [(full_precision(fused[name]), full_precision(own[name].detach())) for name in self.model.modalities]
        return torch.stack([F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in pairs])

    def gradients(self, logits: Mapping[str, Tensor], output: Output) -> dict[str, Tensor]:
        """{modality: (C, dim)} but for one factor, the cross entropy's gradient by the weight that made its `logits`.

        They are functions of logits and features, through which gradients flow.
        """
        found, place = {}, output.target.unsqueeze(1)
        for name, z in logits.items():
            p = full_precision(z).softmax(dim=1)
            error = p - torch.zeros_like(p).scatter(1, place, 1.0)  # F.one_hot would have the host wait
            if self.class_weights is not None:
                error = error * self.class_weights[output.target].unsqueeze(1)
            with torch.autocast(z.device.type, enabled=False):
                found[name] = error.T @ full_precision(output.features[name])
        return found

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        factors = torch.ones_like(self._balance)
        if self.accuracy is not None and self.args.coefficients != "none":
            factors = self.gated(self.args.rho * self._balance, neutral=1)
        self.accuracy = self._accuracy
        self.note("coefficient", factors)
        if self._cosine is not None:
            self.note("cosine", self._cosine)
        self.scale_encoders(factors)

    def clipped(self) -> Iterable[Parameter]:
        """All but the classifiers', which learn beside the model: they do not shrink with its gradients."""
        return (p for name, p in self.model.named_parameters() if not name.startswith("heads."))

    def state_dict(self) -> dict:
        return super().state_dict() | {"accuracy": self.accuracy}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.accuracy = state["accuracy"]


@torch.no_grad()
def accuracies(unimodal: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """(M,) shares of the batch that each modality's logits classify rightly."""
    logits = full_precision(torch.stack(list(unimodal.values())))
    return (logits.argmax(dim=2) == target).to(logits.dtype).mean(dim=1)


def balance(progress: Tensor, clamped: bool) -> Tensor:
    """(M,) B_m of the modalities' delta_m."""
    total = progress.sum()
    if not clamped:
        return 1 - progress / (total + 1e-8)
    none = total.abs() < LEAST_PROGRESS
    ratio = 1 - progress / torch.where(none, 1.0, total)
    return torch.where(none, 1 - 1 / len(progress), ratio.clamp(0, 1))
