"""What is shown of a run while it trains: a bar, a table with a line per epoch, and TensorBoard's scalars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils.runs.folder import RunFolder
from utils.runs.history import Epoch

WIDTH = 100  # columns of a terminal that every line fits
AGAIN = 25  # epochs after which the table's header is repeated
NUMBER = len("100.0")
LEGEND = "accuracies in %: fused below a split's name, then by modality; *: the prime learning window is open"


@dataclass(frozen=True)
class Column:
    """A split's accuracy: fused, or that of a modality. `space` is what stands before and after its number."""

    split: str
    modality: str | None

    @property
    def title(self) -> str:
        """What stands above the column."""
        return self.modality or self.split

    @property
    def space(self) -> tuple[str, str]:
        """What stands before and after the number: a mark of an open window has its place there."""
        marked = self.modality is not None and self.split == "train"
        return " " if self.modality else "  ", " " if marked else ""


class Lines:
    """The epochs of a run as the lines of a table that is WIDTH columns wide at most, counted from 1.

    Names that are too long are cut. What finds no room even so is left out, the accuracies of single modalities on the
    validation split first, then on the training split: metrics.jsonl has all.
    """

    def __init__(self, epochs: int):
        self.epochs, self.shown = epochs, 0

    def of(self, epoch: Epoch, seconds: float) -> list[str]:
        """The line of an epoch that took so many seconds, below the header where it is time for one."""
        modalities = list(epoch.method["prime_window"])
        ends = self._line(f"{epoch.epoch + 1}/{self.epochs}", loss_of(epoch.train["loss"])), f"{seconds:7.0f}"
        columns, longest = layout(["train", *epoch.evaluated], modalities, WIDTH - sum(map(len, ends)))
        means = {"train": epoch.train} | epoch.evaluated
        cells = []
        for column in columns:
            value = 100 * means[column.split][column.modality or "accuracy"]
            before, after = column.space
            after = "*" if after and epoch.method["prime_window"][column.modality] else after
            cells.append(f"{before}{value:{width_of(column, longest)}.1f}{after}")
        lines = ["".join([ends[0], *cells, ends[1]])]
        if self.shown % AGAIN == 0:
            names = cut(list(dict.fromkeys(column.title for column in columns)), longest)
            titles = [f"{names[c.title]:>{width_of(c, longest)}}".join(c.space) for c in columns]
            header = "".join([self._line("epoch", "loss"), *titles, f"{'s':>7}"])
            lines = [*([] if self.shown else [LEGEND]), header, *lines]
        self.shown += 1
        return lines

    def _line(self, epoch: str, loss: str) -> str:
        width = max(len("epoch"), len(f"{self.epochs}/{self.epochs}"))
        return f"{epoch:>{width}} {loss:>7}"


def layout(splits: Sequence[str], modalities: Sequence[str], room: int) -> tuple[list[Column], int]:
    """The columns that fit into `room`, and how long their titles may be."""
    without: set[str] = set()  # splits of which the modalities are left out
    for dropped in (None, "val", "train", "test"):
        without |= {dropped}
        columns = [Column(split, name) for split in splits for name in (None, *modalities)]
        columns = [column for column in columns if not column.modality or column.split not in without]
        for longest in range(max(map(len, ("train", *modalities))), NUMBER - 1, -1):
            if sum(width_of(column, longest) + len("".join(column.space)) for column in columns) <= room:
                return columns, longest
    return columns, NUMBER


def width_of(column: Column, longest: int) -> int:
    """Of a column's numbers and its title, which is cut to `longest`."""
    return max(NUMBER, min(len(column.title), longest))


def cut(names: Sequence[str], longest: int) -> dict[str, str]:
    """Names of at most so many signs: their beginnings where these differ, else beginning, ~ and end."""
    beginnings = {name: name[:longest] for name in names}
    if len(set(beginnings.values())) == len(names) or longest < 3:
        return beginnings
    last = (longest - 1) // 2
    ends = {name: f"{name[: longest - 1 - last]}~{name[-last:]}" for name in names if len(name) > longest}
    return beginnings | ends


def loss_of(value: float) -> str:
    """A loss in at most seven signs."""
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.1e}"


def bar_of(label: str, total: int) -> dict:
    """An epoch's bar of `total` steps, as tqdm takes it: as wide at the first step as at the last."""
    counts = f"{{n_fmt:>{len(str(total))}}}/{{total_fmt}}"
    form = f"{{desc}} |{{bar:8}}| {counts} {{elapsed}}<{{remaining}}{{postfix}}"
    return {"desc": label, "total": total, "bar_format": form}


def glimpse(means: Mapping[str, float], label: str, total: int) -> str:
    """The means of an epoch so far, beside its bar: the loss, and in % the accuracies, fused and of each modality.

    Whatever the numbers are, they take the same columns. What finds no room is left out.
    """
    longest_time = "9:59:59"
    others = bar_of(label, total)["bar_format"].format(
        desc=label, bar="", n_fmt="", total_fmt=total, elapsed=longest_time, remaining=longest_time, postfix=", "
    )
    parts = [f"loss {means['loss']:6.2f}"] if "loss" in means else []
    names = {
        name: "fused" if name == "accuracy" else name
        for name in means
        if name != "loss" and not name.startswith("loss_")
    }
    for longest in range(max(map(len, names.values()), default=0), 1, -1):
        titles = cut(list(names.values()), longest)
        text = " ".join([*parts, *(f"{titles[title]} {means[name]:4.0%}" for name, title in names.items())])
        if len(others + text) <= WIDTH:
            return text
    return " ".join([*parts, *([f"fused {means['accuracy']:4.0%}"] if "accuracy" in means else [])])


class Scalars:
    """TensorBoard's events in the run's folder, its steps the epochs counted from 1.

    What an interrupted run wrote of epoch number `first` (from 0) and later ones is hidden.
    """

    def __init__(self, folder: RunFolder, first: int):
        from torch.utils.tensorboard import SummaryWriter  # here, since it takes a second to load

        self._writer = SummaryWriter(folder.path, purge_step=first + 1) if folder.writes else None

    def write(self, epoch: Epoch, seconds: float) -> None:
        """Add every number of an epoch, as <group>/<name>."""
        if self._writer is None:
            return
        at = epoch.epoch + 1
        for group, values in epoch.line().items():
            for name, value in values.items() if isinstance(values, dict) else [("", values)]:
                if value is not None and group != "epoch":
                    self._writer.add_scalar(f"{group}/{name}" if name else group, float(value), at)
        self._writer.add_scalar("seconds", seconds, at)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._writer is not None:
            self._writer.close()
