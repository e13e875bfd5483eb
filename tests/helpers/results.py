"""Finished runs that nobody has trained, and Markdown tables read again."""

import json

import numpy as np

from scripts.experiments.cells import parsed
from utils.runs.predictions import write_predictions

FUSED = {"loss", "accuracy", "balanced_accuracy", "macro_f1", "mAP", "ece", "majority"}

N = 20

TARGET = np.arange(N) % 8

PROVENANCE = {
    "commit": "a" * 40, "dirty": False, "changes": None, "versions": {"torch": "2"}, "data": {"train.csv": "1" * 64},
}  # fmt: skip


def fill(cell, right, rules=("last", "oracle"), **provenance):
    """A finished run that is right about `right` of the samples; the oracle's about one more."""
    cell.folder.mkdir(parents=True)
    args = vars(parsed(cell.argv[1:]))
    write(cell.folder / "args.json", args | {"provenance": [PROVENANCE | provenance]})
    result, predictions = {}, {"target": TARGET}
    for epoch, rule in enumerate(rules):
        count = right + (rule == "oracle" and right < N)
        figures = {"loss": 1.0, "accuracy": count / N, "macro_f1": 0.5, "majority": 0.125}
        modality = args.get("modality")
        figures |= {modality: count / N} if modality else {"audio": right / N / 2, "visual": (right - 4) / N}
        result[rule] = {"epoch": epoch} | figures
        which = (np.arange(N) + cell.seed) % N < count  # the seeds are right about other samples
        predictions[rule] = np.where(which, TARGET, (TARGET + 1) % 8)
    write(cell.folder / "result.json", result)
    write_predictions(cell.folder, predictions)
    names = [name for name in figures if name not in FUSED]
    row = {"epoch": 0, "test": figures, "fisher_trace": dict.fromkeys(names, 1.0)}
    row["prime_window"] = dict.fromkeys(names, False)
    (cell.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (cell.folder / "done").write_text("{}")


def write(path, content):
    path.write_text(json.dumps(content))


def rows_of(text):
    """{label: {column: cell}} of a Markdown table."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
