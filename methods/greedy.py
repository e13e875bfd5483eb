"""Greedy: Characterizing and Overcoming the Greedy Nature of Learning in Multi-modal Deep Neural Networks (ICML 2022).

The encoders gate one another's maps by MMTM units (models/mmtm.py) after each stage but the first, and each branch has
a classifier. With w a group of parameters, g the gradient of the loss L = sum_m CE(z^m, y) and sums over all steps:

    speed of a group     mu = sum_t ||g_t||^2 / ||w_t||^2
    main_m, bypass_m     encoder m and its classifier; E_m and c_m of all units, and the squeezing layers, shared by all
    speed ratio          r_m = log10(mu(bypass_m) / mu(main_m))        conditional learning speed
    curation             if max r - min r > epsilon, for the next Q steps the gates of argmax_m r_m are their averages:
                         its branch learns without the others. No speed is counted meanwhile

For two modalities max r - min r = |r_1 - r_2|. More are our extension. The first `--counting_epochs` only count.

By default what the authors' code does (the sum over all steps and the logarithm are its). It averages one modality's
gates for both, and goes on averaging while evaluating: here each has its own, of training steps alone. It publishes no
setting for sound and pictures, nor the plain MMTM network, without which the effect of curation cannot be seen: that is
`--curation none`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.modulation import Modulation
from models.fusion import Sum
from models.multimodal import Output
from utils.numbers import count, not_negative, positive


class Greedy(Modulation):
    """One forward and one backward pass a step. Prediction: the mean of the branches' logits.

    The published network has one classifier per branch and no other, `--fusion sum`. With another fusion its fused
    logits are trained instead, L = CE(z, y), as BalanceBenchmark does; main_m is then the encoder alone.
    """

    takes_unimodal_loss = False
    columns = ("curated",)

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--curation", choices=("guided", "random", "none"), default="guided",
            help="guided: by the speeds; random: each step one modality or none; none: the MMTM network, the control",
        )  # fmt: skip
        group.add_argument("--epsilon", type=not_negative, default=0.01, help="public code, for ModelNet40")
        group.add_argument("--curation_steps", type=positive, default=5, help="Q; public code, for ModelNet40")
        group.add_argument("--counting_epochs", type=count, default=1, help="without curation; public code")

    @classmethod
    def defaults(cls, args) -> dict:
        return {"fusion": "sum"}

    def __init__(self, args, model):
        super().__init__(args, model)
        model.add_exchange()
        self.branches = isinstance(model.fusion, Sum)
        self.speeds = torch.zeros(2, len(model.modalities))  # of main_m and of bypass_m
        self.steps_left = torch.tensor(0)  # of curation

    def on_fit_start(self, run) -> None:
        where = next(self.model.parameters())
        self.speeds = self.speeds.to(where)
        self.steps_left = self.steps_left.to(where.device)

    def curates(self, modality: str) -> bool:
        """Whether this epoch may hold the gates of `modality` constant; a frozen encoder has nothing to learn by it."""
        acts = self.args.curation != "none" and self.epoch >= self.args.counting_epochs
        return acts and modality not in self.model.frozen and self.in_force(modality)

    def forward(self, batch) -> Output:
        if self.model.training:
            self.model.exchange.curated = self.curated()
        output = super().forward(batch)
        if self.branches:
            output.logits = output.logits / len(output.unimodal)
        return output

    def curated(self) -> Tensor:
        """(M,) bool: whose gates are constant in this step."""
        if self.args.curation == "random":
            modalities = torch.arange(len(self.model.modalities), device=self.speeds.device)
            drawn = torch.randint(-1, len(modalities), (), device=modalities.device)
            return self.gated(modalities == drawn, neutral=False, acts=self.curates)
        # The speeds stand still in curation, and so does the modality that is the fastest by them.
        return self.fastest() & (self.steps_left > 0)

    def fastest(self) -> Tensor:
        """(M,) true for the modality of the largest r_m, if this epoch may curate it."""
        ratio = self.ratio()
        learning = zip(ratio, self.model.modalities, strict=True)
        ratio = torch.stack(
            [torch.full_like(r, -torch.inf) if name in self.model.frozen else r for r, name in learning]
        )
        places = torch.arange(len(ratio), device=ratio.device)
        return self.gated(places == ratio.argmax(), neutral=False, acts=self.curates)

    def losses(self, output) -> dict[str, Tensor]:
        if not self.branches:
            return super().losses(output)
        losses = {f"loss_{name}": F.cross_entropy(z, output.target) for name, z in output.unimodal.items()}
        return {"loss": sum(losses.values()), "loss_joint": F.cross_entropy(output.logits, output.target)} | losses

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        self.note("curated", self.model.exchange.curated.to(self.speeds.dtype))
        curating = self.steps_left > 0
        self.speeds = torch.where(curating, self.speeds, self.speeds + self.step_speeds())
        if self.args.curation == "guided":
            begins = (self.spread() > self.args.epsilon) & self.fastest().any()
            self.steps_left = torch.where(curating, self.steps_left - 1, begins * self.args.curation_steps)

    def ratio(self) -> Tensor:
        """(M,) r_m."""
        main, bypass = self.speeds
        return torch.log10(bypass / main)

    def spread(self) -> Tensor:
        """max r - min r over the encoders that learn; 0 if all are frozen."""
        ratio = zip(self.ratio(), self.model.modalities, strict=True)
        learning = [r for r, name in ratio if name not in self.model.frozen] or [self.speeds.new_zeros(())]
        return torch.stack(learning).max() - torch.stack(learning).min()

    def step_speeds(self) -> Tensor:
        """(2, M) ||g||^2 / ||w||^2 of this step, of main_m and of bypass_m."""
        units = self.model.exchange.units
        main = {name: [p for p in e.parameters() if p.requires_grad] for name, e in self.model.encoders.items()}
        if self.branches:
            for name, head in self.model.fusion.heads.items():
                main[name].extend(head.parameters())
        shared = [p for unit in units for p in unit.squeeze.parameters()]
        bypass = {name: shared + [p for unit in units for p in unit.excite[name].parameters()] for name in main}
        none = shared[0].new_zeros(())  # of a frozen encoder, whose head is the fusion
        speeds = [[speed(group) if group else none for group in groups.values()] for groups in (main, bypass)]
        return torch.stack([torch.stack(of_kind) for of_kind in speeds])

    def on_epoch_end(self, run) -> dict:
        """Adds `curated`, the share of the epoch's steps in which m's gates were constant, and `speed_ratio`, r_m."""
        ratio = dict(zip(self.model.modalities, self.ratio().tolist(), strict=True))
        return super().on_epoch_end(run) | {"speed_ratio": ratio}

    def state_dict(self) -> dict:
        return super().state_dict() | {"speeds": self.speeds, "steps_left": self.steps_left}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.speeds, self.steps_left = state["speeds"], state["steps_left"]


def speed(parameters: list[Tensor]) -> Tensor:
    """||g||^2 / ||w||^2 over all tensors of a group."""
    grads, weights = (
        torch.stack(torch._foreach_norm(tensors)).square().sum()
        for tensors in ([p.grad for p in parameters], parameters)
    )
    return grads / weights
