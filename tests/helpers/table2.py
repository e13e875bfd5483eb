"""Table 2 on demo with results that are made by hand, and what is asked of any table."""

import csv
import io
import json
import re
from types import SimpleNamespace

import numpy as np
from helpers.results import N, fill, write

from scripts.experiments.cells import cells, parsed
from scripts.experiments.paper import EXPERIMENTS
from scripts.results import experiment
from scripts.results.lines import Line

SEEDS = (0, 1, 2)
EPOCHS = parsed(["--dataset", "demo"]).epochs
# The number of right samples of 20 by row, seed by seed: 5 points each. PMR and AGM tie on their means.
RIGHT = {
    "audio alone": (20, 20, 20),
    "visual alone": (8, 9, 10),
    "Joint training": (10, 11, 12),
    "OGM": (12, 12, 15),
    "Greedy": (9, 9, 9),
    "PMR": (15, 16, 17),
    "AGM": (17, 16, 15),
    "InfoReg": (16, 18, 17),
}


def make(out):
    """Results of Table 2 on demo, complete but for those of "average of these"."""
    found = {(cell.row.label, cell.seed): cell for cell in all_cells(out)}
    for label, counts in RIGHT.items():
        for seed, right in zip(SEEDS, counts, strict=True):
            fill(found[label, seed], right)

    def folder(label, seed):
        return found[label, seed].folder

    return SimpleNamespace(out=out, folder=folder, cell=lambda label, seed: found[label, seed])


def all_cells(out, name="table2", seeds=SEEDS):
    return cells(EXPERIMENTS[name], "demo", seeds, out)


def correct(label, seeds=SEEDS):
    return np.stack([(np.arange(N) + seed) % N < RIGHT[label][seed] for seed in seeds])


def table2(results, rule="last", seeds=SEEDS):
    return experiment.of_experiment(EXPERIMENTS["table2"], "demo", seeds, results.out, rule=rule)


def lines_of(*means, spread=0.0, count=None):
    """Lines of two seeds around these means; `count`: of the test samples."""
    right = {} if count is None else {0: np.ones(count, bool)}
    half = spread / 2**0.5  # the sample standard deviation of two values is their distance over the root of two
    return tuple(
        Line(str(mean), {0: {"accuracy": mean - half}, 1: {"accuracy": mean + half}}, correct=right) for mean in means
    )


def change(path, **changes):
    args = json.loads(path.read_text())
    (entry,) = args["provenance"]
    own = {name: value for name, value in changes.items() if name in entry}
    write(path, args | {k: v for k, v in changes.items() if k not in own} | {"provenance": [entry | own]})


def parsed_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def check_latex(text, columns, rows):
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert body.count(r"\begin{") == body.count(r"\end{") == 2 and body.count(r"\toprule") == 1
    spec = re.search(r"\\begin\{tabular\}\{(\w+)\}", body)[1]
    assert len(spec) == columns
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == rows + 1
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {columns - 1}
    plain = re.sub(r"\\[\\&%$#_{}]", "", body)
    depth = 0
    for sign in plain:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0 and plain.count("$") % 2 == 0
    for line in lines:  # outside commands, no sign that LaTeX would take for its own
        assert not re.search(r"[_#^~%]", re.sub(r"\\[\\&%$#_{}]", "", line))
    return lines
