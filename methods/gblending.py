"""Gradient-Blending: What Makes Training Multi-Modal Classification Networks Hard? (Wang, Tran and Feiszli, CVPR 2020).

K = M + 1 tasks, the fused prediction and one classifier per modality, are trained together with weights that favour the
tasks which generalise and do not overfit, estimated on a share of the training split that is withheld:

    gain         G_k = L_held_out(before) - L_held_out(after)              of training on L_k alone for n epochs
    overfitting  O_k = (L_held_out - L_train)(after) - (L_held_out - L_train)(before)
    weight       w_k = G_k / O_k^2, normalised to a sum of one
    loss         L = K sum_k w_k L_k

Each super-epoch starts with an estimate from copies of the model and its optimizer, one per task (the paper's online
version; a super-epoch as long as the training is its offline one). A task without a gain weighs nothing, O is at least
1e-4 (MultiBench's floor), and if no task gains, all weigh the same. L_held_out and L_train are means over samples, both
in evaluation mode and without augmentation; public re-implementations compare sums over sets of different sizes, take
the test set as the withheld share, or leave out the differences.

The authors' code takes the weights as flags and estimates none. The factor K is ours: equal weights are joint training
with `--unimodal_loss heads`, so that the learning rate means the same for both. The prediction is the fused one.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.base import Batch
from methods.base import Method
from models.multimodal import MultimodalModel, clip_gradients
from utils.distributed.gradients import share_gradients
from utils.numbers import positive, proper_share
from utils.precision import autocast
from utils.schedule import factor
from utils.stopping import stop_if_asked

FUSED = "fused"
LEAST_OVERFITTING = 1e-4


def blend(gain: Tensor, overfitting: Tensor) -> Tensor:
    """(K,) weights that sum to one."""
    # False for a copy whose loss is no number any more, too.
    weight = torch.where(gain > 0, gain / overfitting.clamp(min=LEAST_OVERFITTING).square(), 0.0)
    return weight / weight.sum() if weight.any() else torch.full_like(weight, 1 / len(weight))


def task_logits(model: MultimodalModel, inputs: Mapping[str, Tensor], tasks: tuple[str, ...]) -> dict[str, Tensor]:
    """{task: (B, C)}, by one pass of each encoder that the tasks need."""
    needed = model.modalities if FUSED in tasks else tasks
    features = model.encode(inputs, needed)
    return {task: model.fuse(features) if task == FUSED else model.heads[task](features[task]) for task in tasks}


class GBlending(Method):
    """Blends the losses; the weights are those of the last estimate."""

    takes_unimodal_loss = False  # it trains these losses, by weights of its own

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--super_epoch", type=positive, default=10, help="epochs between two estimates; a public re-implementation"
        )
        group.add_argument(
            "--estimate_epochs", type=positive,
            help="n, for which each task is trained to estimate its weight; the paper: the super-epoch",
        )  # fmt: skip
        group.add_argument(
            "--held_out",
            type=proper_share,
            default=0.1,
            help="share of the training split withheld for the estimates; ours",
        )

    @classmethod
    def defaults(cls, args) -> dict:
        return {"estimate_epochs": args.super_epoch}

    def __init__(self, args, model):
        super().__init__(args, model)
        model.add_heads()
        self.held_out = args.held_out
        self.tasks = (FUSED, *model.modalities)
        self.weights = dict.fromkeys(self.tasks, 1 / len(self.tasks))

    def on_epoch_start(self, run) -> None:
        if run.epoch % self.args.super_epoch == 0:
            self.weights = self.estimate(run)

    def bound_to(self, epochs: int) -> str | None:
        starts = range(0, epochs, self.args.super_epoch)
        cut = max(starts) + self.args.estimate_epochs > epochs
        return "its last estimate was cut off with the training" if cut else None

    def estimate(self, run) -> dict[str, float]:
        """{task: weight} from copies of the model, each trained on one task alone."""
        before = self.measure(run, self.tasks)
        after = [self.measure(self.trained_alone(run, task), (task,)) for task in self.tasks]
        train, held_out = torch.cat(after, dim=1) - before
        weights = blend(gain=-held_out, overfitting=held_out - train)
        return dict(zip(self.tasks, weights.tolist(), strict=True))

    def trained_alone(self, run, task: str):
        """A copy of the run, trained on one task for the epochs that follow; `run` stays as it is."""
        # Together, so that the copied optimizer holds the copied parameters.
        model, optimizer = copy.deepcopy((run.model, run.optimizer))
        share_gradients(model.encoders)
        trial = replace(run, model=model, optimizer=optimizer)
        model.train()
        for epoch in range(run.epoch, min(run.epoch + self.args.estimate_epochs, run.args.epochs)):
            trial.epoch = epoch
            if epoch > run.epoch:
                for group in optimizer.param_groups:
                    group["lr"] *= factor(run.args, epoch) / factor(run.args, epoch - 1)
            for batch in trial.loader(run.train):
                batch = batch.to(run.device)
                with autocast(run.device, run.args.precision):
                    loss = F.cross_entropy(task_logits(model, batch.inputs, (task,))[task], batch.target)
                optimizer.zero_grad()
                loss.backward()
                clip_gradients(model.parameters(), run.args.clip_norm)
                optimizer.step()
                stop_if_asked()
        return trial

    def measure(self, run, tasks: tuple[str, ...]) -> Tensor:
        """(2, tasks) mean losses on the training split and on the withheld share."""

        def losses(batch: Batch) -> dict[str, Tensor]:
            logits = task_logits(run.model, batch.inputs, tasks)
            return {task: F.cross_entropy(z, batch.target, reduction="none") for task, z in logits.items()}

        splits = [run.collect(data, losses) for data in (run.plain, run.held_out)]
        # In full precision: the weights divide by squares of small differences.
        return torch.stack([torch.stack([values.double().mean() for values in split.values()]) for split in splits])

    def losses(self, output) -> Mapping[str, Tensor]:
        joint = F.cross_entropy(output.logits, output.target)
        own = {name: F.cross_entropy(logits, output.target) for name, logits in output.unimodal.items()}
        parts = {FUSED: joint} | own
        loss = len(parts) * sum(self.weights[task] * part for task, part in parts.items())
        return {"loss": loss, "loss_joint": joint} | {f"loss_{name}": part for name, part in own.items()}

    def on_epoch_end(self, run) -> dict:
        return super().on_epoch_end(run) | {"weight": dict(self.weights)}

    def state_dict(self) -> dict:
        return super().state_dict() | {"weights": dict(self.weights)}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.weights = dict(state["weights"])
