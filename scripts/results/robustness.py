"""Tables of how the test accuracy falls under corruptions."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scripts.results.folder import Setting
from scripts.results.render import render, summary

CLEAN = "clean"


@dataclass(frozen=True)
class Row:
    """The metrics of one run at one level of a corruption; CLEAN has one level, called so, too."""

    setting: Setting
    seed: str
    corruption: str
    level: str
    metrics: dict[str, float]


def accuracies(rows: Sequence[Row]) -> dict[str, dict[Setting, dict[str, list[float]]]]:
    """{corruption: {setting: {level: [accuracy in % of each seed]}}}, CLEAN the first level of every corruption."""
    by_corruption: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        by_corruption[row.corruption][row.setting][row.level].append(100 * row.metrics["accuracy"])
    clean = by_corruption.pop(CLEAN)
    return {
        corruption: {setting: {CLEAN: clean[setting][CLEAN]} | levels for setting, levels in settings.items()}
        for corruption, settings in by_corruption.items()
    }


def make_tables(rows: Sequence[Row], draws: int) -> str:
    """Markdown, one table per data set and corruption; `mean` is that of the levels, `drop` what it lacks to clean."""
    parts = [f"Test accuracy in %, last epoch, mean +- standard deviation over seeds, {draws} draw(s) of each level.\n"]
    for dataset in dict.fromkeys(row.setting[0] for row in rows):
        for corruption, settings in accuracies([row for row in rows if row.setting[0] == dataset]).items():
            lines = []
            for (_, method, tag), values in settings.items():
                clean, *levels = values.values()
                mean = np.mean(levels, axis=0)
                drop = np.array(clean) - mean
                cells = [summary(seeds) for seeds in [*values.values(), mean.tolist(), drop.tolist()]]
                lines.append([method, tag, len(mean), *cells])
            header = ["method", "setting", "seeds", *next(iter(settings.values())), "mean", "drop"]
            parts.append(f"## {dataset}, {corruption}\n\n{render(header, lines, 'md')}")
    return "\n".join(parts)


def make_csv(rows: Sequence[Row]) -> str:
    """A line for every metric, as a share (0..1)."""
    header = ["dataset", "method", "setting", "seed", "corruption", "level", "metric", "value"]
    lines = [
        [*row.setting, row.seed, row.corruption, row.level, name, value]
        for row in rows
        for name, value in row.metrics.items()
    ]
    return render(header, lines, "csv")
