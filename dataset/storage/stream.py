"""A training epoch over tar shards: its order, and the stream that reads the shards forward in that order.

Shards are taken in a drawn order and their clips pass through a window of --shuffle_buffer samples. The epoch is
planned from the index alone before it begins, so it depends on neither workers nor processes. Each of them reads the
bytes of its own samples only and holds what the window holds of them.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch.utils.data import Dataset, get_worker_info

from dataset.storage.index import Place


class Reader(Protocol):
    """The shards of a split, as dataset/storage/shards.py reads them."""

    buffer: int  # samples in the window
    shard_count: int
    places: Sequence[Place]  # of each clip of the split

    def read(self, clip: int) -> bytes:
        """The bytes of a clip in its shard."""

    def use(self, clip: int, raw: bytes) -> None:
        """Decode the clip from these bytes when it is asked for next."""


class Plan:
    """An epoch over the clips `at`, numbers in the split that may repeat, as `generator` draws it.

    order: the positions in `at`, in the order of training. reading: the clips, each once, in the order of the shards.
    """

    def __init__(self, reader: Reader, at: Sequence[int], generator: torch.Generator):
        import webdataset  # here, since folders do without

        self.reader, self.at = reader, at
        rank = torch.randperm(reader.shard_count, generator=generator).tolist()
        places = reader.places
        stored = sorted(range(len(at)), key=lambda i: (rank[places[at[i]].shard], places[at[i]].offset))
        self.reading = list(dict.fromkeys(at[i] for i in stored))
        draws = random.Random(int(torch.randint(2**62, (), generator=generator)))
        through_window = webdataset.shuffle(reader.buffer, initial=reader.buffer, rng=draws)
        self.order = list(through_window(iter(stored)))

    def stream(self, data: Dataset, batches: Sequence[Sequence[int]]) -> "Stream":
        """`data`, read as `batches` will ask for it."""
        return Stream(data, self, batches)


class Stream(Dataset):
    """`data`, whose samples are asked for as `batches` say; each clip is read when the plan comes to it.

    A loader's worker reads what its own batches want; batches are dealt to the workers in turn. A clip that is asked
    for once more than the batches say is read at once, so that no sample depends on the plan.
    """

    def __init__(self, data: Dataset, plan: Plan, batches: Sequence[Sequence[int]]):
        self.data, self.plan, self.batches = data, plan, batches
        self.uses: Counter[int] | None = None  # how often each clip is yet to be asked for
        self.coming: Iterable[int] = ()  # the clips that are yet to be read
        self.held: dict[int, bytes] = {}  # clips that have been read and will be asked for again

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: int):
        clip = self.plan.at[position]
        self.plan.reader.use(clip, self.take(clip))
        return self.data[position]

    def take(self, clip: int) -> bytes:
        """The bytes of a clip; reads forward until it comes."""
        if self.uses is None:
            self.start()
        if not self.uses[clip]:
            return self.plan.reader.read(clip)
        while clip not in self.held:
            following = next(self.coming)
            self.held[following] = self.plan.reader.read(following)
        self.uses[clip] -= 1
        return self.held[clip] if self.uses[clip] else self.held.pop(clip)

    def start(self) -> None:
        """Count what will be asked for; in the process that reads, which alone knows its own batches."""
        worker = get_worker_info()
        batches = self.batches[worker.id :: worker.num_workers] if worker else self.batches
        uses = Counter(self.plan.at[position] for batch in batches for position in batch)
        self.uses, self.coming = uses, iter([clip for clip in self.plan.reading if uses[clip]])
