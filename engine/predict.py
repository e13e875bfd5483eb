"""A trained model by itself: what it says of clips that belong to no data set."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dataset import DATASETS
from dataset.base import Batch
from dataset.loader import make_loader
from engine.evaluate import heads_of
from engine.setup import choose_device, remake_method
from methods.base import Method
from methods.run import collect
from utils.errors import CombinationError, RunError
from utils.precision import autocast
from utils.runs.checkpoint import checkpoint_of, load_checkpoint


@dataclass(frozen=True)
class Predicted:
    """What a model says of N clips.

    clips: their N names; probabilities: {"fused": (N, C), modality: (N, C)} float32 on the CPU, those of the modalities
    by their unimodal read-outs.
    """

    clips: list[str]
    probabilities: dict[str, Tensor]


@dataclass(frozen=True)
class Predictor:
    """A trained model with the recipe that its data were read by; `load` makes it of a checkpoint.

    classes: their C names, in the order of the probabilities; prepared: the settings with which its training data were
    prepared, {} if the checkpoint does not say.
    """

    method: Method
    classes: tuple[str, ...]
    prepared: dict
    device: torch.device

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities that the model reads."""
        return self.method.model.modalities

    def predict(self, paths: Sequence[str | Path], workers: int = 0) -> Predicted:
        """Predict the clips at these paths, decoded as the evaluation decodes those of the model's own data set.

        A path is a raw video, a .wav beside the folder of its frames, or a folder of such (dataset/storage/loose.py).
        `workers` is the number of processes that decode.

        Raises:
            DataError: for a path that is no clip, or a clip that does not decode; names it.
        """
        args = self.method.args
        data = DATASETS[args.dataset].of_files(args, paths, self.modalities, self.prepared)
        forward = autocast(self.device, args.precision)(self.method.forward)

        def shares(batch: Batch) -> dict[str, Tensor]:
            heads = heads_of(forward(batch))
            return {name: logits.softmax(dim=1, dtype=torch.float32) for name, logits in heads.items()}

        loader = make_loader(data, args.batch_size, workers, pin=self.device.type == "cuda")
        return Predicted(list(data.names), collect(self.method.model, loader, self.device, shares))


def load(path: str | Path, device: str = "cpu") -> Predictor:
    """The model of a checkpoint, a last.pt or best.pt, or of a run's folder, for which its data set need not be there.

    It predicts clips as they are: noise of --train_noise is not added to them.

    Raises:
        RunError: if the file is no sound checkpoint; CombinationError if its data set has no clips in files of their
            own.
    """
    path = checkpoint_of(path)
    state = load_checkpoint(path)
    args = Namespace(**state["args"])
    if args.dataset not in DATASETS:
        raise RunError(f"{path} is of --dataset {args.dataset}, which is not registered (docs/EXTENDING.md)")
    if not DATASETS[args.dataset].reads_clips:
        raise CombinationError(
            f"{path} is of --dataset {args.dataset}, whose samples are no clips in files of their own; "
            "predictions.npz of its run has the probabilities of the test split"
        )
    args.cache, args.train_noise, args.device = "none", None, device
    where = choose_device(args)
    classes = tuple(state["classes"])
    return Predictor(remake_method(args, state, path, where), classes, state.get("prepared") or {}, where)
