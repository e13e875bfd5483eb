"""Strategies x budgets x seeds x methods: what is run after what, and what is written of it."""

import csv
import shlex
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.desk import Desk, Forked, Inline
from helpers.instances import make_features, save_features
from matplotlib.figure import Figure

from engine.parser import parse
from scripts import subsets
from scripts.drawing.subsets import draw_intervals
from scripts.experiments import request
from scripts.experiments.subsets import Subset
from scripts.results.columns import dominance
from scripts.results.compared import differences, shown
from scripts.results.render import summary
from scripts.results.significance import interval
from scripts.results.subsets import shares
from utils.errors import RunError
from utils.runs.setting import run_folder

SMALL = "--hidden 8 --batch_size 12 --epochs 1 --workers 0 --device cpu".split()
STRATEGIES = ["random", "mmcsal-no-prototypes", "badge"]


@pytest.fixture
def desk(monkeypatch, demo, tmp_path):
    write = request.write_experiment
    desk = Desk(monkeypatch, demo, tmp_path / "out", Inline)
    monkeypatch.setattr(request, "write_experiment", write)
    desk.root = save_features(tmp_path / "data", make_features())
    desk.say(JOBS="1")
    return desk


def run(desk, *words, budgets=("9", "18")):
    places = ["--dataset", "features", "--data_root", str(desk.root), "--out", str(desk.out), "--seeds", "0", "1"]
    more = ["--strategies", *STRATEGIES, "--methods", "joint", "--budgets", *budgets, *SMALL, *words]
    return desk.run(*places, *more, main=subsets.main)


def programs(desk):
    return [(words[1].rpartition("/")[2], words[2:]) for words in map(shlex.split, desk.commands)]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_run_once_in_its_order_and_written(desk):
    assert run(desk) == 0
    told = programs(desk)
    names = [name for name, _ in told]
    # With and without prototypes; two strategies and budgets; these, all labels, and the second round of badge.
    assert names[:12] == 4 * ["pretrain.py"] + 8 * ["select_subset.py"]
    assert sorted(names[12:]) == 12 * ["main.py"] + 2 * ["select_subset.py"]
    trained = {}
    for name, words in told[4:]:
        if name == "main.py":
            args = parse(words)
            assert not args.train_list or f"/seed{args.seed}/subsets/" in args.train_list
            trained[str(run_folder(args))] = args.train_list
            continue
        flags = dict(zip(words[::2], words[1::2], strict=True))
        place = flags["--features"].removesuffix("/last.pt")
        assert place.endswith(f"/seed{flags['--seed']}") and flags["--out"].startswith(f"{place}/subsets/")
        assert ("prototypes=0" in place) == (flags["--strategy"] == "mmcsal")
        if flags["--strategy"] == "badge":  # by the model that was trained on the list to which it adds
            assert trained[place] == flags["--from"] and flags["--from"].endswith("/random.9.txt")
            lists = [Path(flags[flag]).read_text().splitlines() for flag in ("--from", "--out")]
            assert [len(names) for names in lists] == [9, 18] and lists[1][:9] == lists[0]
    assert run(desk) == 0 and desk.commands == []
    text = (desk.out / "tables/selection_features.md").read_text()
    for row in (
        "Joint training, all labels",
        *(f"Joint training, {s}, {n} labels" for s in STRATEGIES for n in (9, 18)),
    ):
        assert f"| {row} |" in text
    assert "Warning" not in text
    by_list = defaultdict(list)
    for row in rows_of(desk.out / "tables/selection_subsets_features.csv"):
        by_list[row["strategy"], row["labels"], row["seed"]].append(float(row["share"]))
    assert len(by_list) == 11 and all(sum(values) == pytest.approx(1) for values in by_list.values())
    lines = (desk.out / "tables/selection_subsets_features.md").read_text().splitlines()
    assert sum(line.startswith(("| random |", "| mmcsal-no-prototypes |", "| badge (joint) |")) for line in lines) == 5
    compared = (desk.out / "tables/selection_compared_features.md").read_text()
    assert "| Joint training, badge | - | " in compared and "Joint training, random" not in compared
    drawn = rows_of(desk.out / "figures/selection_features.csv")
    accuracy, lead = ([("Joint training", name, n) for name in STRATEGIES for n in (9, 18)] for _ in range(2))
    gap = [("pretraining without labels", name, 1) for name in ("with prototypes", "without")]
    assert [(row["panel"], row["curve"], float(row["x"])) for row in drawn] == accuracy + lead + gap


def test_training_may_start_with_the_pretrained_encoders(desk, capsys):
    assert run(desk, "--start", "--list") == 0
    lines = [shlex.split(line)[2:] for line in capsys.readouterr().out.splitlines() if "main.py" in line]
    found = [args for args in map(parse, lines) if args.train_list]
    assert len(found) == 10
    for args in found:
        (folder,) = {word.partition("=")[2].removesuffix("last.pt") for word in args.weights}
        assert [word.partition("=")[0] for word in args.weights] == ["image", "speech", "text"]
        assert folder.endswith(f"/seed{args.seed}/")
        assert args.train_list.startswith(folder) or "/badge.joint.random.9-18.txt" in args.train_list


def test_where_choosing_fails_what_needs_no_such_list_is_done(desk, capsys):
    desk.process = Forked
    assert run(desk, "--seeds", "0", budgets=["9", "37"]) == 1
    lists = [parse(words).train_list for name, words in programs(desk) if name == "main.py"]
    assert sorted(str(path).rpartition("/")[2] for path in lists) == [
        "None",
        "mmcsal-no-prototypes.9.txt",
        "random.9.txt",
    ]
    said = capsys.readouterr().out
    assert "a budget of 37 samples of a pool of 36" in said and "a budget of 28 more samples of a pool of 36, 9" in said
    assert "not run: Joint training, random, 37 labels on features, seed 0: it needs " in said
    table = (desk.out / "tables/selection_subsets_features.md").read_text()
    assert "| random | 37 | - | - |" in table and "| badge (joint) | 37 | - | - |" in table


def test_every_round_goes_by_the_run_on_the_list_that_it_adds_to(desk, capsys):
    words = ["--strategies", "badge", "coreset-rounds", "--methods", "joint", "inforeg", "--seeds", "3", "--list"]
    assert run(desk, *words, budgets=["18", "9", "30"]) == 0
    told = [(line[1].rpartition("/")[2], line[2:]) for line in map(shlex.split, capsys.readouterr().out.splitlines())]
    trained = {f"{run_folder(args)}/last.pt": args for args in (parse(w) for name, w in told if name == "main.py")}
    chosen = [dict(zip(w[::2], w[1::2], strict=True)) for name, w in told if name == "select_subset.py"]
    rounds = [flags for flags in chosen if "--from" in flags]
    assert len(chosen) == 9 and len(rounds) == 8  # two strategies, methods and rounds; and the first list of all
    for flags in rounds:
        args = trained[flags["--features"]]
        assert args.train_list == flags["--from"] and f".{args.method}.random.9-18" in flags["--out"]
        assert flags["--out"] in {other.train_list for other in trained.values()}
    lists = [args.train_list for args in trained.values() if args.train_list]
    assert len(lists) == 10 and sum(path.endswith("/random.9.txt") for path in lists) == 2


def test_rounds_begin_with_a_strategy_that_needs_no_label(desk, capsys):
    assert run(desk, "--strategies", "entropy", "--first", "kmeans", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("--strategy kmeans --budget 9 " in line for line in lines) == 2  # for two seeds, and at no other budget
    assert not any("--strategy kmeans --budget 18 " in line for line in lines)
    with pytest.raises(RunError, match="--train_list is for the script to say"):
        run(desk, "--train_list", "few.txt", "--list")
    with pytest.raises(RunError, match="--first badge goes by rounds: name one that needs no label"):
        run(desk, "--first", "badge", "--list")


@pytest.mark.parametrize("name", ["best", "kmeans-no-alignment", "mmcsal-no"])
def test_strategies_that_do_not_exist(desk, name):
    with pytest.raises(RunError, match=f"--strategies {name}: there are random, kmeans,"):
        run(desk, "--strategies", name, "--list")
    both = Subset.of("mmcsal-no-prototypes-no-alignment")
    assert (both.strategy, both.pretraining, both.choice) == ("mmcsal", ("--prototypes", "0"), ("--lambda_align", "0"))


def test_differences_are_paired_and_their_mean_is_over_the_budgets_of_the_strategy():
    draws = np.random.default_rng(0)
    shares_right = {"a": 0.8, "b": 0.5}
    right = {f"{k} {n}": (draws.random((2, 50)) < p).astype(int) for k, p in shares_right.items() for n in (9, 18)}
    by_budget = [100 * (right[f"a {n}"] - right[f"b {n}"]).mean() for n in (9, 18)]
    study = SimpleNamespace(budgets=[9, 18])

    def cells(name, right=right):
        found = differences(study, right, Subset.of(name), "a {}", "b {}")
        return [float(cell.split(" (")[0]) if cell != "-" else None for cell in found]

    assert cells("kmeans") == pytest.approx([*by_budget, np.mean(by_budget)], abs=0.05)
    assert cells("badge")[0] is None and cells("badge")[1:] == pytest.approx([by_budget[1]] * 2, abs=0.05)
    assert cells("kmeans", {k: x for k, x in right.items() if k != "b 9"})[::2] == [None, None]
    low, high = (100 * end for end in interval(right["a 9"] - right["b 9"]))
    assert shown(right["a 9"] - right["b 9"]) == f"{by_budget[0]:+.1f} ({low:+.1f} to {high:+.1f})"
    assert shown(2 * (right["a 9"] - right["b 9"]), 2) == shown(right["a 9"] - right["b 9"])


def test_the_intervals_of_accuracies_stand_beside_the_points_and_leave_the_axis_alone():
    draws = np.random.default_rng(0)
    right = {f"Joint training, {name}, 9 labels": draws.integers(0, 2, (2, 50)) for name in "ab"}
    axis = Figure().subplots()
    axis.set_xscale("log")
    axis.plot([9, 18], [50, 60])
    limits = axis.get_xlim()
    draw_intervals(axis, SimpleNamespace(names=["a", "b", "c"], budgets=[9, 18]), right, "joint")
    drawn = [lines.get_segments()[0] for lines in axis.collections]
    assert [segment[:, 1].tolist() for segment in drawn] == [[100 * end for end in interval(x)] for x in right.values()]
    assert drawn[0][0, 0] < 9 and drawn[1][0, 0] == 9 and axis.get_xlim() == limits


def test_the_modality_that_dominates_and_its_lead():
    found = {"accuracy": 90.0, "audio": 40.0, "visual": 55.0, "text": 52.0}
    assert dominance(found, ["audio", "visual", "text"]) == {"dominant": "visual", "lead": 3.0}
    assert dominance(found, ["audio"]) == {}


def test_shares_of_classes():
    assert shares([0, 2, 2, 2], 4).tolist() == [0.25, 0, 0.75, 0]


def test_a_deviation_needs_two_seeds():
    assert [summary(values, 2) for values in ([1.0, 2.0], [1.0], [None])] == ["1.50 +- 0.71", "1.00", "-"]
