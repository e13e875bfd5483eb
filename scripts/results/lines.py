"""A row of a table: what the seeds of one setting have measured, and how it compares with another row."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from scripts.results.significance import interval, samples_test, seeds_test


@dataclass(frozen=True)
class Line:
    """A row of a table: what each of its seeds has measured, or why it has not."""

    label: str
    metrics: Mapping[int, Mapping[str, float | str]]  # {seed: {column: in %, or words}}
    empty: Mapping[int, str] = field(default_factory=dict)  # {seed: why it has none, a word or "word: more"}
    correct: Mapping[int, np.ndarray] = field(default_factory=dict)  # {seed: (N,) bool, whether a test sample is right}
    paper: Mapping[str, float] = field(default_factory=dict)
    control: bool = False
    against: "Line | None" = None  # joint training

    def values(self, column: str) -> list[float | str]:
        """The metric of each seed that has it."""
        return [metrics[column] for metrics in self.metrics.values() if column in metrics]

    def numbers(self, column: str) -> list[float]:
        """`values`, without words."""
        return [value for value in self.values(column) if not isinstance(value, str)]

    def mean(self, column: str) -> float | None:
        """The mean over seeds; None without any."""
        values = self.numbers(column)
        return statistics.fmean(values) if values else None

    def deviation(self, column: str) -> float | None:
        """The sample standard deviation over seeds; None for a single one."""
        values = self.numbers(column)
        return statistics.stdev(values) if len(values) > 1 else None

    def stacked(self, seeds: Sequence[int]) -> np.ndarray | None:
        """(S, N) bool of these seeds; None where the predictions of one are not known."""
        known = seeds and all(seed in self.correct for seed in seeds)
        return np.stack([self.correct[seed] for seed in seeds]) if known else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Bootstrap interval of the accuracy, in %."""
        correct = self.stacked(list(self.metrics))
        return None if correct is None else tuple(100 * end for end in interval(correct))

    def p_seeds(self, column: str) -> float | None:
        """p of the paired t test against joint training, over the seeds that both have."""
        if self.against is None:
            return None
        seeds = [seed for seed in self._shared() if column in self.metrics[seed]]
        seeds = [seed for seed in seeds if column in self.against.metrics[seed]]
        if any(isinstance(self.metrics[seed][column], str) for seed in seeds):
            return None
        return seeds_test(*([line.metrics[seed][column] for seed in seeds] for line in (self, self.against)))

    @cached_property
    def p_samples(self) -> float | None:
        """p of the sign test of the fused predictions against joint training's, over test samples."""
        if self.against is None:
            return None
        ours, theirs = (line.stacked(self._shared()) for line in (self, self.against))
        return None if ours is None or theirs is None else samples_test(ours, theirs)

    @cached_property
    def difference(self) -> tuple[float, float, float] | None:
        """The accuracy less that of the row it is compared with, and its bootstrap interval, in points."""
        if self.against is None:
            return None
        ours, theirs = (line.stacked(self._shared()) for line in (self, self.against))
        if ours is None or theirs is None:
            return None
        apart = ours.astype(int) - theirs
        return 100 * float(apart.mean()), *(100 * end for end in interval(apart))

    def _shared(self) -> list[int]:
        return [seed for seed in self.metrics if seed in self.against.metrics]
