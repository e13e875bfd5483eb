"""Is all well on this GPU, and how fast is it? One command of at most nine minutes; it fetches nothing.

    bash scripts/gpu_check.sh                              # or: python scripts/gpu_check.py
    python scripts/gpu_check.py --full                     # and one run of 50 epochs to its end
    python scripts/gpu_check.py --parts steps --methods agm pmr --batch_size 32

Parts, each with so many seconds; one that fails or does not end in time is named, and the others go on:

{parts}

All data are generated, in the shapes of CREMA-D. Flags that it does not know are main.py's, for every part. It writes
every number to --json, and beside it, as .md, the rows that docs/PERFORMANCE.md and docs/REPRODUCTION.md can take. It
ends with status 1 if anything is not as it should be.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from engine.parser import parse
from engine.setup import choose_device
from methods import METHODS
from scripts.benchmarks.gpu import DATASET, PARTS, Check, release, said
from scripts.benchmarks.timing import machine
from scripts.experiments.overview import size
from scripts.experiments.paper import EXPERIMENTS
from scripts.results.render import render
from utils.errors import one_sentence
from utils.files import write_atomically
from utils.numbers import positive
from utils.runs.provenance import provenance

TRAIN, TEST = 6698, 744  # CREMA-D's clips


class OutOfTime(BaseException):
    """A part has used up its seconds; no Exception, which a part takes for the failure of one of its rows."""


def main(argv: list[str] | None = None) -> int:
    """Check, print, write; returns the status that the program ends with."""
    argv = sys.argv[1:] if argv is None else argv
    asked, words = read(argv)
    device = choose_device(parse(["--dataset", DATASET, "--device", asked.device, *words]))
    check = Check(device, words, asked.methods, asked.train, asked.test, asked.full)
    origin = provenance("scripts/gpu_check.py", argv, device, None)
    report = origin | {"machine_line": machine(device), "words": words, "parts": {}}
    for name in asked.parts:
        report["parts"][name] = found = run_part(name, check)
        print(f"{name}: {'; '.join(found['wrong']) or 'as it should be'} ({found['seconds']:.0f} s)", flush=True)
        report |= {"ok": not any(part["wrong"] for part in report["parts"].values()), "rows": rows_of(report)}
        write_atomically(asked.json, json.dumps(report, indent=2, default=str) + "\n")
        write_atomically(asked.json.with_suffix(".md"), report["rows"])
    print(f"\n{report['rows']}\nwritten to {asked.json} and {asked.json.with_suffix('.md')}")
    return 0 if report["ok"] else 1


def read(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of the check, and the words that are for main.py."""
    parts = "\n".join(f"    {name:<10} {seconds:>3} s  {part.__doc__}" for name, (part, seconds) in PARTS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.replace("{parts}", parts), formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), metavar="PART", help="default: all")
    parser.add_argument(
        "--methods", choices=METHODS, nargs="+", default=list(METHODS), metavar="NAME",
        help="whose steps are checked and timed (default: all)",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="train one run to its end, in as much time as it takes")
    parser.add_argument("--train", type=positive, default=TRAIN, help=f"generated training clips (default: {TRAIN})")
    parser.add_argument("--test", type=positive, default=TEST, help=f"generated test clips (default: {TEST})")
    parser.add_argument(
        "--json", type=Path, default=Path("gpu_check.json"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the check itself")
    asked, words = parser.parse_known_args(argv)
    if not asked.json.absolute().parent.is_dir():
        parser.error(f"--json {asked.json}: {asked.json.parent} does not exist")
    return asked, words


def run_part(name: str, check: Check) -> dict:
    """What a part has found: `wrong`, sentences, `seconds`, and all that it measured before it ended or failed."""
    part, limit = PARTS[name]
    found, wrong, began = {}, [], perf_counter()
    try:
        with at_most(0 if check.full and name == "epochs" else limit):
            wrong.extend(part(check, found))
    except OutOfTime:
        wrong.append(f"not done after {limit} s")
    except (Exception, SystemExit) as error:
        wrong.append(said(error))
    release()
    return found | {"wrong": wrong, "seconds": perf_counter() - began}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Within, OutOfTime is raised after so many seconds; 0: never."""

    def stop(number, frame):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def rows_of(report: dict) -> str:
    """What was measured as Markdown: the tables for docs/PERFORMANCE.md, then the hours for docs/REPRODUCTION.md."""
    tables = {name: part["table"] for name, part in report["parts"].items() if part.get("table")}
    shown = [f"## For docs/PERFORMANCE.md\n\n{report['machine_line']}\n"]
    shown += [f"{PARTS[name][0].__doc__}\n\n{markdown(rows)}" for name, rows in tables.items()]
    timed = report["parts"].get("epochs", {})
    hours = {
        kind: found["seconds of an epoch"] for kind, found in timed.items() if "inforeg" in kind and "hours" in found
    }
    if hours:
        shown.append(f"## For docs/REPRODUCTION.md\n\n{markdown(hours_of(hours))}")
    return "\n".join(shown)


def hours_of(seconds: dict[str, float]) -> list[dict[str, str]]:
    """Hours of each table and figure on CREMA-D, where every epoch takes the `seconds` of one of the kinds of run."""
    rows = []
    for name, experiment in EXPERIMENTS.items():
        if DATASET in experiment.datasets:
            runs, epochs = size(experiment, DATASET)
            hours = {f"hours by {kind}": f"{epochs * one / 3600:.1f}" for kind, one in seconds.items()}
            rows.append({"name": name, "runs": str(runs), "epochs": str(epochs)} | hours)
    return rows


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows {column: text} as a table."""
    return render(list(rows[0]), [list(row.values()) for row in rows], "md")


if __name__ == "__main__":
    with one_sentence():
        sys.exit(main())
