"""Unimodal teachers: models that were trained before, one for each modality, and guide the model that is trained."""

import copy
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from methods.base import Method
from models.multimodal import MultimodalModel, place
from utils.errors import RunError
from utils.runs.setting import setting


class Taught(Method):
    """A method whose model is taught, in training, by the frozen models of `--teachers`.

    They stay in evaluation mode, so that what they say of a sample depends on no other sample, are no part of the
    model, and see the inputs that the model sees. `_taught` holds what they said of the last batch: {modality: (feature
    (B, dim), logits (B, C))}.
    """

    @staticmethod
    def add_teachers(group) -> None:
        """Add `--teachers`."""
        group.add_argument(
            "--teachers", nargs="+", metavar="NAME=PATH",
            help="for every modality a checkpoint of `--method unimodal --modality NAME` on this data set",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        # Teachers are runs of the same seed, and paths: they do not belong into the name of a setting.
        return {"teachers": args.teachers}

    @classmethod
    def to_predict(cls, args) -> Namespace:
        return Namespace(**vars(args) | {"teachers": []})

    def __init__(self, args, model):
        super().__init__(args, model)
        paths = [] if args.teachers == [] else teacher_paths(args, model)  # [], which no command line gives: to predict
        self.teachers = {name: load_teacher(args, model, name, path) for name, path in paths}
        self._taught: dict[str, tuple[Tensor, Tensor]] = {}

    def on_fit_start(self, run) -> None:
        for teacher in self.teachers.values():
            place(teacher, next(self.model.parameters()))

    def forward(self, batch):
        if self.model.training:
            with torch.no_grad():
                self._taught = {name: teach(teacher, batch.inputs) for name, teacher in self.teachers.items()}
        return super().forward(batch)


def teacher_paths(args, model: MultimodalModel) -> list[tuple[str, Path]]:
    """(modality, path) of `--teachers`, in the model's order.

    Raises:
        RunError: unless there is exactly one for every modality.
    """
    pairs = [word.partition("=")[::2] for word in args.teachers or ()]
    if sorted(name for name, path in pairs if path) != sorted(model.modalities):
        wanted = " ".join(f"{name}=PATH" for name in model.modalities)
        raise RunError(
            f"--method {args.method} needs --teachers {wanted}: the last.pt or best.pt of a run of --method unimodal "
            "for each" + (f"; not {' '.join(args.teachers)}" if args.teachers else "")
        )
    return [(name, Path(dict(pairs)[name])) for name in model.modalities]


def load_teacher(args, model: MultimodalModel, name: str, path: Path) -> MultimodalModel:
    """The unimodal model of a checkpoint, frozen.

    Raises:
        RunError: if the checkpoint is missing or damaged, not one of modality `name` on this data set and list, or if
            its classes have other names or numbers.
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
    known, now = (setting(flags).get("train_list") for flags in (state["args"], vars(args)))
    if known != now:
        lists = (f"--train_list {words}" if words else "all of the training split" for words in (known, now))
        raise RunError(f"--teachers {name}={path} was trained on {next(lists)}, this run is on {next(lists)}: the "
                       "labels of a teacher count, too; train it on the same list")  # fmt: skip
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
