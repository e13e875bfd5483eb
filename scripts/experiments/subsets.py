"""Training on samples that are chosen without their labels: the runs before it, the lists, the rows of its table."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from dataset import DATASETS
from scripts.experiments.cells import Experiment, Row, folder_of, machine_words, parsed
from scripts.experiments.jobs import Job
from scripts.experiments.request import Request, plan
from scripts.experiments.rows import BOTH, LABELS
from selection import STRATEGIES, WARM
from utils.errors import RunError

NAME = "selection"
# What may follow a strategy's name: flags of the pretraining, flags of the choice.
WITHOUT = {"-no-prototypes": (["--prototypes", "0"], []), "-no-alignment": ([], ["--lambda_align", "0"])}
ROUNDS = {name: name for name in WARM} | {"coreset-rounds": "coreset"}  # name: strategy
NAMES = (*STRATEGIES, "mmcsal-no-prototypes", "mmcsal-no-alignment", *ROUNDS)


@dataclass(frozen=True)
class Subset:
    """A strategy by its name in tables, and what it means: flags of the pretraining and of the choice.

    `rounds`: whether it goes by a model that was trained on the labels of the budget before.
    """

    name: str
    strategy: str
    pretraining: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()
    rounds: bool = False

    @classmethod
    def of(cls, name: str) -> "Subset":
        """The strategy of a name such as mmcsal-no-prototypes.

        Raises:
            RunError: if there is none.
        """
        if name in ROUNDS:
            return cls(name, ROUNDS[name], rounds=True)
        strategy, pretraining, choice = name, [], []
        for ending, flags in WITHOUT.items():
            if ending in strategy:
                strategy = strategy.replace(ending, "")
                pretraining, choice = pretraining + flags[0], choice + flags[1]
        if strategy not in STRATEGIES or (choice and strategy != "mmcsal"):
            raise RunError(
                f"--strategies {name}: there are {', '.join(STRATEGIES)}, each also with -no-prototypes, mmcsal with "
                f"-no-alignment, too, and by rounds {', '.join(ROUNDS)}"
            )
        return cls(name, strategy, tuple(pretraining), tuple(choice))


@dataclass(frozen=True)
class Study:
    """Strategies, budgets, methods and seeds on one data set.

    `extra`: flags of every run; `pretraining`: more of those without labels; `start`: whether training begins with the
    encoders of these; `first`: the strategy that chooses the smallest budget of those that go by rounds.
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
    first: str
    jobs: int

    @cached_property
    def subsets(self) -> list[Subset]:
        """The strategies."""
        return [Subset.of(name) for name in self.names]

    @cached_property
    def beginning(self) -> Subset:
        """The strategy with which rounds begin.

        Raises:
            RunError: if it goes by rounds itself.
        """
        if self.first in ROUNDS:
            raise RunError(f"--first {self.first} goes by rounds: name one that needs no label, as random")
        return Subset.of(self.first)

    @property
    def cold(self) -> dict[str, list[tuple[Subset, int]]]:
        """{name: the strategy with each budget that it chooses without any label}."""
        found = {subset.name: [(subset, n) for n in self.budgets] for subset in self.subsets if not subset.rounds}
        if any(subset.rounds for subset in self.subsets):
            found.setdefault(self.beginning.name, [(self.beginning, self.budgets[0])])
        return found

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """Those of the data set."""
        return tuple(DATASETS[self.dataset].encoders(parsed(self.places)))

    @property
    def places(self) -> list[str]:
        """The words that every run begins with."""
        root = ["--data_root", self.root] if self.root else []
        return ["--dataset", self.dataset, *root, "--out", self.out, *self.extra]

    def words(self, subset: Subset, seed: int) -> list[str]:
        """The command line of the run whose features a strategy goes by."""
        return [*self.places, *self.pretraining, *subset.pretraining, "--seed", str(seed), "--resume"]

    def folder(self, subset: Subset, seed: int) -> Path:
        """The folder of that run."""
        return folder_of(["--method", "mmcsal", *self.words(subset, seed)])

    def training(self, subset: Subset, budget: int, method: str, seed: int) -> list[str]:
        """The flags of a method's run on the samples of a strategy, beside the places and the seed."""
        words = ["--method", method, "--train_list", str(self.list_of(subset, budget, seed, method))]
        if self.start:
            run = self.folder(self.beginning if subset.rounds else subset, seed)
            words += [word for name in self.modalities for word in ("--weights", f"{name}={run}/last.pt")]
        return words

    def trained(self, subset: Subset, budget: int, method: str, seed: int) -> Path:
        """The folder of that run."""
        return folder_of([*self.places, *self.training(subset, budget, method, seed), "--seed", str(seed), "--resume"])

    def list_of(self, subset: Subset, budget: int, seed: int, method: str) -> Path:
        """The list of the samples that a strategy chooses. Every seed has its own, of the same name.

        By rounds every method has its own, too, in the folder of its run of the round before; the first round is that
        of `beginning`, for all of them.
        """
        place = self.budgets.index(budget)
        if subset.rounds and place:
            so_far = "-".join(map(str, self.budgets[: place + 1]))
            name = f"{subset.name}.{method}.{self.first}.{so_far}.txt"
            return self.trained(subset, self.budgets[place - 1], method, seed) / "subsets" / name
        chooser = self.beginning if subset.rounds else subset
        return self.folder(chooser, seed) / "subsets" / f"{chooser.name}.{budget}.txt"

    def all_jobs(self) -> list[Job]:
        """Everything that is to be done, in an order in which it can be."""
        every = [*self.pretraining_jobs(), *self.choosing_jobs(), *self.round_jobs()]
        for job in plan(self.request()):
            listed = parsed(job.argv[1:]).train_list
            every.append(replace(job, needs=(*job.needs, Path(listed))) if listed else job)
        return every

    def pretraining_jobs(self) -> list[Job]:
        """Each run without labels once."""
        found = {}
        for seed in self.seeds:
            for (subset, _), *_ in self.cold.values():
                folder, name = self.folder(subset, seed), " ".join(["pretraining", *subset.pretraining])
                argv = ("scripts/pretrain.py", *self.words(subset, seed))
                found.setdefault(folder, Job(f"{name}, seed {seed}", argv, folder))
        return list(found.values())

    def choosing_jobs(self) -> list[Job]:
        """Each list that is chosen without any label once."""
        made = []
        for seed in self.seeds:
            for subset, budget in (pair for pairs in self.cold.values() for pair in pairs):
                args = parsed(["--method", "mmcsal", *self.words(subset, seed)])
                file = self.list_of(subset, budget, seed, self.methods[0])
                name = f"{subset.name}, {budget} samples, seed {seed}"
                made.append(choice(name, subset, budget, seed, self.folder(subset, seed), file, args))
        return made

    def round_jobs(self) -> list[Job]:
        """Each list of the later rounds, by the run of the round before."""
        made = []
        for seed in self.seeds:
            for subset in (subset for subset in self.subsets if subset.rounds):
                for method in self.methods:
                    for before, budget in zip(self.budgets, self.budgets[1:], strict=False):
                        words = self.training(subset, before, method, seed)
                        known, file = (self.list_of(subset, n, seed, method) for n in (before, budget))
                        name = f"{subset.name}, {budget} samples by {label(method)}, seed {seed}"
                        run = self.trained(subset, before, method, seed)
                        job = choice(name, subset, budget, seed, run, file, parsed([*self.places, *words]), known)
                        made.append(job)
        return made

    def rows(self, setting) -> tuple[Row, ...]:
        """Every method on all samples, then on each list."""
        every = [Row(f"{label(method)}, all labels", f"--method {method}") for method in self.methods]
        return (
            *every,
            *(self.row(subset, n, m) for n in self.budgets for subset in self.subsets for m in self.methods),
        )

    def row(self, subset: Subset, budget: int, method: str) -> Row:
        """A method on the samples of a strategy."""
        seed = self.seeds[0]
        # What differs from seed to seed is the last folder of the runs before it alone.
        words = self.training(subset, budget, method, seed)
        words = ["/seed{seed}/".join(word.rsplit(f"/seed{seed}/", 1)) for word in words]
        return Row(row_label(method, subset.name, budget), shlex.join(words))

    def request(self) -> Request:
        """The runs on the lists, and on all samples."""
        name = f"{NAME}_pretrained" if self.start else NAME
        begun = "encoders begin as pretrained" if self.start else "from scratch"
        experiment = Experiment(
            name,
            f"Training on samples that are chosen without their labels, {begun}",
            (self.dataset,),
            (*BOTH, "dominant", "lead"),
            self.rows,
        )
        roots = {self.dataset: self.root}
        return Request(experiment, [self.dataset], self.seeds, self.out, roots, self.extra, self.jobs)

    @property
    def classes(self) -> tuple[list[str], dict[str, int]]:
        """The names of the classes, and the class number of each sample of the training split by its name."""
        args = parsed(["--method", "mmcsal", *self.places])
        source = DATASETS[self.dataset]
        rows = source.read_splits(args)[0]
        data = source(args, rows, tuple(source.encoders(args)), train=False)
        return list(source.class_names(args)), dict(zip(data.names, data.targets, strict=True))


def choice(name: str, subset: Subset, budget: int, seed: int, run: Path, file: Path, args, known=None) -> Job:
    """The job that writes the list `file` by the run in the folder `run`, whose arguments are `args`."""
    argv = ["scripts/select_subset.py", "--strategy", subset.strategy, "--budget", str(budget)]
    argv += ["--features", str(run / "last.pt"), "--out", str(file), "--seed", str(seed)]
    argv += ["--from", str(known)] if known else []
    argv = (*argv, *subset.choice, *machine_words(args))
    return Job(name, argv, file.parent, (run / "last.pt", *([known] if known else [])), made=file.name)


def label(method: str) -> str:
    """A method as tables name it."""
    return LABELS.get(method, method)


def row_label(method: str, strategy: str, budget: int | str) -> str:
    """A row as the table names it."""
    return f"{label(method)}, {strategy}, {budget} labels"
