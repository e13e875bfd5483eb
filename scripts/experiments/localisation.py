"""Both stages of CSOL and what remains without a part of them, by seeds: the runs, their tables, a contact sheet."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localisation.evaluation import compare, draw_sheet, restore
from localisation.parser import parse
from localisation.stage import SCALE
from scripts.experiments.jobs import Job, work_off
from scripts.experiments.request import say_missing
from scripts.results.localisation import table
from scripts.results.places import place_of
from utils.files import make_folder, write_atomically
from utils.runs.setting import run_folder

FIRST = "first stage alone"
# {row: flags of train-mix}, where K stands for the number of clusters
SECOND: dict[str, tuple[str, ...]] = {
    "both stages": (),
    "without suppression": ("--no_suppression",),
    "without L_cat": ("--category_weight", "0"),
    "K times L_cat": ("--category_weight", "K"),
    "without L_loc": ("--location_weight", "0"),
}
SCALES = (1.0, 3.0, 10.0, 30.0)  # c of the softmax, on which everything but the area of the class-agnostic map depends


@dataclass(frozen=True)
class Study:
    """The runs on a data set. `extra`, `first` and `second` are further flags of all, of train-solo, of train-mix."""

    flags: Namespace
    seeds: Sequence[int]
    extra: Sequence[str]
    first: Sequence[str]
    second: Sequence[str]
    at_a_time: int

    def words(self, row: str, seed: int) -> list[str]:
        """The command line of a run."""
        root = ["--data_root", self.flags.data_root] if self.flags.data_root else []
        common = ["--dataset", self.flags.dataset, *root, "--out", self.flags.out, *self.extra]
        common += ["--workers", str(self.flags.workers), "--device", self.flags.device.type]
        common += ["--seed", str(seed), "--resume"]
        if row == FIRST:
            return ["train-solo", *common, *self.first]
        clusters = parse("train-mix", [*common, *self.second]).clusters
        flags = [str(clusters) if word == "K" else word for word in SECOND[row]]
        return ["train-mix", *common, *self.second, "--solo", str(self.folder(FIRST, seed)), *flags]

    def folder(self, row: str, seed: int) -> Path:
        """Where it is written."""
        command, *words = self.words(row, seed)
        return run_folder(parse(command, words))

    def folders(self, row: str) -> list[Path]:
        """Those of all seeds."""
        return [self.folder(row, seed) for seed in self.seeds]

    def jobs(self) -> list[Job]:
        """Every run once."""
        made = []
        for row in (FIRST, *SECOND):
            for seed in self.seeds:
                needs = () if row == FIRST else (self.folder(FIRST, seed) / "last.pt",)
                argv = ("scripts/localise.py", *self.words(row, seed))
                made.append(Job(f"{row}, seed {seed}", argv, self.folder(row, seed), needs))
        return made

    def carry_out(self) -> bool:
        """Make what is missing, and write what came of it; whether all is there."""
        jobs = self.jobs()
        failed = work_off(jobs, self.at_a_time)
        say_missing(jobs, failed)
        if not all(job.done for job in jobs):
            return False
        for job in jobs:
            place_of(job.folder)  # a copy of another seed is none
        path = Path(self.flags.out) / "tables" / f"localisation_{self.flags.dataset}.md"
        make_folder(path.parent)
        text = self.tables()
        write_atomically(path, text)
        print(f"{text}\nwritten: {path}")
        picture = Path(self.flags.out) / "figures" / f"localisation_{self.flags.dataset}"
        print(f"written: {draw_sheet(restore(self.folder('both stages', self.seeds[0]), self.flags), 16, 6, picture)}")
        return True

    def tables(self) -> str:
        """The tables, as a text in Markdown."""
        rows = {row: (self.folders(row), SCALE) for row in (FIRST, *SECOND)}
        scaled = {
            f"{row}, c = {scale:g}": (self.folders(row), scale) for row in (FIRST, "both stages") for scale in SCALES
        }
        solo = {"l after the first stage": (self.folders(FIRST), SCALE)}
        seeds = ", ".join(map(str, self.seeds))
        parts = {
            f"Mixed clips of {self.flags.dataset}, in %, seeds {seeds}": compare(rows, "mixed", self.flags),
            "The same by the factor c in the softmax": compare(scaled, "mixed", self.flags, references=False),
            "Solo clips": compare(solo, "solo", self.flags),
        }
        return "\n".join(f"## {title}\n\n{table(results)}" for title, results in parts.items())
