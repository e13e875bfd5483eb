"""What a method may see of its run."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.base import Batch
from dataset.loader import Shares, make_loader
from models.multimodal import MultimodalModel
from utils.stopping import stop_if_asked


@dataclass
class Run:
    """The state of one training run. There is no test set in it: a method cannot peek.

    `plain` is `train` without augmentation, for a method that withholds a share (`held_out`) to compare it with.
    """

    args: Namespace
    model: MultimodalModel
    optimizer: torch.optim.Optimizer
    train: Dataset
    held_out: Dataset | None
    val: Dataset | None
    device: torch.device
    epoch: int = 0
    plain: Dataset | None = None
    step: int = 0  # of this epoch, with which training begins: above 0 where a run goes on within an epoch

    def collect(self, data: Dataset, fn: Callable[[Batch], dict[str, Tensor]]) -> dict[str, Tensor]:
        """`fn` of every batch of `data` in evaluation mode, concatenated in the order of `data`, on the CPU."""
        return collect(self.model, self.loader(data, shuffle=False), self.device, fn)

    def loader(self, data: Dataset, shuffle: bool = True, first: int = 0) -> DataLoader | Shares:
        """Batches of `data` in this epoch's order, which is the same for every method; without the `first` ones."""
        args = self.args
        return make_loader(
            data, args.batch_size, args.workers, args.seed, self.epoch, shuffle, self.device.type == "cuda", first
        )


@torch.no_grad()
def collect(
    model: torch.nn.Module, loader: DataLoader, device: torch.device, fn: Callable[[Batch], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """`fn` of every batch in evaluation mode, concatenated over the samples, on the CPU.

    Leaves the model in the mode that it was in. One synchronisation, at the end.

    Raises:
        Stopped: if the run has been sent a signal meanwhile.
    """
    was_training, parts = model.training, []
    model.eval()
    try:
        for batch in loader:
            parts.append(fn(batch.to(device)))
            stop_if_asked()
    finally:
        model.train(was_training)
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
