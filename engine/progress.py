"""What is shown of a run while it trains: a line per epoch, and TensorBoard's scalars."""

from utils.runs.folder import RunFolder
from utils.runs.history import Epoch


def describe(epoch: Epoch) -> str:
    """An epoch in one line: the loss, then accuracies, fused and of each modality."""
    parts = [f"loss {epoch.train['loss']:.3f}"]
    for split, means in ({"train": epoch.train} | epoch.evaluated).items():
        accuracies = {"fused": means["accuracy"]} | {name: means[name] for name in epoch.method["fisher_trace"]}
        parts.append(f"{split}: " + " ".join(f"{name} {value:.1%}" for name, value in accuracies.items()))
    opened = [name for name, is_open in epoch.method["prime_window"].items() if is_open]
    return "  ".join(parts) + (f"  window open: {' '.join(opened)}" if opened else "")


class Scalars:
    """TensorBoard's events in the run's folder; what an interrupted run wrote from epoch `first` on is hidden."""

    def __init__(self, folder: RunFolder, first: int):
        from torch.utils.tensorboard import SummaryWriter  # here, since it takes a second to load

        self._writer = SummaryWriter(folder.path, purge_step=first) if folder.writes else None

    def write(self, epoch: Epoch, seconds: float) -> None:
        """Add every number of an epoch, as <group>/<name>."""
        if self._writer is None:
            return
        for group, values in epoch.line().items():
            for name, value in values.items() if isinstance(values, dict) else [("", values)]:
                if value is not None and group != "epoch":
                    self._writer.add_scalar(f"{group}/{name}" if name else group, float(value), epoch.epoch)
        self._writer.add_scalar("seconds", seconds, epoch.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._writer is not None:
            self._writer.close()
