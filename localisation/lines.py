"""What is shown of a stage while it trains: a line an epoch."""

from engine.progress import AGAIN, loss_of
from utils.runs.history import Epoch

COUNTED = ("pairs", "audio", "visual")  # of the training clips
LEGEND = "in %: frames told apart by l, clusters named by each modality; NMI of clusters and categories; test metrics"


class StageLines:
    """The epochs of a stage as lines of a table, counted from 1; `measured` are the names of the test metrics."""

    def __init__(self, epochs: int, measured: tuple[str, ...]):
        self.epochs, self.measured, self.shown = epochs, measured, 0

    def of(self, epoch: Epoch, seconds: float) -> list[str]:
        """The line of an epoch that took so many seconds, below the header where it is time for one."""
        values = {name: epoch.train.get(name) for name in COUNTED}
        values |= {"NMI": epoch.method.get("clusters", {}).get("NMI")}
        values |= {name: epoch.evaluated["test"].get(name) for name in self.measured}
        width = max(len("epoch"), len(f"{self.epochs}/{self.epochs}"))
        cells = [
            f"{'' if value is None else f'{100 * value:.1f}':>{max(6, len(name))}}" for name, value in values.items()
        ]
        counted = f"{epoch.epoch + 1}/{self.epochs}"
        lines = ["  ".join([f"{counted:>{width}}", f"{loss_of(epoch.train['loss']):>7}", *cells, f"{seconds:5.0f}"])]
        if self.shown % AGAIN == 0:
            titles = [f"{name:>{max(6, len(name))}}" for name in values]
            header = "  ".join([f"{'epoch':>{width}}", f"{'loss':>7}", *titles, f"{'s':>5}"])
            lines = [*([] if self.shown else [LEGEND]), header, *lines]
        self.shown += 1
        return lines
