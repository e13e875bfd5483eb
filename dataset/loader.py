"""Batches whose order and draws depend on the seed and the epoch alone.

Every random choice about a sample (frames, crops, flips) is drawn from a generator seeded by (seed, epoch, position),
so a run draws the same for any number of workers, and a resumed run what the uninterrupted one would have drawn."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler, SequentialSampler

from dataset.base import Batch, Finish, below
from dataset.workers import Loader, shared
from utils.distributed.gather import Share, rows, share
from utils.distributed.processes import world


def collate(samples: Sequence[tuple[Mapping[str, Tensor], int, int]] | Batch) -> Batch:
    """One batch of the samples (inputs, target, index), unless they are one already."""
    if isinstance(samples, Batch):
        batch = samples
    else:
        inputs = {name: torch.stack([sample[0][name] for sample in samples]) for name in samples[0][0]}
        batch = Batch(inputs, torch.tensor([s[1] for s in samples]), torch.tensor([s[2] for s in samples]))
    shared(batch.tensors)
    return batch


class Seeded(Dataset):
    """`dataset` as one epoch sees it: sample i is drawn under a random state made of (seed, epoch, i) alone."""

    def __init__(self, dataset: Dataset, seed: int, epoch: int):
        self.dataset, self.seed, self.epoch = dataset, seed, epoch
        self.draws = below(dataset)[0].draws

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int):
        # Only the CPU generator is touched: torch.manual_seed would also reset that of a CUDA device.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix(self.seed, self.epoch, position))
            return self.dataset[position]

    def __getitems__(self, positions: Sequence[int]):
        """What a loader makes a batch of."""
        return [self[position] for position in positions] if self.draws else self.dataset.__getitems__(positions)


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
    """The sizes of the batches of `count` samples.

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
) -> "Loader | Finishing | Shares":
    """A loader whose order and draws depend on (seed, epoch) alone, never on the global generator or the workers.

    It begins with batch number `first`, as if the ones before had been read.

    On several processes a batch's inputs are this process's share (utils/distributed/). The order of a data set in
    shards is one that reads them forward (dataset/storage/stream.py).

    Several workers read ahead in processes of their own; they are started anew each epoch, since the data may change.
    """
    order = torch.Generator().manual_seed(mix(seed, epoch, -1))
    base, at = below(dataset)
    plan = base.plan(at, order) if shuffle else None
    if plan:
        drawn = plan.order
    else:
        drawn = RandomSampler(dataset, generator=order) if shuffle else SequentialSampler(dataset)
    batches = Batches(drawn, sizes_of(len(dataset), batch_size, training=shuffle), first)
    own = ShareSampler(batches) if world() > 1 else batches
    seeded = Seeded(dataset, seed, epoch)
    loader = Loader(
        plan.stream(seeded, list(own)) if plan else seeded,
        batch_sampler=own,
        generator=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
    )
    if base.finish:
        loader = Finishing(loader, base.finish)
    return loader if world() == 1 else Shares(loader, batches.sizes)


class Finishing:
    """A loader's batches with what finishes them, which stays in this process: it may hold a device's memory."""

    def __init__(self, loader: Loader, finish: Finish):
        self.loader, self.finish = loader, finish

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            batch.finish = self.finish
            yield batch


class Shares:
    """The loader's batches: inputs are this process's share, target and index those of the whole batch."""

    def __init__(self, loader: Iterable, totals: Sequence[int]):
        self.loader, self.totals = loader, totals

    def __len__(self) -> int:
        return len(self.totals)

    def __iter__(self) -> Iterator:
        for batch, total in zip(self.loader, self.totals, strict=True):
            whole = rows(torch.stack([batch.target, batch.index], dim=1), total)
            batch.inputs = Share(batch.inputs, total)
            batch.target, batch.index = whole.unbind(dim=1)
            yield batch


class ShareSampler:
    """This process's part of each batch that `batches` draws."""

    def __init__(self, batches: Iterable[list[int]]):
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[share(len(batch))]

    def __len__(self) -> int:
        return len(self.batches)
