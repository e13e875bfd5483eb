"""What chosen subsets are like: how well their modalities agree, and which classes they have."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dataset.lists import read_lines
from scripts.experiments.subsets import Study, Subset
from scripts.results.render import render, summary
from utils.files import make_folder, write_atomically
from utils.runs.files import read_json

HEADER = (
    "strategy", "labels", "modality gap", "alignment of the pool", "of the chosen", "moved",
    "classes without a sample", "distance of the classes' shares, %",
)  # fmt: skip
# What stands in each but the first two, and its digits.
COLUMNS = {"gap": 3, "alignment_of_pool": 3, "alignment_of_chosen": 3, "moved": 2, "missing": 1, "distance": 1}
LEGEND = (
    "Mean +- standard deviation over seeds. The gap is the distance between the centres of the modalities' features in "
    "the pool, alignment the mean cosine between a sample's modalities (of the chosen: without those of the rounds "
    "before), moved the share of centroids that take another sample than at first, and the last column half the sum of "
    "the differences between a class's share of the list and of the pool: 0 where the classes are as in the pool. By "
    "rounds, with the method in brackets, the features are those of the model of the round before; others are of the "
    "pretraining. A dash: does not apply, or the list is missing."
)


def shares(targets: Sequence[int], classes: int) -> np.ndarray:
    """(C,) the share of each class among class numbers."""
    return np.bincount(targets, minlength=classes) / len(targets)


def write_subsets(study: Study, name: str) -> Path:
    """Write <out>/tables/<name>_subsets_<dataset>.md, and the share of each class as .csv; returns the first."""
    names, number = study.classes
    pool = shares(list(number.values()), len(names))
    lines, by_class = [], [["pool", "", "", label, share] for label, share in zip(names, pool, strict=True)]
    for budget in study.budgets:
        for subset, method in of_budget(study, budget):
            label = f"{subset.name} ({method})" if subset.rounds else subset.name
            facts: list[Mapping] = []
            for seed in study.seeds:
                file = study.list_of(subset, budget, seed, method)
                if not file.exists():
                    facts.append({})
                    continue
                chosen = shares([number[line] for _, line in read_lines(file)], len(names))
                by_class += [[label, budget, seed, k, share] for k, share in zip(names, chosen, strict=True)]
                told = {"missing": float((chosen == 0).sum()), "distance": 50 * float(np.abs(chosen - pool).sum())}
                facts.append(read_json(file.with_suffix(".json")) | told)
            columns = [summary([fact.get(column) for fact in facts], digits) for column, digits in COLUMNS.items()]
            lines.append([label, budget, *columns])
    stem = Path(study.out) / "tables" / f"{name}_subsets_{study.dataset}"
    make_folder(stem.parent)
    text = render(HEADER, lines, "md")
    write_atomically(stem.with_suffix(".md"), f"{text}\n{LEGEND}\n")
    header = ("strategy", "labels", "seed", "class", "share")
    write_atomically(stem.with_suffix(".csv"), render(header, by_class, "csv"))
    print(f"\n{text}\n{LEGEND}")
    return stem.with_suffix(".md")


def of_budget(study: Study, budget: int) -> list[tuple[Subset, str]]:
    """The strategies that choose a list of so many labels, by rounds one for each method."""
    later = budget != study.budgets[0]
    rounds = [(s, m) for s in study.subsets if s.rounds and later for m in study.methods]
    cold = [(s, study.methods[0]) for s, n in (pair for pairs in study.cold.values() for pair in pairs) if n == budget]
    return [*cold, *rounds]
