"""Sweeps: which settings they are, how one is chosen, and that only the validation split has a say in that."""

import csv
import json
import math
import os
import shlex
from argparse import Namespace

import pytest
from helpers.desk import EXTRA, Desk, Inline
from helpers.results import rows_of

from engine.parser import parse
from methods import METHODS
from methods.joint import Joint
from scripts import sweep
from scripts.drawing import figures
from scripts.drawing.pictures import Runs
from scripts.drawing.sweeps import sweep as sweep_of_runs
from scripts.experiments import request, tuning
from scripts.experiments.cells import Setting
from scripts.experiments.ours import stages
from scripts.experiments.paper import EXPERIMENTS
from scripts.experiments.search import Range, draw, every_combination, read_space
from utils.errors import RunError

BASE = ["--dataset", "demo", "--method", "inforeg"]


@pytest.fixture
def desk(monkeypatch, demo, tmp_path):
    """A desk whose tables and figures are really written, and whose runs happen in this process."""
    write, draw_figure = request.write_experiment, figures.draw
    desk = Desk(monkeypatch, demo, tmp_path / "out", Inline)
    monkeypatch.setattr(request, "write_experiment", write)
    monkeypatch.setattr(figures, "draw", draw_figure)
    return desk


def run(desk, *words):
    places = ["--out", str(desk.out), "--data_root", os.environ["DATA_ROOT"]]
    return desk.run(*BASE, *words, *places, *EXTRA.split(), main=sweep.main)


def told(desk):
    """The arguments of the runs that were started."""
    return [parse(shlex.split(command)[2:]) for command in desk.commands]


def test_a_grid_is_every_combination_and_a_flag_has_only_values_that_it_takes():
    space = read_space(["beta=0.1,0.5,0.1", "threshold=-0.02,0.04"], "demo", "inforeg")
    assert every_combination(space) == [
        {"beta": "0.1", "threshold": "-0.02"}, {"beta": "0.1", "threshold": "0.04"},
        {"beta": "0.5", "threshold": "-0.02"}, {"beta": "0.5", "threshold": "0.04"},
    ]  # fmt: skip
    noise = read_space(["train_noise=audio:snr:0,audio:snr:10"], "demo", "joint")["train_noise"]
    assert noise == ["audio:snr:0", "audio:snr:10"]  # no range


@pytest.mark.parametrize(
    "word, method, said",
    [
        ("beta=0.1,x", "inforeg", "--grid beta=0.1,x: 'x' is not"),
        ("fusion=concat,summ", "inforeg", "'summ' is none of concat, "),
        ("bta=0.1", "inforeg", "unknown argument --bta=0.1; did you mean --beta?"),
        ("beta=0.1", "joint", "--beta is a flag of --method inforeg, not of joint"),
        ("seed=1,2", "joint", "--seed is no part of a setting"),
        ("workers=1,2", "joint", "--workers is no part of a setting"),
        ("compile=1", "joint", "takes no value; give it after the others"),
        ("lr", "joint", "give each flag once, as in beta=0.1,0.5"),
        ("lr=0.1:0.01", "joint", "from the smaller to the larger number"),
        ("weight_decay=log:0:1", "joint", "both above 0"),
        ("lr=-1:1", "joint", "'-1' is not a positive number"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(word, method, said):
    with pytest.raises(RunError) as refused:
        read_space([word], "demo", method)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_drawn_settings_are_the_seeds_alone_and_more_of_them_begin_with_the_same():
    words = ["lr=log:1e-3:1e-1", "beta=0.1:1.0", "batch_size=16:64", "fusion=concat,sum"]
    space = read_space(words, "demo", "inforeg")
    assert [values.whole for values in space.values() if isinstance(values, Range)] == [False, False, True]
    many = draw(space, 400, seed=3)
    assert draw(space, 20, seed=3) == many[:20] and draw(space, 20, seed=4) != many[:20]
    logs = [math.log10(float(setting["lr"])) for setting in many]
    betas = [float(setting["beta"]) for setting in many]
    sizes = [int(setting["batch_size"]) for setting in many]
    assert -3 <= min(logs) < -2.9 and -1.1 < max(logs) <= -1
    assert abs(sum(logs) / 400 + 2) < 0.1 and abs(sum(betas) / 400 - 0.55) < 0.05  # five standard errors or more
    assert 0.1 <= min(betas) and max(betas) <= 1 and 16 <= min(sizes) and max(sizes) <= 64
    assert 150 < sum(setting["fusion"] == "sum" for setting in many) < 250
    assert len(draw(read_space(["fusion=concat,sum"], "demo", "inforeg"), 50, 0)) == 2  # each setting once
    with pytest.raises(RunError, match="--lr has a range: say how many settings to draw by --random"):
        every_combination(space)


def test_a_sweep_makes_its_runs_its_table_and_its_plot_once(desk, capsys):
    grid = ["--grid", "beta=0.1,0.9", "threshold=-9,0.04", "--seeds", "0", "1", "--joint"]
    assert run(desk, *grid, "--list") == 0 and not desk.commands
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(set(listed)) == 2 * (1 + 4)
    assert run(desk, *grid) == 0 and desk.commands == listed
    assert {(a.method, a.seed, getattr(a, "beta", None), a.threshold) for a in told(desk)} == {
        *(("inforeg", seed, beta, k) for seed in (0, 1) for beta in (0.1, 0.9) for k in (-9, 0.04)),
        *(("joint", seed, None, 0.04) for seed in (0, 1)),
    }
    name = "sweep_inforeg_beta_threshold_demo"
    rows = rows_of((desk.out / "tables" / f"{name}.md").read_text())
    assert list(rows) == ["Joint training", *(f"beta {b}, threshold {k}" for b in (0.1, 0.9) for k in (-9, 0.04))]
    with (desk.out / "figures" / f"{name}.csv").open() as file:
        points = list(csv.DictReader(file))
    for label, row in rows.items():  # every number of the table is a point of the plot
        mean = float(row["accuracy"].strip("*").split(" ")[0].removeprefix("<u>"))
        assert any(float(point["mean"]) == pytest.approx(mean, abs=0.051) for point in points), label
    assert {point["curve"] for point in points} == {
        "Joint training", "threshold -9", "threshold 0.04", "beta 0.1", "beta 0.9",
    }  # fmt: skip
    assert run(desk, *grid) == 0 and not desk.commands


def test_a_random_search_is_drawn_as_points(desk):
    words = ["--grid", "lr=log:1e-3:1e-1", "beta=0.1:1.0", "--random", "3", "--search_seed", "5", "--seeds", "0"]
    assert run(desk, *words) == 0 and len(desk.commands) == 3
    (path,) = (desk.out / "figures").glob("sweep_inforeg_lr_beta_demo.csv")
    with path.open() as file:
        points = list(csv.DictReader(file))
    assert [point["curve"] for point in points] == ["a setting"] * 6
    assert sorted(float(point["x"]) for point in points[:3]) == sorted(args.lr for args in told(desk))


def test_words_are_points_side_by_side_and_equal_curves_are_both_seen(tmp_path):
    def runs(label, **flags):
        return Runs(label, Namespace(method="inforeg", **flags), [tmp_path / f"{label} {seed}" for seed in (0, 1)])

    accuracy = {"paper": (60.0, 70.0), "accumulated": (80.0, 81.0)}  # whatever beta is
    rows = [runs(f"{b} {w}", beta=b, window=w) for b in (0.5, 0.9) for w in accuracy]
    rows.append(runs("Joint training"))

    def read(folder):
        *_, window, seed = folder.name.split(" ")
        return accuracy.get(window, (60.0, 70.0))[int(seed)]

    beta, window = sweep_of_runs(rows, ("beta", "window"), read, "accuracy").figure.axes
    paper, accumulated, joint = beta.lines
    assert list(paper.get_ydata()) == list(joint.get_ydata()) == [65, 65]
    assert paper.get_linewidth() - joint.get_linewidth() > 1 and paper.get_linestyle() == "-"
    *points, joint = window.lines
    assert [line.get_linestyle() for line in (*points, joint)] == ["None", "None", "--"]
    assert [line.get_label() for line in points] == ["beta 0.5", "beta 0.9"]
    places = [round(at) for line in points for at in line.get_xdata()]
    assert places == [0, 1, 0, 1] and len({at for line in points for at in line.get_xdata()}) == 4
    spread = 50**0.5
    bars = window.collections[0].get_segments()
    assert [tuple(bar[:, 1]) for bar in bars][0] == pytest.approx((65 - spread, 65 + spread))
    assert [tick.get_text() for tick in window.get_xticklabels()] == ["paper", "accumulated"]


def test_tuning_chooses_by_validation_alone_and_then_runs_every_seed(desk, monkeypatch, capsys):
    words = ["--grid", "beta=0.1,0.5,0.9", "--tune", "7", "--seeds", "0", "1", "--val_fraction", "0.17"]
    accuracies = {"0.1": 30.0, "0.5": 60.0, "0.9": 60.0}
    read = tuning.validated

    def validated(folder):
        epoch, _ = read(folder)
        return epoch, accuracies[str(json.loads((folder / "args.json").read_text())["beta"])]

    assert run(desk, *words, "--list") == 0
    assert len((said := capsys.readouterr()).out.splitlines()) == 3 and "when these 3 are done" in said.err
    monkeypatch.setattr(tuning, "validated", validated)
    assert run(desk, *words) == 0
    assert [(args.beta, args.seed) for args in told(desk)] == [(0.1, 7), (0.5, 7), (0.9, 7), (0.5, 0), (0.5, 1)]
    search = rows_of((desk.out / "tables" / "sweep_inforeg_beta_demo_search.md").read_text())
    assert [row["validation accuracy"] for row in search.values()] == ["30.0", "**60.0**", "60.0"]
    table = (desk.out / "tables" / "sweep_inforeg_beta_tuned_demo_val.md").read_text()
    assert list(rows_of(table)) == ["beta 0.5"] and "chosen by validation with seed 7" in table and "rule val" in table
    # The metrics of the test split could be anything.
    for file in desk.out.rglob("seed7/result.json"):
        result = json.loads(file.read_text())
        file.write_text(json.dumps({rule: {"epoch": found["epoch"]} for rule, found in result.items()}))
        lines = [json.loads(line) for line in (file.parent / "metrics.jsonl").read_text().splitlines()]
        text = "".join(json.dumps({k: v for k, v in line.items() if k != "test"}) + "\n" for line in lines)
        (file.parent / "metrics.jsonl").write_text(text)
        (file.parent / "checksums.txt").unlink()
    before = capsys.readouterr().out
    assert run(desk, *words) == 0 and not desk.commands
    assert table in before and table in capsys.readouterr().out


def test_the_validation_accuracy_is_that_of_the_epoch_which_the_run_chose(desk):
    run(desk, "--grid", "beta=0.9", "--seeds", "3", "--val_fraction", "0.17", "--epochs", "3")
    (folder,) = desk.out.glob("demo/inforeg/*/seed3")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(line["val"]["accuracy"] for line in lines)
    epoch, accuracy = tuning.validated(folder)
    assert accuracy == 100 * best == 100 * lines[epoch - 1]["val"]["accuracy"]


def test_without_a_validation_split_nothing_is_chosen(desk):
    with pytest.raises(RunError, match="demo has none: withhold one by --val_fraction 0.1; the test split chooses"):
        run(desk, "--grid", "beta=0.1,0.9", "--tune", "0")
    with pytest.raises(RunError, match="leave out --rule oracle"):
        run(desk, "--grid", "beta=0.1,0.9", "--tune", "0", "--rule", "oracle", "--val_fraction", "0.1")
    assert not desk.out.exists()


def test_a_setting_that_fails_is_named_and_not_chosen(desk, monkeypatch, capsys):
    losses = METHODS["inforeg"].losses

    def broken(self, output):
        if self.args.beta == 0.1:
            raise RunError("no such luck")
        return losses(self, output)

    monkeypatch.setattr(METHODS["inforeg"], "losses", broken)
    monkeypatch.setattr(Inline, "__init__", patient(Inline.__init__))
    words = ["--grid", "beta=0.1,0.9", "--tune", "0", "--seeds", "0", "--val_fraction", "0.17"]
    assert run(desk, *words) == 1
    said = capsys.readouterr().out
    assert "failed: beta 0.1 on demo, seed 0: no such luck" in said and "| beta 0.9 | 1 |" in said


def patient(start):
    """A run in this process whose end by an error is its exit status, not the end of the test."""

    def begin(self, *words, **more):
        try:
            start(self, *words, **more)
        except SystemExit as end:
            self.returncode = end.code

    return begin


def test_flags_that_the_script_sets_and_settings_that_are_none(desk):
    with pytest.raises(RunError, match="the flags of every run: --tag is for the script to say"):
        run(desk, "--grid", "beta=0.1", "--tag", "mine")
    with pytest.raises(RunError, match="no setting of the sweep can be run: --window_smoothing does not apply"):
        run(desk, "--grid", "window_smoothing=2,3", "--window", "accumulated")
    with pytest.raises(RunError, match="unknown argument --epoch"):
        run(desk, "--grid", "beta=0.1", "--epoch", "2")


def test_a_method_that_a_user_registers_is_a_row_of_every_method(monkeypatch):
    labels = [row.label for row in EXPERIMENTS["methods"].rows(setting())]
    assert all(any(name in row.flags.split() for row in EXPERIMENTS["methods"].rows(setting())) for name in METHODS)
    monkeypatch.setitem(METHODS, "mine", type("Mine", (Joint,), {}))
    rows = EXPERIMENTS["methods"].rows(setting())
    assert [row.label for row in rows] == [*labels, "mine"] and rows[-1].flags == "--method mine"


def setting():
    return Setting(("audio", "visual"), parse(["--dataset", "demo", "--method", "joint"]))


@pytest.mark.parametrize(
    "epochs, count, flags", [(100, 2, (5, 5)), (20, 2, (5, 5)), (60, 3, (5, 5)), (96, 2, (4, 4)), (50, 2, (2, 3))]
)
def test_reconboost_ends_with_a_whole_cycle_of_the_modalities(epochs, count, flags):
    found = stages(Setting(("audio", "visual", "text")[:count], parse(["--method", "joint", "--epochs", str(epochs)])))
    assert found == "--phase_epochs {} --rectify_epochs {}".format(*flags)
    assert epochs % (count * sum(flags)) == 0
    assert stages(Setting(("audio", "visual"), parse(["--method", "joint", "--epochs", "7"]))) == ""
