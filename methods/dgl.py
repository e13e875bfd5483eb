"""DGL: Disentangled Gradient Learning (ICCV 2025).

The joint loss trains the fusion head and no encoder; each encoder learns from its own unimodal loss alone:

    joint     z   = W [sg(f^1); ...; sg(f^M)] + b                            sg: constant to the gradient
    unimodal  z^m = sg(W) [0; ...; f^m; ...; 0] + sg(b), with the whole bias; with sum sg(W_m) f^m + sg(b_m)
    loss      CE(z, y) + alpha sum_m CE(z^m, y)

so alpha is a factor on the encoders' learning rate (under SGD). The public code goes backward twice, from the unimodal
losses and, after discarding what they left in the head, from the joint loss; the constants above give the same
gradients in one pass. As there, the norm of all gradients together is then clipped: `--clip_norm`, 40 by default.

For concat and sum. The public code puts another fusion in the place of FiLM and changes the gated one; neither is the
fusion of this repository. One forward pass of each encoder and one backward pass a step, M more of the head.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from methods.base import Method
from models.fusion import Concat, Sum
from models.multimodal import Output
from utils.numbers import not_negative


class DGL(Method):
    """Encoders by unimodal losses, head by the joint one."""

    takes_unimodal_loss = False

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--alpha", type=not_negative, default=3.0,
            help="of the unimodal losses; public code's scripts: 2 or 3 for Kinetics-Sounds, 4 or 5 for CREMA-D",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        return {"clip_norm": 40.0}  # public code

    def __init__(self, args, model):
        super().__init__(args, model)
        if not isinstance(model.fusion, Concat | Sum):
            raise ValueError("DGL is defined for additive fusions: use --fusion concat or sum")

    def forward(self, batch) -> Output:
        if not self.model.training:
            return super().forward(batch)
        features = self.model.encode(batch.inputs)
        logits = self.model.fuse({name: feature.detach() for name, feature in features.items()})
        return Output(logits, self.read_out(features), features, batch.target)

    def read_out(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """z^m (B, C) of every modality, with the head as a constant."""
        fusion = self.model.fusion
        constants = {name: p.detach() for name, p in fusion.named_parameters()}
        if isinstance(fusion, Sum):
            layers = {name: [constants[f"heads.{name}.{part}"] for part in ("weight", "bias")] for name in features}
            return {name: F.linear(feature, *layers[name]) for name, feature in features.items()}
        absent = {name: torch.zeros_like(feature) for name, feature in features.items()}
        alone = {name: absent | {name: feature} for name, feature in features.items()}
        return {name: functional_call(fusion, constants, (given,)) for name, given in alone.items()}

    def losses(self, output):
        losses = {"loss_joint": F.cross_entropy(output.logits, output.target)}
        losses |= {f"loss_{name}": F.cross_entropy(z, output.target) for name, z in output.unimodal.items()}
        joint, *unimodal = losses.values()
        return {"loss": joint + self.args.alpha * sum(unimodal)} | losses
