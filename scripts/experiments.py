"""Every table and figure of the paper, and the ablations that it does not show: their runs and the paper's values."""

import argparse
import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset import DATASETS  # noqa: E402  (the repository is not installed; its root has just been put on the path)
from utils.args import parse  # noqa: E402
from utils.errors import RunError  # noqa: E402
from utils.record import run_folder  # noqa: E402


@dataclass(frozen=True)
class Row:
    """A line of a table, trained once a seed.

    `flags` are told to `program` beside the data set, the places and the seed, after EXTRA: what makes the row wins.
    "{audio}" in them is the last.pt of the run of the same seed that trains audio alone.
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
    args: argparse.Namespace  # of joint training


@dataclass(frozen=True)
class Experiment:
    name: str
    title: str
    datasets: tuple[str, ...]  # the paper's
    columns: tuple[str, ...]  # names in result.json, in the paper's order; "{modalities}" stands for one of each
    rows: Callable[[Setting], tuple[Row, ...]]
    flags: Mapping[str, str] = field(default_factory=dict)  # {data set: what its protocol needs}; EXTRA wins

    def columns_of(self, setting: Setting) -> tuple[str, ...]:
        """The columns on one data set."""
        expanded = [setting.modalities if column == "{modalities}" else (column,) for column in self.columns]
        return tuple(name for names in expanded for name in names)


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
        return self.folder is not None and (self.folder / "done").exists()


def folder_of(argv: Sequence[str]) -> Path:
    """The folder of the run that `main.py` starts with these words.

    Raises:
        RunError: with the parser's sentence, if the words are not a command line.
    """
    return run_folder(parsed(argv))


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The parser's own sentence becomes a RunError: here nobody has typed the whole line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parse(list(argv))
    except SystemExit:
        raise RunError(complaint.getvalue().strip().rpartition("error: ")[2]) from None


def setting_of(experiment: Experiment, dataset: str, out, data_root=None, extra: Sequence[str] = ()) -> Setting:
    """Raises RunError if EXTRA is not for joint training on the data set, DataError if its modalities are unknown."""
    args = parsed([*common(experiment, dataset, out, data_root, extra), "--method", "joint"])
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
    def run(flags: Sequence[str]) -> list[str]:
        return [*words, *flags, "--seed", str(seed), "--resume"]

    try:
        flags = shlex.split(row.flags)
        used = [name for name in setting.modalities if any(f"{{{name}}}" in word for word in flags)]
        alone = {name: parsed(run(ALONE.format(name).split())) for name in used}
        needs = {name: run_folder(args) / "last.pt" for name, args in alone.items()}
        flags = [word.format(**needs) for word in flags]
        if row.program == "main.py":
            argv = run(flags)
            folder = folder_of(argv)
        else:
            # Here, since the table of results, which that program prints, knows this file.
            from scripts.ensemble import folder_of_ensemble

            argv = [*flags, "--out", setting.args.out, "--workers", str(setting.args.workers)]
            argv += [] if setting.args.device == "auto" else ["--device", setting.args.device]
            folder = folder_of_ensemble(alone, setting.args.out)
    except RunError as error:
        return Cell(row, seed, (), None, refusal=str(error))
    return Cell(row, seed, (row.program, *argv), folder, tuple(needs.values()))


ALONE = "--method unimodal --modality {} --fusion concat"


def controls(setting: Setting) -> tuple[Row, ...]:
    """Each modality alone, and the average of these models: without them no gain of a multimodal method can be read."""
    rows = [Row(f"{name} alone", ALONE.format(name), control=True) for name in setting.modalities]
    every = " ".join(f"{{{name}}}" for name in setting.modalities)
    return (*rows, Row("average of these", every, control=True, program="scripts/ensemble.py"))


def audio_visual(dataset: str, *values: float) -> dict[str, dict[str, float]]:
    return {dataset: dict(zip(("accuracy", "audio", "visual"), values, strict=True))}


def table2(setting: Setting) -> tuple[Row, ...]:
    return (
        *controls(setting),
        *(
            Row(label, f"--method {method}", audio_visual("CREMAD", *crema) | audio_visual("KineticsSounds", *kinetics))
            for label, method, crema, kinetics in (
                ("Joint training", "joint", (66.61, 58.99, 35.14), (65.67, 53.13, 36.01)),
                ("OGM", "ogm", (68.70, 56.84, 39.52), (66.63, 53.39, 40.16)),
                ("Greedy", "greedy", (67.82, 59.17, 40.17), (66.54, 53.15, 37.82)),
                ("PMR", "pmr", (66.92, 57.83, 38.91), (66.33, 53.42, 36.17)),
                ("AGM", "agm", (69.71, 59.32, 43.72), (66.54, 53.12, 37.24)),
                ("InfoReg", "inforeg", (71.90, 60.03, 49.65), (69.31, 54.16, 44.73)),
            )
        ),
    )


def table3(setting: Setting) -> tuple[Row, ...]:
    return (
        *controls(setting),
        *(
            Row(label, f"--method {flags}", audio_visual("CREMAD", *crema) | audio_visual("KineticsSounds", *kinetics))
            for label, flags, crema, kinetics in (
                ("Joint training", "joint --unimodal_loss none", (66.61, 58.99, 35.14), (65.67, 54.13, 36.01)),
                ("Joint training*", "joint --unimodal_loss split", (70.81, 60.52, 55.23), (68.71, 55.23, 44.18)),
                ("G-Blending", "gblending", (69.11, 60.14, 51.29), (68.33, 54.22, 42.31)),
                ("MMPareto", "mmpareto", (73.08, 60.83, 58.92), (71.11, 56.47, 53.39)),
                ("InfoReg*", "inforeg --unimodal_loss split", (75.71, 61.63, 61.22), (72.03, 57.21, 53.57)),
            )
        ),
    )


TWO_SETS = ("CREMAD", "KineticsSounds")
FIGURES = ("accuracy", "{modalities}")
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("table2", "Table 2: comparison under the joint loss", TWO_SETS, FIGURES, table2),
        Experiment("table3", "Table 3: comparison with unimodal losses", TWO_SETS, FIGURES, table3),
    )
}
