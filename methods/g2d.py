"""G2D: Boosting Multimodal Learning with Gradient-Guided Distillation (ICCV 2025).

Unimodal teachers, trained before, guide the joint model: their logits t^m the fused ones, their features f_T^m those of
the encoders.

    L = CE(z, y) + sum_m [ a T^2 KL(softmax(t^m / T) || softmax(z / T)) + b ||f^m - f_T^m||^2 ]

with the mean over the batch in the second term and over all entries in the third, as in the public code (the paper's
formula sums the latter, which is another b). Sequential modality prioritisation: in the first epochs the encoders of
the modalities whose teachers are surer of the batch (sum of the true class's probability) get no gradient, and the
weakest modality learns undisturbed. The public code has two modalities; with M of them those epochs are cut into M - 1
equal parts, and with each the next stronger modality joins in.

The public code zeroes the gradients of convolutions alone, so that the batch normalisation of a held encoder goes on
learning (`--hold convolutions`), and it stops where two teachers are equally sure: here both learn. Momentum and weight
decay act on what is held, in both.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from inforeg.scores import confidence
from methods.modulation import Modulation
from models.multimodal import MultimodalModel, place
from utils.errors import RunError
from utils.numbers import count, not_negative, positive_float

HELD = ("encoder", "convolutions")


class G2D(Modulation):
    """One forward and one backward pass of the model and one forward pass of every teacher a step."""

    takes_unimodal_loss = False
    columns = ("learning",)  # the share of the epoch's steps in which the encoder was not held

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--teachers", nargs="+", metavar="NAME=PATH",
            help="for every modality a checkpoint of `--method unimodal --modality NAME` on this data set",
        )  # fmt: skip
        group.add_argument("--temperature", type=positive_float, default=1.0, help="T of the logits; public code: 1")
        group.add_argument("--logit_weight", type=not_negative, default=1.0, help="a, of each KL term; public code: 1")
        group.add_argument(
            "--feature_weight", type=not_negative, default=1.0, help="b, of each feature term; public code: 1"
        )
        group.add_argument(
            "--priority_epochs", type=count,
            help="epochs in which the weaker modalities learn alone; half of --epochs: public code (150 of 300)",
        )  # fmt: skip
        group.add_argument(
            "--hold", choices=HELD, default="encoder",
            help="what of a stronger modality's encoder gets no gradient: all of it, or its convolutions (public code)",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        # Teachers are runs of the same seed, and paths: they do not belong into the name of a setting.
        return {"priority_epochs": args.epochs // 2, "teachers": args.teachers}

    def __init__(self, args, model):
        super().__init__(args, model)
        self.teachers = {name: load_teacher(args, model, name, path) for name, path in teacher_paths(args, model)}
        without = [name for name, encoder in model.encoders.items() if all(p.ndim < 4 for p in encoder.parameters())]
        if args.hold == "convolutions" and without:
            raise ValueError(f"--hold convolutions: the encoder of {', '.join(without)} has none; use --hold encoder")
        self._taught: dict[str, tuple[Tensor, Tensor]] = {}

    def on_fit_start(self, run) -> None:
        for teacher in self.teachers.values():
            place(teacher, next(self.model.parameters()))

    def forward(self, batch):
        if self.model.training:
            with torch.no_grad():
                self._taught = {name: teach(teacher, batch.inputs) for name, teacher in self.teachers.items()}
        return super().forward(batch)

    def losses(self, output) -> dict[str, Tensor]:
        losses = super().losses(output)
        student = F.log_softmax(output.logits / self.args.temperature, dim=1)
        for name, (feature, logits) in self._taught.items():
            soft = F.log_softmax(logits / self.args.temperature, dim=1)
            divergence = F.kl_div(student, soft, reduction="batchmean", log_target=True) * self.args.temperature**2
            distance = F.mse_loss(output.features[name], feature)
            losses[f"loss_{name}"] = self.args.logit_weight * divergence + self.args.feature_weight * distance
            losses["loss"] = losses["loss"] + losses[f"loss_{name}"]
        return losses

    @torch.no_grad()
    def after_backward(self, output) -> None:
        super().after_backward(output)
        learning = self.learning(output.target)
        for factor, encoder in zip(learning, self.model.encoders.values(), strict=True):
            if grads := self._held(encoder):
                torch._foreach_mul_(grads, factor)
        self.note("learning", learning)

    def learning(self, target: Tensor) -> Tensor:
        """(M,) 1 for each modality that learns from this batch, 0 for one that is held."""
        sure = confidence({name: logits for name, (_, logits) in self._taught.items()}, target)
        weaker = (sure < sure.unsqueeze(1)).sum(dim=1)  # how many are less sure
        epoch, last = self.epoch, self.args.priority_epochs
        allowed = epoch * (len(sure) - 1) // last if epoch < last else len(sure)
        return self.gated((weaker <= allowed).to(sure.dtype), neutral=1)

    def _held(self, encoder: nn.Module) -> list[Tensor]:
        everything = self.args.hold == "encoder"
        return [p.grad for p in encoder.parameters() if p.grad is not None and (everything or p.ndim >= 4)]


def teacher_paths(args, model: MultimodalModel) -> list[tuple[str, Path]]:
    """(modality, path) of `--teachers`, in the model's order.

    Raises:
        RunError: unless there is exactly one for every modality.
    """
    pairs = [word.partition("=")[::2] for word in args.teachers or ()]
    if sorted(name for name, path in pairs if path) != sorted(model.modalities):
        wanted = " ".join(f"{name}=PATH" for name in model.modalities)
        raise RunError(
            f"--method g2d needs --teachers {wanted}: the last.pt or best.pt of a run of --method unimodal for each"
            + (f"; not {' '.join(args.teachers)}" if args.teachers else "")
        )
    return [(name, Path(dict(pairs)[name])) for name in model.modalities]


def load_teacher(args, model: MultimodalModel, name: str, path: Path) -> MultimodalModel:
    """The unimodal model of a checkpoint, frozen.

    Raises:
        RunError: if the checkpoint is missing or damaged, not one of modality `name` on this data set, or if its
            classes have other names or numbers.
    """
    # Here, since utils.record knows the command line, and the command line every method.
    from dataset import DATASETS
    from utils.runs.checkpoint import class_numbers, load_checkpoint, load_model

    state = load_checkpoint(path)
    wanted = {"dataset": args.dataset, "method": "unimodal", "modality": name}
    held = {key: state["args"].get(key) for key in wanted}
    if held != wanted:
        described = " ".join(f"--{key} {value}" for key, value in held.items() if value is not None)
        raise RunError(f"--teachers {name}={path} is a run of {described}: it must be one of --method unimodal "
                       f"--modality {name} on {args.dataset}")  # fmt: skip
    names = DATASETS[args.dataset].class_names(args)
    numbers = class_numbers(state, path, names, args.data_root)
    if numbers != sorted(numbers):
        raise RunError(f"--teachers {name}={path}: its classes have other numbers than those of {args.data_root} "
                       f"({names[0]}, the first of these, is its number {numbers[0] + 1}): give a teacher of these "
                       "data, or data with its order of classes")  # fmt: skip
    teacher = MultimodalModel({name: copy.deepcopy(model.encoders[name])}, "concat", model.classes)
    load_model(teacher, state, path)
    return teacher.requires_grad_(False).eval()


def teach(teacher: MultimodalModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The feature (B, dim) of the teacher's one modality, and its logits (B, C)."""
    (name,) = teacher.modalities
    features = teacher.encode(inputs)
    return features[name], teacher.fuse(features)
