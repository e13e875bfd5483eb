"""The contract of every method. The base class is joint training, and measures what every method's run records.

loop:  for each epoch: on_epoch_start, train_data
         for each batch: forward, losses, zero_grad, backward, after_backward, step
       on_epoch_end, then evaluation through the same forward
"""

from argparse import Namespace
from collections.abc import Iterable, Mapping

import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.utils.data import Dataset

from dataset.base import Batch
from inforeg.scores import full_precision
from inforeg.window import FisherTrace, PrimeWindow
from methods.run import Run
from models.multimodal import MultimodalModel, Output


class Method:
    """Joint training: one cross entropy on the fused logits, and with `--unimodal_loss` one per modality beside it."""

    classifies = True  # whether it trains the classifier; where it does not, a run has no accuracy
    held_out = 0.0  # the share of the training split that the method needs withheld for itself
    modulates = False  # whether --modulate_during means something to it (Table 4)
    takes_unimodal_loss = True  # whether it leaves the loss alone, so that --unimodal_loss may add to it
    class_weights: Tensor | None = None  # (C,) of the cross entropies, by --class_weights
    columns: tuple[str, ...] = ()  # of its record: the epoch's means of what `note` was given under these names

    @classmethod
    def add_args(cls, group) -> None:
        """Add the method's own flags; they exist only when it is the method chosen."""

    @classmethod
    def defaults(cls, args) -> dict:
        """Values that the method sets for common flags, or that follow from its own; the user's flags win."""
        return {}

    @classmethod
    def modalities(cls, args, available: tuple[str, ...]) -> tuple[str, ...]:
        """The modalities that the model is built with."""
        return available

    @classmethod
    def to_predict(cls, args: Namespace) -> Namespace:
        """The arguments that make the method where it only predicts: without the files that training alone reads."""
        return args

    def __init__(self, args, model: MultimodalModel):
        self.args, self.model = args, model
        if self._unimodal_loss == "heads":
            model.add_heads()
        self.trace = FisherTrace(model.encoders, every=args.window_every)
        self.window = PrimeWindow(
            self.trace.periods, args.threshold, args.window_smoothing, args.start_epoch, args.window
        )
        self._notes: dict[str, list] = {}  # {column: [sum over the steps so far, their number]}

    @property
    def epoch(self) -> int:
        """The number of this epoch, from 0."""
        return len(next(iter(self.trace.history.values())))

    @property
    def _unimodal_loss(self) -> str:
        """The value of --unimodal_loss, a flag that only methods have which leave the loss alone."""
        return self.args.unimodal_loss if self.takes_unimodal_loss else "none"

    @classmethod
    def weighs_classes(cls) -> bool:
        """Whether --class_weights applies: the losses are those below, alone or with others beside them."""
        return cls.losses is Method.losses

    def bound_to(self, epochs: int) -> str | None:
        """Why a run of so many epochs is not how a longer one begins, in words; None if it is."""
        return None

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch; by --class_weights w, sum_i w_{y_i} l_i / sum_i w_{y_i}."""
        return F.cross_entropy(logits, target, self.class_weights)

    def in_force(self, modality: str) -> bool:
        """Whether the method may modulate `modality` now, by --modulate_during."""
        return self.window.admits(modality, self.args.modulate_during)

    def clipped(self) -> Iterable[Parameter]:
        """The parameters whose gradients --clip_norm shortens together."""
        return self.model.parameters()

    def note(self, column: str, values: Tensor) -> None:
        """Add a step's (M,) values, in the order of the modalities; they stay on the device until the epoch's end."""
        total, steps = self._notes.get(column, (0, 0))
        self._notes[column] = [total + values.detach(), steps + 1]

    def on_fit_start(self, run: Run) -> None:
        """Before the first epoch of this process, after a checkpoint has been loaded."""

    def on_epoch_start(self, run: Run) -> None:
        """Before each epoch."""

    def train_data(self, run: Run) -> Dataset:
        """The data set that this epoch trains on."""
        return run.train

    def forward(self, batch: Batch) -> Output:
        """Encode, modulate (in training), fuse. Evaluation goes through it, too, and must change nothing."""
        features = self.model.encode(batch.inputs)
        target = batch.target
        if self.model.training:
            features, target = self.modulate(features, batch)
        return Output(self.model.fuse(features), self.model.unimodal(features), features, target)

    def modulate(self, features: Mapping[str, Tensor], batch: Batch) -> tuple[Mapping[str, Tensor], Tensor]:
        """The features that the fusion gets, (B, dim) each, and their targets (B,); called in training only."""
        return features, batch.target

    def embed(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unit vectors (B, dim) of each modality by which samples are compared with one another (selection/)."""
        return {name: F.normalize(full_precision(feature)) for name, feature in features.items()}

    def losses(self, output: Output) -> dict[str, Tensor]:
        """Scalars: `loss` is trained, every other one is logged."""
        joint = self.cross_entropy(output.logits, output.target)
        losses = {"loss": joint, "loss_joint": joint}
        if self._unimodal_loss != "none":
            for name, logits in output.unimodal.items():
                losses[f"loss_{name}"] = self.cross_entropy(logits, output.target)
                losses["loss"] = losses["loss"] + losses[f"loss_{name}"]
        return losses

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Leave the gradients of the trained loss in p.grad."""
        losses["loss"].backward()

    def after_backward(self, output: Output) -> None:
        """Edit p.grad in place, between backward and the optimizer's step, after the traces have been measured."""
        self.trace.update()

    def on_epoch_end(self, run: Run) -> dict[str, Mapping[str, float | bool | None]]:
        """What the epoch's record holds of the method, by name and modality; a column without notes holds None."""
        record = self.window.record(self.trace.first_period)
        record |= {"fisher_trace": self.trace.end_epoch(), "gradient_norm": self.trace.gradient_norm}
        names = self.model.modalities
        for column in self.columns:
            total, steps = self._notes.get(column, (None, 0))
            means = (total / steps).tolist() if steps else [None] * len(names)
            record[column] = dict(zip(names, means, strict=True))
        self._notes = {}
        return record

    def evaluate(self, run: Run, data: Dataset) -> dict[str, float] | None:
        """The metrics of a split, for a method that learns no classes; None: those of a classifier."""
        return None

    def state_dict(self) -> dict:
        """What a resumed run needs beyond the model and the optimizer, after any step: tensors and plain values."""
        return {"trace": self.trace.state_dict(), "notes": dict(self._notes)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state whose tensors are on the model's device. Within an epoch no `on_epoch_start` follows."""
        self.trace.load_state_dict(state["trace"])
        self._notes = dict(state["notes"])
