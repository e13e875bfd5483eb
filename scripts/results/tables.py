"""Tables of experiments: what a row is, which values are marked, what is said beside them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.results.columns import higher_is_better
from scripts.results.lines import Line
from scripts.results.render import Cell, escape, render
from utils.errors import RunError
from utils.files import make_folder, write_atomically

RULES = {
    "last": "the last epoch",
    "val": "the epoch that the validation split selects",
    "oracle": "the best test epoch, which looks at the test set",
}
DOES_NOT_APPLY = "-"
TIE = "A tie: one standard deviation over seeds (the larger of the two), or one test sample if that is more."
MARKS = (
    "Bold: the best of the rows with all seeds that are no controls; underlined: the second best; each only where it "
    f"is ahead of the next by more than a tie. {TIE}"
)
UNMARKED = f"No row is the best: of those with all seeds, controls aside, none leads the next by more than a tie. {TIE}"
PAPER = "Paper: its value and, in brackets, ours minus it; its rule is oracle, the best test epoch."
TESTS = (
    "p (seeds) of a paired t test over seeds, p (samples) of an exact sign test over test samples; not corrected for "
    "the number of rows."
)


@dataclass(frozen=True)
class Table:
    """The rows of an experiment, or of a folder, on a data set, by one rule of selection."""

    name: str  # of the experiment; "" for a folder
    title: str
    dataset: str
    rule: str
    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    warnings: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()  # the names of the columns to show, in this order; without any, what there is to say
    notes: tuple[str, ...] = ()  # of its own, for below the table

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
        """ "best", "second" or "" for each line. Comparable are the lines with all seeds that are no controls."""
        comparable = [
            k
            for k, line in enumerate(self.lines)
            if not line.control and len(line.numbers(column)) == len(self.seeds) and higher_is_better(column)
        ]
        ranked = sorted(comparable, key=lambda k: -self.lines[k].mean(column))
        names = [""] * len(self.lines)
        if len(ranked) < 2:
            return names
        for name, ahead, behind in zip(("best", "second"), ranked, [*ranked[1:], None], strict=False):
            if behind is not None and self.tied(self.lines[ahead], self.lines[behind], column):
                break
            names[ahead] = name
        return names

    def tied(self, one: Line, other: Line, column: str) -> bool:
        """Whether the means of two lines differ by no more than a tie (MARKS)."""
        spread = max(line.deviation(column) or 0.0 for line in (one, other))
        sample = 100 / self.samples if self.samples else 0.05  # without a count what is shown decides
        return abs(one.mean(column) - other.mean(column)) <= max(spread, sample) + 1e-9


Grid = tuple[list[str], list[list[Cell]]]


def grid(table: Table) -> Grid:
    """The header and the rows, as Markdown, LaTeX and HTML show them.

    Raises:
        RunError: if a column is chosen that there is not.
    """
    if not table.chosen:
        return without_constants(*whole_grid(table, table.columns))[:2]
    every = list(dict.fromkeys(name for line in table.lines for seed in line.metrics.values() for name in seed))
    header, rows = whole_grid(table, list(dict.fromkeys([*table.columns, *every])))
    if unknown := [name for name in table.chosen if name not in header[1:]]:
        raise RunError(f"--columns {unknown[0]!r}: the table has {', '.join(header[1:])}")
    places = [0, *(header.index(name) for name in table.chosen)]
    return [header[k] for k in places], [[row[k] for k in places] for row in rows]


def without_constants(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[list[str], list[list[Cell]], str]:
    """A grid without the columns that are the same in all of several rows, and a sentence that says these once.

    The first column and `accuracy` stay.
    """
    same = {
        k: str(rows[0][k].value)
        for k, name in enumerate(header)
        if k and name != "accuracy" and len(rows) > 1 and len({str(row[k].value) for row in rows}) == 1
    }
    said = "; ".join(f"{header[k]} {value}" for k, value in same.items() if value != DOES_NOT_APPLY)
    kept = [k for k in range(len(header)) if k not in same]
    note = f"The same in every row, so no column: {said}." if said else ""
    return [header[k] for k in kept], [[row[k] for k in kept] for row in rows], note


def whole_grid(table: Table, columns: Sequence[str]) -> Grid:
    """The header and the rows with these metrics and all that is said of them."""
    has_paper = {column: any(column in line.paper for line in table.lines) for column in columns}
    header = ["", "seeds"]
    for column in columns:
        header += [column, f"{column}, paper"] if has_paper[column] else [column]
    if table.compares:
        header += ["95% interval", *(["against"] if len(table.references) > 1 else []), "p (seeds)", "p (samples)"]
    marks = {column: table.marks(column) for column in columns}
    rows = []
    for number, line in enumerate(table.lines):
        done, wanted = len(line.metrics), len(table.seeds)
        row = [Cell(line.label), Cell(str(done) if done == wanted else f"{done} of {wanted}")]
        for column in columns:
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
    """Mean and deviation, or each seed's words; without any seed the reasons in a word each."""
    mean, deviation = line.mean(column), line.deviation(column)
    if not line.metrics:
        return ", ".join(dict.fromkeys(why.split(":")[0] for why in line.empty.values()))
    if mean is None:
        words = list(map(str, line.values(column)))
        return words[0] if len(set(words)) == 1 else "; ".join(words) or DOES_NOT_APPLY
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
    lines = [] if table.chosen else list(filter(None, [without_constants(*whole_grid(table, table.columns))[2]]))
    lines += table.notes
    shown = [name for name in table.chosen or table.columns if higher_is_better(name)]
    if len(table.lines) > 1:
        lines.append(MARKS if any(any(table.marks(name)) for name in shown) else UNMARKED)
    if any(line.paper for line in table.lines):
        lines.append(PAPER)
    elif table.name:
        lines.append(f"The paper has no values for these rows on {table.dataset}.")
    header, _ = grid(table)
    if "95% interval" in header:
        drawn = "test samples and seeds" if len(table.seeds) > 1 else "test samples"
        lines.append(f"95% interval: of the accuracy, by a bootstrap over {drawn}.")
        if any(line.interval and line.interval[0] == line.interval[1] for line in table.lines):
            lines.append(
                f"An interval of no width is that of models without an error on {table.samples} samples; an error rate "
                f"of up to {300 / table.samples:.1f}% is compatible with that."
            )
    if table.references and any(name.startswith("p (") for name in header):
        against = f"Against {table.references[0]}" if len(table.references) == 1 else "Against the row named"
        lines.append(f"{against}: {TESTS}")
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
            lead = f"{reached[first] - reached[last]:.1f}"
            ahead = "no modality is ahead" if lead == "0.0" else f"{first} is {lead} points ahead of {last}"
            sentences.append(f"{line.label}: {ahead}; points below what each reaches alone: {below}.")
    return sentences


def markdown(table: Table) -> str:
    """The table between its title and its legend."""
    title, notes = f"{table.title}, {table.dataset}", "".join(f"- {escape(line, 'md')}\n" for line in legend(table))
    return f"### {escape(title, 'md')}\n\n{escape(heading(table), 'md')}\n\n{render(*grid(table), 'md')}\n{notes}"


def latex(table: Table) -> str:
    """The legend stands in comments before the table."""
    caption = f"{table.title}, {table.dataset}. {heading(table)}"
    return "".join(f"% {line}\n" for line in legend(table)) + render(*grid(table), "tex", caption)


def write_as(table: Table, form: str) -> str:
    """The table with all that is said of it, as Markdown ("md"), LaTeX ("tex") or HTML ("html")."""
    if form == "html":
        notes = "".join(f"<li>{escape(line, 'html')}</li>\n" for line in legend(table))
        return f"{render(*grid(table), 'html', heading(table))}<ul>\n{notes}</ul>\n"
    return {"md": markdown, "tex": latex}[form](table)


def as_csv(table: Table) -> str:
    """One line a row and column, in full precision; what does not apply is empty."""
    header = (
        "experiment title dataset rule row control column seeds values mean deviation paper difference mark empty "
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
                    table.name, table.title, table.dataset, table.rule, line.label, int(line.control), column,
                    " ".join(map(str, seeds)), " ".join(map(str, line.values(column))),
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
