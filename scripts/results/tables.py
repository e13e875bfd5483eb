"""Tables of experiments: what a row is, which values are marked, what is said beside them."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from scripts.results.render import Cell, escape, render
from scripts.results.significance import interval, samples_test, seeds_test
from utils.files import make_folder, write_atomically

RULES = {
    "last": "the last epoch",
    "val": "the epoch that the validation split selects",
    "oracle": "the best test epoch, which looks at the test set",
}
DOES_NOT_APPLY = "-"
MARKS = "Bold: the best of the rows with all seeds that are no controls; underlined: the second best; ties alike."
PAPER = "Paper: its value and, in brackets, ours minus it; its rule is oracle, the best test epoch."
TESTS = (
    "p (seeds) of a paired t test over seeds, p (samples) of an exact sign test over test samples; not corrected for "
    "the number of rows."
)


@dataclass(frozen=True)
class Line:
    """A row of a table: what each of its seeds has measured, or why it has not."""

    label: str
    metrics: Mapping[int, Mapping[str, float]]  # {seed: {column: in %}}
    empty: Mapping[int, str] = field(default_factory=dict)  # {seed: why it has none, a word or "word: more"}
    correct: Mapping[int, np.ndarray] = field(default_factory=dict)  # {seed: (N,) bool, whether a test sample is right}
    paper: Mapping[str, float] = field(default_factory=dict)
    control: bool = False
    against: "Line | None" = None  # joint training

    def values(self, column: str) -> list[float]:
        """The metric of each seed that has it."""
        return [metrics[column] for metrics in self.metrics.values() if column in metrics]

    def mean(self, column: str) -> float | None:
        """The mean over seeds; None without any."""
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def deviation(self, column: str) -> float | None:
        """The sample standard deviation over seeds; None for a single one."""
        values = self.values(column)
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
        return seeds_test(*([line.metrics[seed][column] for seed in seeds] for line in (self, self.against)))

    @cached_property
    def p_samples(self) -> float | None:
        """p of the sign test of the fused predictions against joint training's, over test samples."""
        if self.against is None:
            return None
        ours, theirs = (line.stacked(self._shared()) for line in (self, self.against))
        return None if ours is None or theirs is None else samples_test(ours, theirs)

    def _shared(self) -> list[int]:
        return [seed for seed in self.metrics if seed in self.against.metrics]


@dataclass(frozen=True)
class Table:
    """The rows of an experiment on a data set, by one rule of selection."""

    name: str
    title: str
    dataset: str
    rule: str
    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    warnings: tuple[str, ...] = ()

    @property
    def samples(self) -> int | None:
        """The size of the test split; None where no run has kept its predictions."""
        return next((len(correct) for line in self.lines for correct in line.correct.values()), None)

    @property
    def compares(self) -> bool:
        """Whether intervals and tests are shown: they belong to the fused prediction."""
        return "accuracy" in self.columns

    @property
    def references(self) -> list[str]:
        """The labels of the rows with which others are compared."""
        return list(dict.fromkeys(line.against.label for line in self.lines if line.against))

    def marks(self, column: str) -> list[str]:
        """ "best", "second" or "" for each line. Comparable are the lines with all seeds that are no controls.

        Lines that show the same value are marked alike.
        """
        shown = [
            None if line.control or len(line.values(column)) < len(self.seeds) else f"{line.mean(column):.1f}"
            for line in self.lines
        ]
        ranked = sorted({value for value in shown if value is not None}, key=float, reverse=True)
        if sum(value is not None for value in shown) < 2:
            return [""] * len(shown)
        names = dict(zip(ranked, ("best", "second"), strict=False))
        return [names.get(value, "") for value in shown]


def grid(table: Table) -> tuple[list[str], list[list[Cell]]]:
    """The header and the rows, as Markdown and LaTeX show them."""
    has_paper = {column: any(column in line.paper for line in table.lines) for column in table.columns}
    header = ["", "seeds"]
    for column in table.columns:
        header += [column, f"{column}, paper"] if has_paper[column] else [column]
    if table.compares:
        header += ["95% interval", *(["against"] if len(table.references) > 1 else []), "p (seeds)", "p (samples)"]
    marks = {column: table.marks(column) for column in table.columns}
    rows = []
    for number, line in enumerate(table.lines):
        done, wanted = len(line.metrics), len(table.seeds)
        row = [Cell(line.label), Cell(str(done) if done == wanted else f"{done} of {wanted}")]
        for column in table.columns:
            row.append(Cell(measured(line, column), marks[column][number]))
            if has_paper[column]:
                row.append(Cell(published(line, column)))
        if table.compares:
            row.append(Cell("{:.1f} to {:.1f}".format(*line.interval) if line.interval else DOES_NOT_APPLY))
            if len(table.references) > 1:
                row.append(Cell(line.against.label if line.against else DOES_NOT_APPLY))
            row += [Cell(probability(line.p_seeds("accuracy"))), Cell(probability(line.p_samples))]
        rows.append(row)
    return header, rows


def measured(line: Line, column: str) -> str:
    """Mean and deviation; without any seed the reasons in a word each."""
    mean, deviation = line.mean(column), line.deviation(column)
    if not line.metrics:
        return ", ".join(dict.fromkeys(why.split(":")[0] for why in line.empty.values()))
    if mean is None:
        return DOES_NOT_APPLY
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} +- {deviation:.1f}"


def published(line: Line, column: str) -> str:
    """The paper's value and, in brackets, ours minus it."""
    if column not in line.paper:
        return DOES_NOT_APPLY
    mean = line.mean(column)
    return f"{line.paper[column]:.2f}" + ("" if mean is None else f" ({mean - line.paper[column]:+.1f})")


def probability(p: float | None) -> str:
    """A p value with three digits."""
    return DOES_NOT_APPLY if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def heading(table: Table) -> str:
    """A sentence that says what the numbers are: the rule, the seeds, the samples."""
    several = len(table.seeds) > 1
    seeds = f"{len(table.seeds)} seeds ({', '.join(map(str, table.seeds))}), mean +- standard deviation"
    one = f"1 seed ({table.seeds[0]}), so without a standard deviation and a test over seeds"
    samples = f"{table.samples} test samples" if table.samples else "test samples not counted (no predictions)"
    return f"Test metrics in %, rule {table.rule}: {RULES[table.rule]}; {seeds if several else one}; {samples}."


def legend(table: Table) -> list[str]:
    """How to read the table, and what is missing from it."""
    lines = [MARKS]
    if any(line.paper for line in table.lines):
        lines.append(PAPER)
    else:
        lines.append(f"The paper has no values for these rows on {table.dataset}.")
    if table.compares:
        drawn = "test samples and seeds" if len(table.seeds) > 1 else "test samples"
        against = f"Against {table.references[0]}" if len(table.references) == 1 else "Against the row named"
        lines += [
            f"95% interval: of the accuracy, by a bootstrap over {drawn}.",
            f"{against}: {TESTS}",
        ]
        if any(line.interval and line.interval[0] == line.interval[1] for line in table.lines):
            lines.append(
                f"An interval of no width is that of models without an error on {table.samples} samples; an error rate "
                f"of up to {300 / table.samples:.1f}% is compatible with that."
            )
    lines += starved(table)
    lines.append(f"A dash ({DOES_NOT_APPLY}): does not apply.")
    missing: dict[str, list[str]] = defaultdict(list)
    for line in table.lines:
        for why in dict.fromkeys(line.empty.values()):
            missing[why].append(f"{line.label} ({', '.join(str(s) for s in line.empty if line.empty[s] == why)})")
    lines += [f"{why}; rows (seeds): {', '.join(rows)}" for why, rows in missing.items()]
    return lines + [f"Warning: {warning}" for warning in table.warnings]


def starved(table: Table) -> list[str]:
    """A sentence on each reference: which read-out leads, and how far each is below what its modality reaches alone."""
    alone = {}
    for line in table.lines:
        name = line.label.removesuffix(" alone")
        if line.control and name in table.columns:
            alone[name] = line.mean(name)
    sentences = []
    for line in table.lines:
        reached = {name: line.mean(name) for name in alone}
        if line.label in table.references and len(alone) > 1 and None not in (*reached.values(), *alone.values()):
            first, last = max(reached, key=reached.get), min(reached, key=reached.get)
            below = ", ".join(f"{name} {alone[name] - value:.1f}" for name, value in reached.items())
            sentences.append(
                f"{line.label}: {first} is {reached[first] - reached[last]:.1f} points ahead of {last}; points below "
                f"what each reaches alone: {below}."
            )
    return sentences


def markdown(table: Table) -> str:
    """The table between its title and its legend."""
    title, notes = f"{table.title}, {table.dataset}", "".join(f"- {escape(line, 'md')}\n" for line in legend(table))
    return f"### {escape(title, 'md')}\n\n{escape(heading(table), 'md')}\n\n{render(*grid(table), 'md')}\n{notes}"


def latex(table: Table) -> str:
    """The legend stands in comments before the table."""
    caption = f"{table.title}, {table.dataset}. {heading(table)}"
    return "".join(f"% {line}\n" for line in legend(table)) + render(*grid(table), "tex", caption)


def as_csv(table: Table) -> str:
    """One line a row and column, in full precision; what does not apply is empty."""
    header = (
        "experiment dataset rule row control column seeds values mean deviation paper difference mark empty "
        "low high against p_seeds p_samples samples".split()
    )
    rows = []
    for column in table.columns:
        for line, mark in zip(table.lines, table.marks(column), strict=True):
            mean, paper = line.mean(column), line.paper.get(column)
            fused = column == "accuracy"
            seeds = [seed for seed, metrics in line.metrics.items() if column in metrics]
            rows.append(
                [
                    table.name, table.dataset, table.rule, line.label, int(line.control), column,
                    " ".join(map(str, seeds)), " ".join(map(repr, line.values(column))),
                    mean, line.deviation(column), paper, None if mean is None or paper is None else mean - paper, mark,
                    "; ".join(f"seed {seed}: {why}" for seed, why in line.empty.items()),
                    *(line.interval if fused and line.interval else (None, None)),
                    line.against.label if line.against else None, line.p_seeds(column),
                    line.p_samples if fused else None, table.samples,
                ]
            )  # fmt: skip
    return render(header, rows, "csv")


def write(table: Table, folder: Path) -> Path:
    """Write <folder>/<name>_<data set>.md, .tex and .csv; returns the first. A rule that is not `last` is in the name.

    Raises:
        RunError: if they cannot be written.
    """
    name = f"{table.name}_{table.dataset}" + ("" if table.rule == "last" else f"_{table.rule}")
    make_folder(folder)
    for ending, text in (("md", markdown(table)), ("tex", latex(table)), ("csv", as_csv(table))):
        write_atomically(folder / f"{name}.{ending}", text)
    return folder / f"{name}.md"
