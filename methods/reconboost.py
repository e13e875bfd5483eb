"""ReconBoost: Boosting Can Achieve Modality Reconcilement (ICML 2024).

One modality is trained at a time, on the label and against what the others together predict already, as boosting trains
a new learner on the errors of those before it. In stages s = 0, 1, ... of two phases each, m being modality s mod M:

    phase 1  encoder m and its head:  L = mean_i sum_c -t_ic log p_ic + a mean_i,c (p_ic - sg(p^k_ic))^2
    phase 2  everything:              L = CE(z, y), joint training

    p = softmax(z^m),  q = sg(softmax(sum_k!=m z^k)),  k in the second term: the modality of the stage before
    t = y - rho q, y one-hot (--residual full);  t = (1 - rho q_y) y (masked, the default): a weight for each sample

`full` is CE(p, y) - rho KL(q || p) up to a constant, the objective of the paper's abstract. It has no minimum: where q
is not one-hot, t has negative entries, and the loss falls for ever along y - q. The public code trains the masked form,
in which no negative entry is left, and so do we. The masked form asks less of a sample that the others know.

The public code (`--variant official`) further has one head of two layers for all modalities and a learned scale c of
the sum of their logits, by which q is sharpened, too; its phase 1 is divided by C and multiplied by 5. Its second term,
the memory, is a constant: both sides are detached, so a does nothing. Not taken over: that the batch statistics of the
others move in phase 1, and that q in the first stage is a softmax over a single column.

Every phase begins with empty momentum, as with a new optimizer. The others are in evaluation mode in phase 1, so that
their weights, momentum and batch statistics stay bit for bit as they are. A phase-1 step is one forward pass of all
encoders and one backward pass of one; a phase-2 step is a step of joint training.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import full_precision
from methods.base import Method
from methods.modulation import need_two
from models.encoders import initialise
from models.fusion import Concat, Shared, Sum
from models.multimodal import Output
from utils.numbers import count, fraction, not_negative

VARIANTS = {
    "paper": dict(fusion="sum", consolidation=0.5),
    "official": dict(fusion="shared", consolidation=0.0),
}
UNITS, W1 = 256, 5.0  # of the public code: hidden units of its head; its weight of the cross entropy, for CREMA-D


class ReconBoost(Method):
    """Modalities by turns of epochs, each against what the others predict, and joint training in between."""

    takes_unimodal_loss = False
    columns = ("residual",)  # the mean of 1 - rho q_y, of the modality that the epoch trains alone

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="heads of their own and a memory that has a gradient, or the public code's one head, learned scale "
            "and memory without effect; the defaults of --fusion and --consolidation follow from it",
        )  # fmt: skip
        group.add_argument(
            "--residual", choices=("masked", "full"), default="masked",
            help="what is subtracted from the label: the others' probability of the true class (public code), or all "
            "of their probabilities (paper), which is unbounded below and needs --clip_norm",
        )  # fmt: skip
        group.add_argument("--rho", type=fraction, default=0.2, help="its weight; public code for CREMA-D: 1 of 5")
        group.add_argument(
            "--consolidation", type=not_negative,
            help="a, of the memory term; public code: 0.5 of a constant, which is 0",
        )  # fmt: skip
        for name, what in (("phase", "one modality"), ("rectify", "all")):
            group.add_argument(
                f"--{name}_epochs", type=count, default=4, help=f"of a stage, that train {what}; public code: 4"
            )

    @classmethod
    def defaults(cls, args) -> dict:
        return VARIANTS[args.variant]

    @classmethod
    def weighs_classes(cls) -> bool:
        return True

    def __init__(self, args, model):
        need_two(self, model)
        super().__init__(args, model)
        if not isinstance(model.fusion, Concat | Sum | Shared):
            raise ValueError("ReconBoost adds up the modalities' logits: use --fusion sum, concat or shared")
        if not args.phase_epochs + args.rectify_epochs:
            raise ValueError("--phase_epochs 0 and --rectify_epochs 0 leave nothing to train")
        if args.residual == "full" and args.clip_norm is None:
            raise ValueError("--residual full is unbounded below: bound its steps by --clip_norm, say 1")
        self.factor = 1.0
        if args.variant == "official":
            if not isinstance(model.fusion, Shared):
                raise ValueError("--variant official has one head for all modalities: leave --fusion away")
            model.fusion, self.factor = Ensemble(model.dims, model.classes), W1 / model.classes

    @property
    def stage(self) -> tuple[int, int]:
        """The number of this epoch's stage, and of the epoch in it, both from 0."""
        return divmod(self.epoch, self.args.phase_epochs + self.args.rectify_epochs)

    @property
    def trained(self) -> str | None:
        """The modality that this epoch trains alone; None in the second phase."""
        stage, epoch = self.stage
        names = self.model.modalities
        return names[stage % len(names)] if epoch < self.args.phase_epochs else None

    def on_fit_start(self, run) -> None:
        self.optimizer = run.optimizer

    def on_epoch_start(self, run) -> None:
        if self.stage[1] in (0, self.args.phase_epochs):
            self.optimizer.state.clear()  # the same as a new optimizer; the learning rates are kept

    def forward(self, batch) -> Output:
        trained, model = self.trained, self.model
        if not model.training or trained is None:
            return super().forward(batch)
        others = [name for name in model.modalities if name != trained]
        for name in others:
            model.encoders[name].eval()
        with torch.no_grad():
            features = model.encode(batch.inputs, others)
        model.train()
        features |= model.encode(batch.inputs, [trained])
        features = {name: features[name] for name in model.modalities}
        return Output(model.fuse(features), model.unimodal(features), features, batch.target)

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        if self.trained is None:
            return losses
        logits = {name: full_precision(z) for name, z in output.unimodal.items()}
        own = logits[self.trained]
        others = sum(z.detach() for name, z in logits.items() if name != self.trained)
        if isinstance(self.model.fusion, Ensemble):
            others = others * self.model.fusion.scale.detach()
        wanted = self.wanted(others.softmax(dim=1), output.target)
        losses["loss_residual"] = self.factor * self.mean(-(wanted * own.log_softmax(dim=1)).sum(dim=1), output.target)
        losses["loss_consolidation"] = self.args.consolidation * self.memory(logits)
        losses["loss"] = losses["loss_residual"] + losses["loss_consolidation"]
        left = wanted.gather(1, output.target.unsqueeze(1)).mean()
        self.note("residual", left.expand(len(logits)))
        return losses

    def wanted(self, q: Tensor, target: Tensor) -> Tensor:
        """(B, C) t, what is left of the labels (B,) by what the others predict, q (B, C)."""
        label = torch.zeros_like(q).scatter(1, target.unsqueeze(1), 1.0)
        return label - self.args.rho * (q * label if self.args.residual == "masked" else q)

    def mean(self, losses: Tensor, target: Tensor) -> Tensor:
        """The mean of the samples' losses (B,), by --class_weights as in `cross_entropy`."""
        if self.class_weights is None:
            return losses.mean()
        weights = self.class_weights[target]
        return (weights * losses).sum() / weights.sum()

    def memory(self, logits: dict[str, Tensor]) -> Tensor:
        """How far the probabilities of the modality in training are from those of the one before it; 0 without one."""
        stage, _ = self.stage
        now, before = (self.model.modalities[s % len(logits)] for s in (stage, stage - 1))
        if not stage:
            return logits[now].new_zeros(())
        return F.mse_loss(logits[now].softmax(dim=1), logits[before].detach().softmax(dim=1))

    def on_epoch_end(self, run) -> dict:
        trained = self.trained  # asked first: the record ends the epoch
        record = super().on_epoch_end(run)
        values = record["residual"].items()
        return record | {"residual": {name: value if name == trained else None for name, value in values}}


class Ensemble(Shared):
    """z = c sum_m h(f^m) with one head h of two layers for all modalities; the scale c is trained (public code)."""

    def __init__(self, dims, classes: int):
        super().__init__(dims, classes)
        self.head = nn.Sequential(nn.Linear(self.head.in_features, UNITS), nn.ReLU(), nn.Linear(UNITS, classes))
        self.apply(initialise)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features) -> Tensor:
        """Logits (B, classes) of the features {modality: (B, dim)}."""
        return self.scale * sum(self.unimodal(features).values())
