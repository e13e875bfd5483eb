"""Rows of tables and figures, their runs, and the folders in which these lie."""

import argparse
import contextlib
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataset import DATASETS
from engine.parser import parse
from scripts.experiments.ensembles import folder_of_ensemble
from utils.errors import RunError
from utils.lock import owner
from utils.runs.setting import run_folder

ALONE = "--method unimodal --modality {} --fusion concat"
LOG = "log.txt"


@dataclass(frozen=True)
class Row:
    """A line of a table, trained once a seed.

    `flags` are told to `program` beside the data set, the places and the seed, after EXTRA: what makes the row wins.
    "{audio}" in them is the last.pt of the run of the same seed that trains audio alone, "{seed}" the seed.
    """

    label: str  # as the paper prints it
    flags: str
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # {data set: {column: the paper's, in %}}
    control: bool = False  # not in the paper: each modality alone, and their average
    program: str = "main.py"


@dataclass(frozen=True)
class Setting:
    """What an experiment's rows may depend on: the data set's modalities and its flags, EXTRA included."""

    modalities: tuple[str, ...]
    args: argparse.Namespace  # of the experiment's `base`


@dataclass(frozen=True)
class Experiment:
    """A table, a figure or an ablation: its rows, and the data sets on which the paper has them."""

    name: str
    title: str
    datasets: tuple[str, ...]  # the paper's
    columns: tuple[str, ...]  # names in result.json, in the paper's order; "{modalities}" in one stands for each
    rows: Callable[[Setting], tuple[Row, ...]]
    flags: Mapping[str, str] = field(default_factory=dict)  # {data set: what its protocol needs}; EXTRA wins
    base: str = "--method joint"  # the run that EXTRA has to be for, and whose flags the rows may depend on
    swept: tuple[str, ...] = ()  # the flags whose values are the rows, for a plot of the accuracy against each

    def columns_of(self, setting: Setting) -> tuple[str, ...]:
        """The columns on one data set."""
        every = [[column.replace("{modalities}", name) for name in setting.modalities] for column in self.columns]
        return tuple(name for names in every for name in dict.fromkeys(names))


@dataclass(frozen=True)
class Cell:
    """A row with one seed. `argv`: the words after `python`; `needs`: the files that it cannot start without.

    Where the command line is none of the method's or the data set's, `refusal` says why, and there is no folder.
    """

    row: Row
    seed: int
    argv: tuple[str, ...]
    folder: Path | None
    needs: tuple[Path, ...] = ()
    refusal: str = ""

    @property
    def done(self) -> bool:
        """Whether its run has come to its end."""
        return self.folder is not None and (self.folder / "done").exists()

    def missing(self) -> str:
        """Why there is no result, in a few words; "" if there is one."""
        if self.done:
            return ""
        if self.folder is None:
            return self.refusal
        if who := owner(self.folder):
            return f"running: {who}"
        return last_words(self.folder / LOG) or "not run"


def folder_of(argv: Sequence[str]) -> Path:
    """The folder of the run that `main.py` starts with these words.

    Raises:
        RunError: with the parser's sentence, if the words are not a command line.
    """
    return run_folder(parsed(argv))


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments that main.py makes of these words.

    Raises:
        RunError: with the parser's sentence: nobody has typed the whole line, so a usage message would mislead.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parse(list(argv))
    except SystemExit:
        raise RunError(complaint.getvalue().strip().rpartition("error: ")[2]) from None


def setting_of(experiment: Experiment, dataset: str, out, data_root=None, extra: Sequence[str] = ()) -> Setting:
    """Raises RunError if EXTRA is not for the base run on the data set, DataError if its modalities are unknown."""
    args = parsed([*common(experiment, dataset, out, data_root, extra), *shlex.split(experiment.base)])
    return Setting(tuple(DATASETS[dataset].encoders(args)), args)


def cells(
    experiment: Experiment, dataset: str, seeds: Sequence[int], out, data_root=None, extra: Sequence[str] = ()
) -> list[Cell]:
    """The experiment's runs on one data set, seed by seed, in the order of the rows.

    `out`: the folder of all results; `data_root`: the data set's, by default its own; `extra`: flags of every run.

    Raises:
        RunError: as `setting_of`.
    """
    setting = setting_of(experiment, dataset, out, data_root, extra)
    words = common(experiment, dataset, out, data_root, extra)
    return [cell_of(row, seed, words, setting) for seed in seeds for row in experiment.rows(setting)]


def common(experiment: Experiment, dataset: str, out, data_root, extra: Sequence[str]) -> list[str]:
    """The words that all cells begin with."""
    root = ["--data_root", str(data_root)] if data_root else []
    return ["--dataset", dataset, *shlex.split(experiment.flags.get(dataset, "")), *root, "--out", str(out), *extra]


def cell_of(row: Row, seed: int, words: Sequence[str], setting: Setting) -> Cell:
    """The cell of a row; `words`: those that all cells begin with."""

    def run(flags: Sequence[str]) -> list[str]:
        return [*words, *flags, "--seed", str(seed), "--resume"]

    try:
        flags = [word.replace("{seed}", str(seed)) for word in shlex.split(row.flags)]
        used = [name for name in setting.modalities if any(f"{{{name}}}" in word for word in flags)]
        alone = {name: parsed(run(ALONE.format(name).split())) for name in used}
        needs = {name: run_folder(args) / "last.pt" for name, args in alone.items()}
        flags = [word.format(**needs) if used else word for word in flags]
        if row.program == "main.py":
            argv = run(flags)
            folder = folder_of(argv)
        else:
            argv = [*flags, "--out", setting.args.out, *machine_words(setting.args)]
            folder = folder_of_ensemble(alone, setting.args.out)
    except RunError as error:
        return Cell(row, seed, (), None, refusal=str(error))
    return Cell(row, seed, (row.program, *argv), folder, tuple(needs.values()))


def machine_words(args: argparse.Namespace) -> list[str]:
    """Where and how a script that looks at trained models is to read the data: as the runs do."""
    device = [] if args.device == "auto" else ["--device", args.device]
    return ["--data_root", args.data_root, "--workers", str(args.workers), *device]


def last_words(log: Path) -> str:
    """What the last of a log's attempts ended with: its error where it has one, or its last line; "" without a log.

    An attempt begins with "$ " and its command. One that found the folder in use says nothing about the run.
    """
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    said: list[str] = []
    for line in reversed(lines):
        if line.startswith("$ ") and said:
            break
        if line.strip() and not line.startswith("$ ") and " is in use by " not in line:
            said.append(line.strip())
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return (errors or said or [""])[0]
