"""How the test accuracy of finished runs falls under noise, missing and conflicting modalities: table, CSV and plot.

    python scripts/robustness.py results/CREMAD
    python scripts/robustness.py results/CREMAD --corruptions audio:snr:20,10,0 missing:visual:0.5,1 conflict:0.4

Takes last.pt of every finished run below the folder. By default a run is evaluated under the kinds of noise that its
modalities have (dataset/recipes/corrupt.py), with each modality missing, and with conflicts. Writes robustness.md
(accuracy in %, mean and standard deviation over the seeds of a setting), robustness.csv (every figure of every run) and
a robustness_<data set>.svg. What has been evaluated is kept in the run's robustness.json: an interrupted call goes on
where it was, and a checkpoint that has changed is evaluated anew.
"""

import argparse
import csv
import hashlib
import io
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: a cluster node has no display
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from dataset import DATASETS
from dataset.recipes.corrupt import KINDS
from scripts.evaluate import Condition, Tested
from scripts.results.folder import cell, find_runs
from scripts.trained.restore import add_flags, restore
from utils.errors import RunError, one_sentence
from utils.files import write_atomically
from utils.numbers import positive, probability
from utils.runs.checkpoint import load_checkpoint
from utils.runs.files import read_json
from utils.runs.plots import COLOURS

SHARES = ("0.25", "0.5", "0.75", "1")  # of the samples with a missing or a conflicting modality
LINES = [dict(color=colour, linestyle=style) for style in ("-", "--", ":", "-.") for colour in COLOURS]
CLEAN = "clean"


@dataclass(frozen=True)
class Row:
    """The figures of one run at one level of a corruption; CLEAN has one level, called so, too."""

    setting: tuple[str, str, str]  # data set, method, tag
    seed: str
    corruption: str
    level: str
    figures: dict[str, float]


def main(argv: list[str] | None = None) -> str:
    """Evaluate, write and print; returns the Markdown.

    Raises:
        RunError: if there is no finished run, a run or its data cannot be read, or a corruption is not defined for it.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a folder that holds runs, at any depth")
    parser.add_argument(
        "--corruptions", nargs="+", type=read_sweep, metavar="NAME:LEVEL,LEVEL,...",
        help="MODALITY:KIND as for --eval_noise of evaluate.py, missing:MODALITY, or conflict; then the levels",
    )  # fmt: skip
    parser.add_argument("--eval_seeds", type=positive, default=1, help="how often each level is drawn (default: 1)")
    parser.add_argument("--out", type=Path, help="folder of what is written (default: the folder of the runs)")
    add_flags(parser)
    own = parser.parse_args(argv)
    asked = dict(own.corruptions or ())
    if len(asked) < len(own.corruptions or ()):
        raise RunError("--corruptions: one of them stands there twice; give all its levels at once")
    runs, unfinished = find_runs(own.results.resolve())
    plan, without = {}, []
    for setting, folders in runs.items():
        for folder in folders:
            if (folder / "last.pt").exists():
                plan[folder] = setting, asked or every_corruption(folder, own)
            else:
                without.append(folder)
    if not plan:
        raise RunError(f"no finished run with a last.pt below {own.results}")
    rows = []
    levels = sum(1 + sum(map(len, corruptions.values())) for _, corruptions in plan.values())
    with tqdm(total=levels, desc="evaluating", unit="level", disable=None) as bar:
        for folder, (setting, corruptions) in plan.items():
            bar.set_postfix_str(f"{setting[1]} {folder.name}")
            for row in evaluated(folder, setting, corruptions, own):
                rows.append(row)
                bar.update()
    text = make_tables(rows, own.eval_seeds)
    for why, folders in {"Not finished": unfinished, "Without last.pt": without}.items():
        if folders:
            text += f"\n{why}, so not in the tables: " + ", ".join(map(str, folders)) + "\n"
    out = own.out or own.results
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out} ({error.strerror}): choose --out") from None
    write_atomically(out / "robustness.md", text)
    write_atomically(out / "robustness.csv", make_csv(rows))
    for dataset in dict.fromkeys(row.setting[0] for row in rows):
        draw([row for row in rows if row.setting[0] == dataset], out / f"robustness_{dataset}.svg")
    print(f"{text}\nwritten to {out}")
    return text


def read_sweep(word: str) -> tuple[str, tuple[str, ...]]:
    """A corruption and its levels, each once; a share that is hit stands after them and belongs to each."""
    body, at, share = word.partition("@")
    name, _, listed = body.rpartition(":")
    levels = dict.fromkeys(level + at + share for level in listed.split(","))
    if name == "conflict":
        levels = dict.fromkeys(f"{probability(level):g}" for level in levels)
    elif ":" not in name or not all(levels):
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME:LEVEL,LEVEL,...")
    return name, tuple(levels)


def every_corruption(folder: Path, own: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """{corruption: levels} that the data of a run have: noise of every kind, missing modalities, conflict."""
    args = argparse.Namespace(**read_json(folder / "args.json"))
    args.data_root = own.data_root or args.data_root
    source = DATASETS[args.dataset]
    modalities, forms = tuple(source.encoders(args)), getattr(source, "forms", {})
    kinds = {f"{m}:{name}": kind for m in modalities if m in forms for name, kind in KINDS[forms[m]].items()}
    noise = {name: tuple(f"{level:g}" for level in kind.sweep) for name, kind in kinds.items() if kind.sweep}
    return noise | {f"missing:{name}": SHARES for name in modalities} | {"conflict": SHARES}


def condition_of(corruption: str, level: str) -> Condition:
    """Noise and missing modalities are read where they are evaluated, which refuses what is not defined."""
    kind, _, rest = corruption.partition(":")
    if corruption == CLEAN:
        return Condition()
    if kind == "missing":
        return Condition(missing=(f"{rest}:{level}",))
    if corruption == "conflict":
        return Condition(conflict=float(level))
    return Condition(noise=(f"{corruption}:{level}",))


def evaluated(
    folder: Path, setting: tuple[str, str, str], corruptions: dict[str, tuple[str, ...]], own: argparse.Namespace
) -> Iterator[Row]:
    """The rows of one run, from its robustness.json or evaluated now and kept there; means over the draws."""
    checkpoint, kept = folder / "last.pt", folder / "robustness.json"
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    found = read_json(kept) if kept.exists() else {}
    if found.get("sha256") != digest:
        found = {"sha256": digest}
    tested = None
    for corruption, levels in ({CLEAN: (CLEAN,)} | corruptions).items():
        for level in levels:
            drawn = []
            for seed in range(1, 1 + (1 if corruption == CLEAN else own.eval_seeds)):
                key = f"{corruption}:{level} seed {seed}"
                if key not in found:
                    tested = tested or Tested(restore(load_checkpoint(checkpoint), checkpoint, own), own)
                    found[key] = tested.figures(condition_of(corruption, level), seed)
                    write_atomically(kept, json.dumps(found, indent=1) + "\n")
                drawn.append(found[key])
            means = {name: statistics.mean(figures[name] for figures in drawn) for name in drawn[0]}
            yield Row(setting, folder.name.removeprefix("seed"), corruption, level, means)


def accuracies(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str, str], dict[str, list[float]]]]:
    """{corruption: {setting: {level: [accuracy in % of each seed]}}}, CLEAN the first level of every corruption."""
    found: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        found[row.corruption][row.setting][row.level].append(100 * row.figures["accuracy"])
    clean = found.pop(CLEAN)
    return {
        corruption: {setting: {CLEAN: clean[setting][CLEAN]} | levels for setting, levels in settings.items()}
        for corruption, settings in found.items()
    }


def make_tables(rows: Sequence[Row], draws: int) -> str:
    """Markdown, one table per data set and corruption; `mean` is that of the levels, `drop` what it lacks to clean."""
    lines = [f"Test accuracy in %, last epoch, mean +- standard deviation over seeds, {draws} draw(s) of each level."]
    for dataset in dict.fromkeys(row.setting[0] for row in rows):
        for corruption, settings in accuracies([row for row in rows if row.setting[0] == dataset]).items():
            levels = list(next(iter(settings.values())))
            lines += ["", f"## {dataset}, {corruption}", ""]
            lines += ["| method | setting | seeds | " + " | ".join([*levels, "mean", "drop"]) + " |"]
            lines += ["| --- " * (len(levels) + 5) + "|"]
            for (_, method, tag), values in settings.items():
                mean = np.mean([values[level] for level in levels[1:]], axis=0)
                drop = np.array(values[CLEAN]) - mean
                cells = [cell(seeds) for seeds in [*values.values(), mean.tolist(), drop.tolist()]]
                lines.append("| " + " | ".join([method, tag, str(len(mean)), *cells]) + " |")
    return "\n".join(lines) + "\n"


def make_csv(rows: Sequence[Row]) -> str:
    """A line for every figure, as a share (0..1)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["dataset", "method", "setting", "seed", "corruption", "level", "figure", "value"])
    for row in rows:
        for name, value in row.figures.items():
            writer.writerow([*row.setting, row.seed, row.corruption, row.level, name, value])
    return text.getvalue()


def draw(rows: Sequence[Row], path: Path) -> None:
    """A panel for each corruption, a line for each setting; bands are one standard deviation over the seeds."""
    panels = accuracies(rows)
    columns = min(4, len(panels))
    height = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(3.2 * columns, 2.6 * height + 0.8), sharey=True, squeeze=False, layout="constrained"
    )
    look = dict(zip(dict.fromkeys(row.setting for row in rows), itertools.cycle(LINES), strict=False))
    lines = {}
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (corruption, settings) in zip(axes.flat, panels.items(), strict=False):
        for setting, values in settings.items():
            _, method, tag = setting
            label = method if tag == "default" else f"{method}, {tag}"
            mean = np.array([np.mean(seeds) for seeds in values.values()])
            spread = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values.values()])
            (lines[label],) = axis.plot(list(values), mean, marker="o", markersize=2.5, **look[setting])
            axis.fill_between(
                list(values), mean - spread, mean + spread, color=look[setting]["color"], alpha=0.15, linewidth=0
            )
        axis.set_title(corruption)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    beside = max(1, 30 * columns // (5 + max(map(len, lines))))  # labels that fit, a panel having room for 30 letters
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=beside, frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": path.name}):  # and without its date, the same rows give the same file
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    with one_sentence():
        main()
