"""How the test accuracy of finished runs falls under noise, missing and conflicting modalities: table, CSV and plot.

    python scripts/robustness.py results/CREMAD
    python scripts/robustness.py results/CREMAD --corruptions audio:snr:20,10,0 missing:visual:0.5,1 conflict:0.4

Takes last.pt of every finished run below the folder. By default a run is evaluated under the kinds of noise that its
modalities have (dataset/recipes/corrupt.py), with each modality missing, and with conflicts. Writes robustness.md
(accuracy in %, mean and standard deviation over the seeds of a setting), robustness.csv (every metric of every run) and
a robustness_<data set>.svg, .pdf and .png. What has been evaluated is kept in the run's robustness.json: an interrupted
call goes on where it was, and a checkpoint that has changed is evaluated anew.
"""

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from tqdm import tqdm

from dataset import DATASETS
from dataset.recipes.corrupt import KINDS
from scripts.drawing.robustness import draw
from scripts.results.columns import classifies
from scripts.results.folder import Setting, find_runs
from scripts.results.labels import label_settings, notes_on
from scripts.results.robustness import CLEAN, Row, make_csv, make_tables
from scripts.trained.evaluation import Condition, Evaluation
from scripts.trained.restore import add_flags, restore
from utils.errors import RunError, one_sentence
from utils.files import make_folder, write_atomically
from utils.numbers import positive, probability
from utils.runs.files import check_numbers, read_json

SHARES = ("0.25", "0.5", "0.75", "1")  # of the samples with a missing or a conflicting modality


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
    flags = parser.parse_args(argv)
    asked = dict(flags.corruptions or ())
    if len(asked) < len(flags.corruptions or ()):
        raise RunError("--corruptions: one of them stands there twice; give all its levels at once")
    runs, unfinished = find_runs(flags.results.resolve())
    plan, without, untrained = {}, [], []
    for setting, folders in runs.items():
        for folder in folders:
            if not classifies(folder):
                untrained.append(folder)
            elif (folder / "last.pt").exists():
                plan[folder] = setting, asked or every_corruption(folder, flags)
            else:
                without.append(folder)
    if not plan:
        raise RunError(f"no finished run with a last.pt below {flags.results}")
    rows = []
    levels = sum(1 + sum(map(len, corruptions.values())) for _, corruptions in plan.values())
    with tqdm(total=levels, desc="evaluating", unit="level", disable=None) as bar:
        for number, (folder, (setting, corruptions)) in enumerate(plan.items(), 1):
            bar.set_postfix_str(f"{setting[1]} {folder.name}")
            for row in evaluated(folder, setting, corruptions, flags):
                rows.append(row)
                bar.update()
            bar.write(f"[{number}/{len(plan)}] {setting[1]} {folder.name}", file=sys.stderr)
    text = make_tables(rows, flags.eval_seeds)
    left_out = {"Not finished": unfinished, "Without last.pt": without, "Without a trained classifier": untrained}
    for why, folders in left_out.items():
        if folders:
            text += f"\n{why}, so not in the tables: " + ", ".join(map(str, folders)) + "\n"
    names = {name for folder in plan for name in read_json(folder / "args.json")}
    write(rows, text, flags.out or flags.results, names)
    return text


def write(rows: list[Row], text: str, out: Path, names: Collection[str]) -> None:
    """Write the tables, every metric and the pictures into the folder `out`, and print the tables.

    `names`: the flags that the runs' tags may name.

    Raises:
        RunError: if they cannot be written.
    """
    make_folder(out)
    write_atomically(out / "robustness.md", text)
    write_atomically(out / "robustness.csv", make_csv(rows))
    for dataset in dict.fromkeys(row.setting[0] for row in rows):
        of_dataset = [row for row in rows if row.setting[0] == dataset]
        labels, shared = label_settings(list(dict.fromkeys(row.setting for row in of_dataset)), names)
        draw(of_dataset, labels, "\n".join(notes_on(labels, shared)), out / f"robustness_{dataset}")
    print(f"{text}\nwritten to {out}")


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


def every_corruption(folder: Path, flags: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """{corruption: levels} that the data of a run have: noise of every kind, missing modalities, conflict."""
    args = argparse.Namespace(**read_json(folder / "args.json"))
    args.data_root = flags.data_root or args.data_root
    source = DATASETS[args.dataset]
    modalities, forms = tuple(source.encoders(args)), source.forms
    kinds = {f"{m}:{name}": kind for m in modalities if m in forms for name, kind in KINDS[forms[m]].items()}
    noise = {name: tuple(f"{level:g}" for level in kind.sweep) for name, kind in kinds.items() if kind.sweep}
    return noise | {f"missing:{name}": SHARES for name in modalities} | {"conflict": SHARES}


def condition_of(corruption: str, level: str) -> Condition:
    """The condition of a corruption at a level; what is not defined is refused where it is evaluated."""
    kind, _, rest = corruption.partition(":")
    if corruption == CLEAN:
        return Condition()
    if kind == "missing":
        return Condition(missing=(f"{rest}:{level}",))
    if corruption == "conflict":
        return Condition(conflict=float(level))
    return Condition(noise=(f"{corruption}:{level}",))


def evaluated(
    folder: Path, setting: Setting, corruptions: dict[str, tuple[str, ...]], flags: argparse.Namespace
) -> Iterator[Row]:
    """The rows of one run, from its robustness.json or evaluated now and kept there; means over the draws."""
    checkpoint, kept = folder / "last.pt", folder / "robustness.json"
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    results = read_json(kept) if kept.exists() else {}
    if results.get("sha256") != digest:
        results = {"sha256": digest}
    tested = None
    for corruption, levels in ({CLEAN: (CLEAN,)} | corruptions).items():
        for level in levels:
            drawn = []
            for seed in range(1, 1 + (1 if corruption == CLEAN else flags.eval_seeds)):
                key = f"{corruption}:{level} seed {seed}"
                if key not in results:
                    tested = tested or Evaluation(restore(checkpoint, flags))
                    results[key] = tested.metrics(condition_of(corruption, level), seed)
                    write_atomically(kept, json.dumps(results, indent=1) + "\n")
                check_numbers(kept, key, results[key], ["accuracy"])
                drawn.append(results[key])
            means = {name: statistics.mean(metrics[name] for metrics in drawn) for name in drawn[0]}
            yield Row(setting, folder.name.removeprefix("seed"), corruption, level, means)


if __name__ == "__main__":
    with one_sentence():
        main()
