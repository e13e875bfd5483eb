"""Which of the visible objects sound, and where (CSOL): learned without labels and boxes, in two stages.

    python scripts/localise.py train-solo --dataset scenes             # clips of one sound: maps, clusters, dictionary
    python scripts/localise.py train-mix --dataset scenes              # mixtures, from the run of train-solo
    python scripts/localise.py evaluate results/scenes/*/default/*     # the numbers, beside those of reference maps
    python scripts/localise.py draw results/scenes/mixture/default/seed0
    bash scripts/reproduce.sh localisation                             # all of it, with ablations, by three seeds

Each command has a --help of its own. Folders, --resume, checkpoints and several processes (torchrun) are as with
main.py. docs/METHODS.md has the equations.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from engine.hints import one_of
from engine.setup import choose_device
from localisation.evaluation import KINDS, compare, draw_sheet, restore
from localisation.parser import STAGES, parse
from localisation.registry import LOCALISATION
from localisation.stage import SCALE
from localisation.training import train_stage
from scripts.experiments.localisation import FIRST, SECOND, Study
from scripts.experiments.request import jobs_at_a_time
from scripts.results.localisation import table
from scripts.results.places import by_setting
from utils.distributed.processes import processes
from utils.errors import one_sentence, refusals
from utils.numbers import count, positive, positive_float
from utils.stopping import signals


def main(argv: list[str] | None = None) -> object:
    """Run the command line `argv`; returns what the command has found.

    Raises:
        RunError: for anything that the user can mend, in one sentence.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="localise.py COMMAND [--help]"
    )
    commands: dict[str, Callable] = {"evaluate": evaluate, "draw": draw, "study": study}
    parser.add_argument("command", choices=[*STAGES, *commands], metavar="COMMAND", help="one of those above, or study")
    command = parser.parse_args(argv[:1]).command
    torch.set_flush_denormal(True)  # numbers too small to matter would take a CPU many times as long
    try:
        return commands[command](argv[1:]) if command in commands else train(argv)
    finally:
        torch.set_flush_denormal(False)  # whoever has called this still counts with them


def train(argv: list[str]) -> dict:
    """Train a stage; returns what result.json holds."""
    args = parse(argv[0], argv[1:])
    with refusals(), processes(), signals():
        return train_stage(argv, args, choose_device(args))


def evaluate(argv: list[str]) -> dict:
    """Print the metrics of runs, the seeds of a setting in one row; returns {row: metrics of each seed}."""
    parser = make_parser("evaluate", "Measure runs on test clips, beside maps that know nothing of the sound.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs; seeds of one tag are a row")
    parser.add_argument("--kind", choices=KINDS, default="mixed", help="of the clips (default: mixed)")
    parser.add_argument("--scale", type=positive_float, default=SCALE, help=f"c in the softmax of P (default: {SCALE})")
    flags = read_all(parser, argv)
    settings = {"/".join(setting): (runs, flags.scale) for setting, runs in by_setting(flags.runs).items()}
    rows = compare(settings, flags.kind, flags)
    print(table(rows), end="")
    return rows


def draw(argv: list[str]) -> Path:
    """Draw a contact sheet of a run's maps; returns its file."""
    parser = make_parser("draw", "Draw a contact sheet: frames with the maps of a run of train-mix laid over.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run; also one of train-solo")
    parser.add_argument("--solo", type=positive, default=16, metavar="N", help="how many solo clips (default: 16)")
    parser.add_argument("--mixed", type=positive, default=6, metavar="N", help="how many mixed clips (default: 6)")
    parser.add_argument("--out", type=Path, metavar="STEM", help="of .svg, .pdf, .png (default: RUN/figures/sheet)")
    flags = read_all(parser, argv)
    written = draw_sheet(restore(flags.run, flags), flags.solo, flags.mixed, flags.out or flags.run / "figures/sheet")
    print(f"written: {written}, .pdf and .png")
    return written


def study(argv: list[str]) -> None:
    """Both stages and the ablations by seeds, their tables, and a contact sheet; ends with status 1 if a run failed."""
    names = ", ".join((FIRST, *SECOND))
    parser = make_parser("study", f"Make what is missing of {names}; write tables and a contact sheet.")
    parser.epilog = "Any other flag is for all runs. JOBS in the environment: how many at a time."
    parser.add_argument(
        "--dataset", choices=LOCALISATION, type=one_of(LOCALISATION), default="scenes", help="default: scenes"
    )
    parser.add_argument("--seeds", type=count, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--out", default="results", help="folder of all results (default: results)")
    for stage in ("first", "second"):
        parser.add_argument(
            f"--{stage}", type=shlex.split, default=[], metavar="FLAGS",
            help=f"more flags of the runs of the {stage} stage, in one word: --{stage}='--lr 1e-3'",
        )  # fmt: skip
    flags, extra = read(parser, argv)
    seeds = list(dict.fromkeys(flags.seeds))
    if not Study(flags, seeds, extra, flags.first, flags.second, jobs_at_a_time()).carry_out():
        sys.exit(1)


def make_parser(command: str, text: str) -> argparse.ArgumentParser:
    """The parser of a command that looks at trained runs, with where and how their data are read."""
    parser = argparse.ArgumentParser(prog=f"localise.py {command}", description=text, allow_abbrev=False)
    parser.add_argument("--data_root", help="where the data lie now, if not where they were")
    parser.add_argument("--workers", type=count, default=2, help="loader processes (default: 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    return parser


def read(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags, with the device as PyTorch's, and the words that the parser does not know."""
    flags, extra = parser.parse_known_args(argv)
    flags.device = choose_device(argparse.Namespace(device=flags.device, precision="fp32"))
    return flags, extra


def read_all(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The flags, of which the parser must know all."""
    flags, extra = read(parser, argv)
    if extra:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    return flags


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a study's runs are ended, too
    try:
        with one_sentence():
            main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
