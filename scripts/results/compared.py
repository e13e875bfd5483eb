"""Does the choice of samples matter at few labels, and does the method? Differences of accuracies, with intervals."""

from pathlib import Path

import numpy as np

from scripts.experiments.request import Request
from scripts.experiments.subsets import Study, Subset, label, row_label
from scripts.results.columns import Samples
from scripts.results.render import render
from scripts.results.significance import interval
from scripts.results.tables import RULES
from utils.files import make_folder, write_atomically

REFERENCES = ("random", "kmeans")  # the strategies with which the others are compared
LEGEND = (
    "Differences of the test accuracy in points, on the same seeds and test samples, rule {rule}: {words}. In brackets "
    "their 95% interval, by a bootstrap over test samples and seeds, not corrected for the number of rows. The last "
    "column is the mean over the budgets. A dash: runs are missing, or the smallest budget of a strategy by rounds, "
    "which is not of its choice."
)
Pair = tuple[str, Subset, str, str]  # a row's name, its strategy, and the labels of the rows, {} for the budget
Right = dict[str, np.ndarray]  # {row: (S, N), 1 where a seed is right about a test sample, 0 elsewhere}


def write_compared(study: Study, wanted: Request, rule: str) -> Path:
    """Write <out>/tables/<name>_compared_<dataset>.md: strategies less each of REFERENCES, methods less the first."""
    right = right_of(wanted, study.dataset, rule)
    title = wanted.experiment.title
    parts = [f"### Differences: {title[0].lower()}{title[1:]}, {study.dataset}"]
    for heading, pairs in comparisons(study).items():
        lines = [[name, *differences(study, right, subset, *labels)] for name, subset, *labels in pairs]
        header = ("", *(f"{budget} labels" for budget in study.budgets), "mean")
        parts.append(f"{heading}:\n\n{render(header, lines, 'md')}".rstrip())
    text = "\n\n".join([*parts, LEGEND.format(rule=rule, words=RULES[rule])])
    path = Path(study.out) / "tables" / f"{wanted.experiment.name}_compared_{study.dataset}.md"
    make_folder(path.parent)
    write_atomically(path, f"{text}\n")
    print(f"\n{text}")
    return path


def comparisons(study: Study) -> dict[str, list[Pair]]:
    """What is compared, by the heading of its table."""
    found = {}
    for other in (name for name in REFERENCES if name in study.names):
        found[f"Each strategy less {other}"] = [
            (f"{label(method)}, {s.name}", s, row_label(method, s.name, "{}"), row_label(method, other, "{}"))
            for method in study.methods
            for s in study.subsets
            if s.name != other
        ]
    first, *others = study.methods
    for method in others:
        found[f"{label(method)} less {label(first)}"] = [
            (s.name, s, row_label(method, s.name, "{}"), row_label(first, s.name, "{}")) for s in study.subsets
        ]
    return found


def right_of(wanted: Request, dataset: str, rule: str) -> Right:
    """What the runs of each row are right about, of rows whose seeds are all there and have kept their predictions."""
    samples, found = Samples(), {}
    for cell in wanted.cells(dataset):
        right = samples.right(cell.folder, rule) if cell.done else None
        found.setdefault(cell.row.label, []).append(right)
    return {row: np.stack(of_row).astype(int) for row, of_row in found.items() if all(x is not None for x in of_row)}


def differences(study: Study, right: Right, subset: Subset, one: str, other: str) -> list[str]:
    """The cells of a row: the rows of these labels at each budget, the one less the other, and the mean of all."""
    budgets = study.budgets[1:] if subset.rounds else study.budgets
    labels = {n: (one.format(n), other.format(n)) for n in budgets}
    apart = {n: right[a] - right[b] for n, (a, b) in labels.items() if a in right and b in right}
    cells = [shown(apart[n]) if n in apart else "-" for n in study.budgets]
    complete = budgets and len(apart) == len(budgets)
    return [*cells, shown(sum(apart.values()), len(apart)) if complete else "-"]


def shown(apart: np.ndarray, count: int = 1) -> str:
    """The mean of differences (S, N) that are the sum of `count` ones, in points, and its interval."""
    mean, low, high = (100 * value / count for value in (apart.mean(), *interval(apart)))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
