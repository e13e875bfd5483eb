"""Enhancing Multimodal Cooperation via Sample-level Modality Valuation (Wei, Feng, Wang and Hu, CVPR 2024).

What a modality contributes to a sample is its Shapley value over what the model makes of the modalities' subsets:

    benefit   v(S) = |S| if the model is right about the sample from the features in S alone, else 0
    value     phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S))

so the values of a sample sum to M if the model is right about it, else to 0. A subset is read by setting the other
features to zero before the fusion, which keeps its whole bias. After a warm-up of joint training, each epoch trains on
a list of its own, the training split and repeated samples in which some features are zero:

    sample    n(phi_m) copies of every sample in which m stands alone; n = ceil(2 (1 - phi_m)), at least 0. Two
              modalities: 0 copies for a value from 1, 1 for 0.5, 2 for 0, 3 for -0.5.
    modality  p N copies, drawn at random, in which the modality m of the highest mean value is zero;
              p = 2/3 alpha (mean phi_m - mean over the others of their mean values), the means from a drawn share.

The loss is the joint cross entropy on either. An encoder whose feature is zero gets no gradient from that sample, but
its batch norms see it.

For two modalities both levels are the public code's; ceil and the lead over the mean of the others are our extension
to more. Both value the augmented training split. The code does so after each epoch, the last one included; here it is
done before each epoch, so that the list follows from the checkpoint, the seed and the epoch.
"""

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dataset.loader import mix
from methods.base import Method
from methods.shapley import shapley_values
from utils.numbers import count, not_negative, share

LEVELS = ("sample", "modality")


def valued(correct: Tensor) -> Tensor:
    """(N, M) values from (N, 2^M) hits: column S is the subset whose modalities are the bits of S, column 0 is none."""
    size = torch.tensor([s.bit_count() for s in range(correct.shape[1])], dtype=torch.float64)
    return shapley_values(correct.double() * size)


def copies(values: Tensor) -> Tensor:
    """(N, M) how often each modality of each sample is repeated alone."""
    # Sums of thirds miss the whole numbers by their last digits.
    return (2 * (1 - values) - 1e-6).ceil().clamp(min=0).long()


class Listed(Subset):
    """Samples of a data set in the order of a list. A sample's index is its place in the list, not in the data set."""

    def __getitem__(self, place: int):
        inputs, target, _ = super().__getitem__(place)
        return inputs, target, place

    def __getitems__(self, places: list[int]):
        """PyTorch asks for it of a Subset with a __getitem__ of its own."""
        return [self[place] for place in places]


class Valuation(Method):
    """Trains on a list that is made anew before each epoch; `kept` says which features its entries keep."""

    takes_unimodal_loss = False  # a feature that has been set to zero has no cross entropy of its own

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--level", choices=LEVELS, default="sample", help="repeat by each sample's values, or by the modalities'"
        )
        group.add_argument("--warmup", type=count, default=5, help="epochs of joint training before; public code")
        group.add_argument("--alpha", type=not_negative, default=1.0, help="of p, --level modality; public code")
        group.add_argument(
            "--valued_share", type=share, default=0.2,
            help="of the training split, drawn to estimate the mean values, --level modality; public code",
        )  # fmt: skip

    def __init__(self, args, model):
        super().__init__(args, model)
        self.positions: Tensor | None = None  # (entries,) this epoch's list; None in the warm-up
        self.kept: Tensor | None = None  # (entries, M) what they keep
        self.metrics: dict[str, dict[str, float]] = {}  # of this epoch's list, by name and modality

    def train_data(self, run) -> Dataset:
        """The list follows from the weights before the epoch, the seed and the epoch."""
        if run.step == 0:
            self.make_list(run)
        return run.train if self.positions is None else Listed(run.train, self.positions.tolist())

    def make_list(self, run) -> None:
        """Make the list of this epoch, or none in the warm-up."""
        self.positions, self.kept, self.metrics = None, None, {}
        if run.epoch < self.args.warmup:
            return
        make = self.sample_level if self.args.level == "sample" else self.modality_level
        values, positions, kept = make(run)
        names, added = self.model.modalities, kept.sum(dim=0) / len(run.train)
        self.metrics["value"] = dict(zip(names, values.mean(dim=0).tolist(), strict=True))
        self.metrics["copies"] = dict(zip(names, added.tolist(), strict=True))
        everything = torch.arange(len(run.train))
        self.kept = torch.cat([torch.ones(len(run.train), len(names), dtype=torch.bool), kept]).to(run.device)
        self.positions = torch.cat([everything, positions])

    def sample_level(self, run) -> tuple[Tensor, Tensor, Tensor]:
        """Values, and the positions of the added entries with the modalities that they keep."""
        values = self.value(run, run.train)
        wanted = copies(values)
        samples, modalities = wanted.nonzero(as_tuple=True)
        times = wanted[samples, modalities]
        alone = torch.eye(wanted.shape[1], dtype=torch.bool)
        return values, samples.repeat_interleave(times), alone[modalities.repeat_interleave(times)]

    def modality_level(self, run) -> tuple[Tensor, Tensor, Tensor]:
        """Values, and the positions of the added entries with the modalities that they keep."""
        size = len(run.train)
        draws = torch.Generator().manual_seed(mix(run.args.seed, run.epoch, -2))  # -1 is the data order's
        drawn = torch.randint(size, (max(1, int(self.args.valued_share * size)),), generator=draws)
        values = self.value(run, Subset(run.train, drawn.tolist()))
        mean = values.mean(dim=0)
        top = int(mean.argmax())
        others = torch.arange(len(mean)) != top
        p = 2 / 3 * self.args.alpha * (mean[top] - mean[others].mean())
        positions = torch.randint(size, (int(p * size),), generator=draws)
        return values, positions, others.expand(len(positions), -1)

    def value(self, run, data: Dataset) -> Tensor:
        """(N, M) Shapley values: each encoder sees a sample once, the fusion once for every subset."""
        names = self.model.modalities

        def hits(batch) -> dict[str, Tensor]:
            features = self.model.encode(batch.inputs)
            correct = [torch.zeros_like(batch.target, dtype=torch.bool)]
            for s in range(1, 2 ** len(names)):
                chosen = {name: f * (s >> m & 1) for m, (name, f) in enumerate(features.items())}
                correct.append(self.model.fuse(chosen).argmax(dim=1) == batch.target)
            return {"correct": torch.stack(correct, dim=1)}

        return valued(run.collect(data, hits)["correct"])

    def modulate(self, features, batch):
        if self.kept is None:
            return features, batch.target
        kept = self.kept[batch.index]
        return {name: f * kept[:, m : m + 1] for m, (name, f) in enumerate(features.items())}, batch.target

    def on_epoch_end(self, run) -> dict:
        none = dict.fromkeys(self.model.modalities)
        return super().on_epoch_end(run) | {name: self.metrics.get(name, none) for name in ("value", "copies")}

    def state_dict(self) -> dict:
        return super().state_dict() | {"positions": self.positions, "kept": self.kept, "metrics": self.metrics}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.positions, self.kept, self.metrics = state["positions"], state["kept"], state["metrics"]
