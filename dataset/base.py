"""What every data set shares: the batch, the strict split reader, and the loader whose draws depend on nothing else.

Every random choice about a sample (frames, crops, flips) is drawn from a generator seeded by (seed, epoch, position),
so a run draws the same for any number of workers, and a resumed run what the uninterrupted one would have drawn.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, Subset

from utils.distributed import Share, Shares, ShareSampler, world
from utils.errors import DataError
from utils.stopping import ignore


@dataclass
class Batch:
    """inputs: {modality: (B, ...)}; target: (B,) class numbers; index: (B,) positions in the data set that is read.

    `finish` makes the inputs, on the device that they have come to, of what the data set has given instead (its draws).
    """

    inputs: dict[str, Tensor]
    target: Tensor
    index: Tensor
    finish: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None

    def to(self, device: torch.device) -> "Batch":
        inputs = {name: x.to(device, non_blocking=True) for name, x in self.inputs.items()}
        if self.finish:
            inputs = self.finish(inputs)
        if isinstance(self.inputs, Share):
            inputs = Share(inputs, self.inputs.total)
        return Batch(inputs, self.target.to(device, non_blocking=True), self.index.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        inputs = {name: x.pin_memory() for name, x in self.inputs.items()}
        return Batch(inputs, self.target.pin_memory(), self.index.pin_memory())

    def __len__(self) -> int:
        return len(self.target)


@dataclass
class Splits:
    """What `dataset.build` returns. `held_out` and `val` come out of the training split, or are None.

    `val` may also be the data set's own validation split.

    `plain` is `train`, sample for sample, without augmentation: what `held_out` may be compared with. None without it.
    """

    train: Dataset
    plain: Dataset | None
    held_out: Dataset | None
    val: Dataset | None
    test: Dataset
    classes: Sequence[str]


def collate(samples: Sequence[tuple[Mapping[str, Tensor], int, int]]) -> Batch:
    inputs = {name: torch.stack([sample[0][name] for sample in samples]) for name in samples[0][0]}
    return Batch(inputs, torch.tensor([s[1] for s in samples]), torch.tensor([s[2] for s in samples]))


def list_names(names: Sequence[str], limit: int = 5) -> str:
    """'3: a, b, c' or '12: a, b, c, d, e, ...': the count and the first names, for error messages."""
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{len(names)}: {shown}{', ...' if len(names) > limit else ''}"


def read_split(path: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Read rows `clip,label` into [(clip, class number)]; anything else in the file is an error.

    Raises:
        DataError: missing or empty file, a row without exactly two fields, an unknown label, a clip named twice, or a
            clip name that would lead out of the data folder.
    """
    if not path.is_file():
        raise DataError(f"split file {path} does not exist: prepare the data (data/README.md) or set --data_root")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a UTF-8 CSV file ({error}): write it again") from None
    if not rows:
        raise DataError(f"split file {path} is empty: prepare the data again (data/README.md)")
    malformed = [f"line {number}" for number, row in rows if len(row) != 2 or not row[0].strip()]
    if malformed:
        raise DataError(f"{path}: rows must be `clip,label`; not so in {list_names(malformed)}")
    number_of = {label: number for number, label in enumerate(classes)}
    unknown = sorted({row[1].strip() for _, row in rows} - set(number_of))
    if unknown:
        raise DataError(f"{path}: unknown labels, {list_names(unknown)}; the classes are {', '.join(classes)}")
    clips = [row[0].strip() for _, row in rows]
    outside = [clip for clip in clips if "/" in clip or "\\" in clip or "\0" in clip or clip in (".", "..")]
    if outside:
        raise DataError(f"{path}: clip names must be plain names without a path, {list_names(outside)}")
    repeated = [clip for clip, count in Counter(clips).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: clips named more than once, {list_names(repeated)}")
    return [(clip, number_of[row[1].strip()]) for clip, (_, row) in zip(clips, rows, strict=True)]


def check_disjoint(train: Sequence[tuple[str, int]], test: Sequence[tuple[str, int]], where: Path) -> None:
    """Raises DataError when a clip stands in both splits."""
    in_training = {clip for clip, _ in train}
    both = [clip for clip, _ in test if clip in in_training]
    if both:
        raise DataError(f"{where}: clips in both train and test, {list_names(both)}; remove them from one of the files")


def split_off(targets: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Stratified (kept, withheld) positions; the withheld share is `fraction` of every class, as near as counts allow.

    Raises:
        DataError: if a class is too small to stand in both parts.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
    try:
        kept, withheld = next(splitter.split(list(targets), list(targets)))
    except ValueError as error:
        raise DataError(
            f"cannot withhold a stratified {fraction:g} of {len(targets)} training samples: {error}"
        ) from None
    return sorted(kept.tolist()), sorted(withheld.tolist())


class Seeded(Dataset):
    """`dataset` as one epoch sees it: sample i is drawn under a random state made of (seed, epoch, i) alone."""

    def __init__(self, dataset: Dataset, seed: int, epoch: int):
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int):
        # Only the CPU generator is touched: torch.manual_seed would also reset that of a CUDA device.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix(self.seed, self.epoch, position))
            return self.dataset[position]


def mix(*numbers: int) -> int:
    """A 63-bit seed from small integers, spread so that neighbouring epochs and positions share nothing."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number + 0x632BE59BD9B4E019)) * 0xBF58476D1CE4E5B9 % 2**64
        state ^= state >> 31
    return state >> 1


class Batches:
    """Positions in the order that `drawn` gives them, in batches of these `sizes`, without the `first` of them."""

    def __init__(self, drawn: Iterable[int], sizes: Sequence[int], first: int = 0):
        self.drawn, self.skipped, self.sizes = drawn, sum(sizes[:first]), sizes[first:]

    def __iter__(self) -> Iterator[list[int]]:
        positions = islice(self.drawn, self.skipped, None)
        for size in self.sizes:
            yield list(islice(positions, size))

    def __len__(self) -> int:
        return len(self.sizes)


def sizes_of(count: int, batch_size: int, training: bool) -> list[int]:
    """Of the batches of `count` samples.

    In training a last one of one sample joins the one before: batch normalisation finds nothing to normalise in it.
    """
    sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
    if training and batch_size > 1 and len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


def make_loader(
    dataset: Dataset,
    batch_size: int,
    workers: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    pin: bool = False,
    first: int = 0,
) -> "DataLoader | Finishing | Shares":
    """A loader whose order and draws depend on (seed, epoch) alone, never on the global generator or the workers.

    It begins with batch number `first`, as if the ones before had been read.

    On several processes a batch's inputs are this process's share (utils/distributed.py). The order of a data set in
    shards is one that reads them forward (dataset/shards.py).

    Several workers read ahead in processes of their own; they are started anew each epoch, since the data may change.
    """
    order = torch.Generator().manual_seed(mix(seed, epoch, -1))
    base, at = below(dataset)
    plan = base.shards.plan(at, order) if shuffle and getattr(base, "shards", None) else None
    if plan:
        drawn = plan.order
    else:
        drawn = RandomSampler(dataset, generator=order) if shuffle else SequentialSampler(dataset)
    batches = Batches(drawn, sizes_of(len(dataset), batch_size, training=shuffle), first)
    own = ShareSampler(batches) if world() > 1 else batches
    seeded = Seeded(dataset, seed, epoch)
    loader = DataLoader(
        plan.stream(seeded, list(own)) if plan else seeded,
        batch_sampler=own,
        generator=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=ignore,
    )
    if finish := getattr(base, "finish", None):
        loader = Finishing(loader, finish)
    return loader if world() == 1 else Shares(loader, batches.sizes)


class Finishing:
    """A loader's batches with what finishes them, which stays in this process: it may hold a device's memory."""

    def __init__(self, loader: DataLoader, finish: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]):
        self.loader, self.finish = loader, finish

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            batch.finish = self.finish
            yield batch


def below(dataset: Dataset) -> tuple[Dataset, Sequence[int]]:
    """The data set below all Subsets, and the places in it of the samples that these leave."""
    if isinstance(dataset, Subset):
        base, at = below(dataset.dataset)
        return base, [at[i] for i in dataset.indices]
    return dataset, range(len(dataset))


def targets_of(dataset: Dataset) -> list[int]:
    """Class numbers of a data set without reading its files (a Subset asks the data set below it)."""
    base, at = below(dataset)
    return [base.targets[i] for i in at]
