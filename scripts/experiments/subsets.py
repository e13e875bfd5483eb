"""Training on subsets that are chosen without labels: the runs before it, the lists, the rows of its table."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dataset import DATASETS
from scripts.experiments.cells import Experiment, Row, folder_of, machine_words, parsed
from scripts.experiments.jobs import Job
from scripts.experiments.request import Request
from scripts.experiments.rows import BOTH, LABELS
from selection import STRATEGIES
from utils.errors import RunError

NAME = "selection"
# What may follow a strategy's name: flags of the pretraining, flags of the choice.
WITHOUT = {"-no-prototypes": (["--prototypes", "0"], []), "-no-alignment": ([], ["--lambda_align", "0"])}
NAMES = (*STRATEGIES, "mmcsal-no-prototypes", "mmcsal-no-alignment")


@dataclass(frozen=True)
class Subset:
    """A strategy by its name in tables, and what it means: flags of the pretraining and of the choice."""

    name: str
    strategy: str
    pretraining: tuple[str, ...]
    choice: tuple[str, ...]

    @classmethod
    def of(cls, name: str) -> "Subset":
        """The strategy of a name such as mmcsal-no-prototypes.

        Raises:
            RunError: if there is none.
        """
        strategy, pretraining, choice = name, [], []
        for ending, flags in WITHOUT.items():
            if ending in strategy:
                strategy = strategy.replace(ending, "")
                pretraining, choice = pretraining + flags[0], choice + flags[1]
        if strategy not in STRATEGIES or (choice and strategy != "mmcsal"):
            raise RunError(
                f"--strategies {name}: there are {', '.join(STRATEGIES)}, each also with -no-prototypes, and mmcsal "
                "with -no-alignment, too"
            )
        return cls(name, strategy, tuple(pretraining), tuple(choice))


@dataclass(frozen=True)
class Study:
    """Strategies, budgets, methods and seeds on one data set.

    `extra`: flags of every run; `pretraining`: more of those without labels; `start`: whether training begins with the
    encoders of these.
    """

    dataset: str
    root: str | None
    out: str
    names: Sequence[str]
    budgets: Sequence[int]
    methods: Sequence[str]
    seeds: Sequence[int]
    extra: Sequence[str]
    pretraining: Sequence[str]
    start: bool
    jobs: int

    @cached_property
    def subsets(self) -> list[Subset]:
        """The strategies."""
        return [Subset.of(name) for name in self.names]

    def words(self, subset: Subset, seed: int) -> list[str]:
        """The command line of the run whose features a strategy goes by."""
        root = ["--data_root", self.root] if self.root else []
        places = ["--dataset", self.dataset, *root, "--out", self.out]
        more = [*self.extra, *self.pretraining, *subset.pretraining]
        return [*places, *more, "--seed", str(seed), "--resume"]

    def folder(self, subset: Subset, seed: int) -> Path:
        """The folder of that run."""
        return folder_of(["--method", "mmcsal", *self.words(subset, seed)])

    def list_of(self, subset: Subset, budget: int, seed: int) -> Path:
        """The list of the samples that a strategy chooses. Every seed has its own, of the same name."""
        return self.folder(subset, seed) / "subsets" / f"{subset.name}.{budget}.txt"

    def pretraining_jobs(self) -> list[Job]:
        """Each run without labels once."""
        found = {}
        for seed in self.seeds:
            for subset in self.subsets:
                folder, name = self.folder(subset, seed), " ".join(["pretraining", *subset.pretraining])
                argv = ("scripts/pretrain.py", *self.words(subset, seed))
                found.setdefault(folder, Job(f"{name}, seed {seed}", argv, folder))
        return list(found.values())

    def choosing_jobs(self) -> list[Job]:
        """Each list once."""
        made = []
        for seed in self.seeds:
            for subset in self.subsets:
                folder = self.folder(subset, seed)
                where = machine_words(parsed(["--method", "mmcsal", *self.words(subset, seed)]))
                for budget in self.budgets:
                    file = self.list_of(subset, budget, seed)
                    argv = ["scripts/select_subset.py", "--strategy", subset.strategy, "--budget", str(budget)]
                    argv += ["--features", str(folder / "last.pt"), "--out", str(file), "--seed", str(seed)]
                    name = f"{subset.name}, {budget} samples, seed {seed}"
                    argv = (*argv, *subset.choice, *where)
                    made.append(Job(name, argv, file.parent, (folder / "last.pt",), made=file.name))
        return made

    def rows(self, setting) -> tuple[Row, ...]:
        """Every method on all samples, then on each list."""
        every = [Row(f"{label(method)}, all labels", f"--method {method}") for method in self.methods]
        return (
            *every,
            *(self.row(subset, n, m, setting) for n in self.budgets for subset in self.subsets for m in self.methods),
        )

    def row(self, subset: Subset, budget: int, method: str, setting) -> Row:
        """A method on the samples of a strategy."""
        # What differs from seed to seed is the last folder of the pretraining run alone.
        run = self.folder(subset, self.seeds[0]).parent / "seed{seed}"
        flags = f"--method {method} --train_list {shlex.quote(f'{run}/subsets/{subset.name}.{budget}.txt')}"
        if self.start:
            flags += "".join(f" --weights {shlex.quote(f'{name}={run}/last.pt')}" for name in setting.modalities)
        return Row(f"{label(method)}, {subset.name}, {budget} labels", flags)

    def request(self) -> Request:
        """The runs on the lists, and on all samples."""
        name = f"{NAME}_pretrained" if self.start else NAME
        begun = "encoders begin as pretrained" if self.start else "from scratch"
        experiment = Experiment(
            name, f"Training on samples that are chosen without labels, {begun}", (self.dataset,), BOTH, self.rows
        )
        roots = {self.dataset: self.root}
        return Request(experiment, [self.dataset], self.seeds, self.out, roots, self.extra, self.jobs)

    @property
    def classes(self) -> tuple[list[str], dict[str, int]]:
        """The names of the classes, and the class number of each sample of the training split by its name."""
        args = parsed(["--method", "mmcsal", *self.words(self.subsets[0], self.seeds[0])])
        source = DATASETS[self.dataset]
        rows = source.read_splits(args)[0]
        data = source(args, rows, tuple(source.encoders(args)), train=False)
        return list(source.class_names(args)), dict(zip(data.names, data.targets, strict=True))


def label(method: str) -> str:
    """A method as tables name it."""
    return LABELS.get(method, method)
