"""The table of what localisation measured: rows by seeds."""

from collections.abc import Mapping, Sequence

from scripts.results.render import render, summary

COUNTS = ("frames", "without_box")  # of clips; what else is measured are shares


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A table in Markdown of {row: metrics of each seed}: mean +- standard deviation in %, - where there is none."""
    names = list(dict.fromkeys(name for runs in results.values() for run in runs for name in run if name not in COUNTS))
    rows = [
        [row, *(summary([100 * run[name] for run in runs if name in run]) for name in names)]
        for row, runs in results.items()
    ]
    return render(["", *names], rows, "md")
