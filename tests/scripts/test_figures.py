"""The figures: the numbers behind them, the curves in them, and what is said where runs are missing."""

import csv
import json
import random
import runpy
import shlex
import statistics
import sys

import numpy as np
import pytest
from helpers.places import ROOT
from helpers.runs import SETTING, SMALL, make_demo, rows_of
from helpers.three import Three
from helpers.written import texts

import main as program
from dataset import DATASETS
from dataset.demo import Demo
from scripts import figures as program_of_figures
from scripts.drawing import figures
from scripts.drawing.pictures import caption_of
from scripts.experiments.cells import ALONE, Experiment, Row, cells, setting_of
from scripts.experiments.paper import EXPERIMENTS
from scripts.experiments.request import DRAWN
from utils.errors import RunError
from utils.runs.plots import style

JOINT, INFOREG = Row("Joint training", "--method joint"), Row("InfoReg", "--method inforeg")


def alone(setting):
    return tuple(Row(f"{name} alone", ALONE.format(name)) for name in setting.modalities)


def swept(flag, values):
    return lambda setting: (JOINT, *(Row(f"{flag} {value}", f"--method inforeg --{flag} {value}") for value in values))


ROWS = {
    "figure1": lambda setting: (*alone(setting), JOINT),
    "figure3": lambda setting: (JOINT,),
    "figure5": lambda setting: (JOINT, INFOREG),
    "figure7": swept("beta", (0.9, 0.1, 1.0)),
    "figure8": swept("threshold", (0.01, 0.1, 0.04)),
    "figure10": lambda setting: (JOINT,),
}
LINES = tuple(ROWS)
DECLARED = dict(EXPERIMENTS)


@pytest.fixture(autouse=True)
def experiments(monkeypatch):
    """Runs for every figure, by rows of the tests' own."""
    for name, rows in ROWS.items():
        monkeypatch.setitem(EXPERIMENTS, name, Experiment(name, f"Title of {name}", ("demo",), (), rows))


def write_runs(out, name, seeds=(0, 1), dataset="demo", change=lambda row, seed: None):
    """Finished runs of three epochs, with numbers that no other run has; {(label, seed): its lines}."""
    written = {}
    for cell in cells(EXPERIMENTS[name], dataset, seeds, out):
        names = setting_of(EXPERIMENTS[name], dataset, out).modalities
        trained = [n for n in names if cell.row.label == f"{n} alone"] or names
        draws = random.Random(f"{cell.row.label} {cell.seed}")
        rows = []
        for epoch in range(3):
            row = {"epoch": epoch}
            row |= {key: {n: draws.uniform(1, 9) for n in trained} for key in ("fisher_trace", "gradient_norm")}
            row["test"] = {n: draws.random() for n in ("accuracy", *trained)}
            change(row, cell.seed)
            rows.append(row)
        cell.folder.mkdir(parents=True)
        (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (cell.folder / "result.json").write_text(json.dumps({"last": rows[-1]["test"], "oracle": {"accuracy": 0.99}}))
        (cell.folder / "done").write_text("{}")
        written[cell.row.label, cell.seed] = rows
    return written


def numbers(picture):
    """{(panel, curve): [line of the table]} of the CSV beside a picture, as floats where they are."""
    found = {}
    with picture.with_suffix(".csv").open(newline="") as file:
        for line in csv.DictReader(file):
            key = (line.pop("panel"), line.pop("curve"))
            found.setdefault(key, []).append({name: float(value) for name, value in line.items() if value})
    return found


def check_curve(lines, x, values, seeds=(0, 1)):
    """`values`: {seed: its values}; every column of the table against them."""
    assert [line["x"] for line in lines] == list(x)
    for i, line in enumerate(lines):
        of = [values[seed][i] for seed in seeds]
        assert [line[f"seed{seed}"] for seed in seeds] == pytest.approx(of, rel=1e-12)
        assert line["mean"] == pytest.approx(sum(of) / len(of), rel=1e-12)
        assert len(of) == 1 or line["deviation"] == pytest.approx(statistics.stdev(of), rel=1e-12)  # as in the tables


def of_runs(written, label, column, name, seeds=(0, 1)):
    return {seed: [row[column][name] for row in written[label, seed]] for seed in seeds}


def drawn(monkeypatch, *args):
    """A picture's axes and its path."""
    kept = []
    monkeypatch.setattr(
        figures, "save", lambda picture, *told, save=figures.save: kept.append(picture) or save(picture, *told)
    )
    path = figures.draw(*args)
    return kept[0].figure.axes, path


def test_figure1_has_the_traces_of_the_right_runs_and_their_sum(tmp_path, monkeypatch):
    written = write_runs(tmp_path, "figure1")
    decoy = tmp_path / "demo" / "joint" / "unimodal_loss=split" / "seed0"
    decoy.mkdir(parents=True)
    (decoy / "metrics.jsonl").write_text("broken")
    axes, path = drawn(monkeypatch, EXPERIMENTS["figure1"], "demo", [0, 1], tmp_path)
    assert path == tmp_path / "figures" / "figure1_demo.svg"
    table = numbers(path)
    together, apart = "(a) trained together", "(b) each trained alone"
    assert list(table) == [
        (together, "model"),
        (together, "audio"),
        (together, "visual"),
        (apart, "audio"),
        (apart, "visual"),
    ]
    for name in ("audio", "visual"):
        joint = of_runs(written, JOINT.label, "fisher_trace", name)
        check_curve(table[together, name], [1, 2, 3], joint)
        check_curve(table[apart, name], [1, 2, 3], of_runs(written, f"{name} alone", "fisher_trace", name))
    model = {seed: [sum(row["fisher_trace"].values()) for row in written[JOINT.label, seed]] for seed in (0, 1)}
    check_curve(table[together, "model"], [1, 2, 3], model)
    for axis, panel in zip(axes, (together, apart), strict=True):
        for line in axis.get_lines():
            assert [point["mean"] for point in table[panel, line.get_label()]] == pytest.approx(
                line.get_ydata().tolist()
            )
        assert axis.get_yscale() == "log" and len(axis.collections) == len(axis.get_lines())  # a band for each
    said = "mean ± standard deviation of 2 seeds (of the logarithms on a logarithmic axis)"
    assert {"epoch", "model", "audio", "visual", together, apart, said} <= set(texts(path))
    assert caption_of(path) == f"Title of figure1; demo, {said}"


def test_every_figure_that_is_declared_can_be_drawn():
    assert {name for name in DECLARED if name.startswith("figure")} | set(DRAWN) == set(figures.FIGURES)
    assert (ROOT / "scripts" / "reproduce.sh").exists()  # which an error names


@pytest.mark.parametrize("name", LINES)
def test_the_declared_runs_are_those_that_the_figure_shows(tmp_path, monkeypatch, name):
    monkeypatch.setitem(EXPERIMENTS, name, DECLARED[name])
    written = write_runs(tmp_path, name, seeds=[0])
    shown = [
        line["mean"]
        for lines in numbers(figures.draw(EXPERIMENTS[name], "demo", [0], tmp_path)).values()
        for line in lines
    ]
    for rows in written.values():  # every run has given a number
        test, trace = rows[-1]["test"]["accuracy"], next(iter(rows[-1]["fisher_trace"].values()))
        assert any(value in shown for value in (100 * test, trace))


def test_six_modalities_differ_in_colour_in_marker_and_in_dash():
    for key in ("color", "marker", "linestyle"):
        assert len({style(place)[key] for place in range(6)}) == 6


def test_figure3_has_both_sizes_and_their_gaps(tmp_path):
    written = write_runs(tmp_path, "figure3")
    table = numbers(figures.draw(EXPERIMENTS["figure3"], "demo", [0, 1], tmp_path))
    assert len(table) == 6
    for panel, column in (("(a) gradient", "gradient_norm"), ("(b) information", "fisher_trace")):
        sizes = [of_runs(written, JOINT.label, column, name) for name in ("audio", "visual")]
        gap = {seed: np.abs(np.subtract(sizes[0][seed], sizes[1][seed])) for seed in (0, 1)}
        check_curve(table[panel, "gap (largest - smallest)"], [1, 2, 3], gap)
        for name in ("audio", "visual"):
            check_curve(table[panel, name], [1, 2, 3], of_runs(written, JOINT.label, column, name))


def test_figure5_has_accuracies_and_the_traces_of_the_modality_that_stays_behind(tmp_path, monkeypatch):
    def sound_is_slow(row, seed):
        # Only in the last epoch, and not with every seed; the smallest single accuracy is the picture's.
        last = {"audio": (0.3, 0.4)[seed], "visual": (0.05, 0.9)[seed]}
        row["test"] |= last if row["epoch"] == 2 else {"audio": 0.6, "visual": 0.1}

    written = write_runs(tmp_path, "figure5", change=sound_is_slow)
    axes, path = drawn(monkeypatch, EXPERIMENTS["figure5"], "demo", [0, 1], tmp_path)
    table = numbers(path)
    for label in (JOINT.label, INFOREG.label):
        for curve, name in (("fused", "accuracy"), ("audio", "audio"), ("visual", "visual")):
            wanted = of_runs(written, label, "test", name)
            percent = {seed: [100 * share for share in shares] for seed, shares in wanted.items()}
            check_curve(table["(a) accuracy", f"{curve}, {label}"], [1, 2, 3], percent)
        slow = of_runs(written, label, "fisher_trace", "audio")
        check_curve(table["(c) audio, the slow modality", label], [1, 2, 3], slow)
    for name in ("audio", "visual"):
        wanted = of_runs(written, INFOREG.label, "fisher_trace", name)
        check_curve(table["(b) InfoReg", name], [1, 2, 3], wanted)
    assert len(table) == 6 + 3 + 2
    assert [len(axis.get_lines()) for axis in axes] == [6, 3, 2]
    assert [axis.get_yscale() for axis in axes] == ["linear", "log", "log"]


@pytest.mark.parametrize(
    "name, flag, x, axis", [("figure7", "beta", [0.1, 0.9, 1.0], "β"), ("figure8", "threshold", [0.01, 0.04, 0.1], "K")]
)
def test_a_sweep_has_its_values_in_order_and_joint_training_as_a_level(tmp_path, monkeypatch, name, flag, x, axis):
    written = write_runs(tmp_path, name)
    axes, path = drawn(monkeypatch, EXPERIMENTS[name], "demo", [0, 1], tmp_path)
    table = numbers(path)
    (panel,) = {panel for panel, _ in table}
    reached = {key: 100 * rows[-1]["test"]["accuracy"] for key, rows in written.items()}
    swept = {seed: [reached[f"{flag} {value}", seed] for value in x] for seed in (0, 1)}
    assert swept[0] != sorted(swept[0])  # so the values' order has decided something
    check_curve(table[panel, "InfoReg"], x, swept)
    check_curve(table[panel, JOINT.label], x, {seed: 3 * [reached[JOINT.label, seed]] for seed in (0, 1)})
    (axes,) = axes
    assert axes.get_xlabel().endswith(axis) and [tick.get_text() for tick in axes.get_xticklabels()] == [
        f"{v:g}" for v in x
    ]


def test_figure10_is_the_first_panel_of_figure1(tmp_path):
    written = write_runs(tmp_path, "figure10")
    table = numbers(figures.draw(EXPERIMENTS["figure10"], "demo", [0, 1], tmp_path))
    assert [curve for _, curve in table] == ["model", "audio", "visual"]
    check_curve(
        table["trained together", "visual"],
        [1, 2, 3],
        of_runs(written, JOINT.label, "fisher_trace", "visual"),
    )


@pytest.mark.parametrize("name", LINES)
def test_three_modalities_with_labelled_axes_and_curves_known_without_their_colour(tmp_path, monkeypatch, name):
    monkeypatch.setitem(DATASETS, "three", Three)
    written = write_runs(tmp_path, name, dataset="three")
    axes, path = drawn(monkeypatch, EXPERIMENTS[name], "three", [0, 1], tmp_path)
    for axis in axes:
        shared = axis.get_subplotspec().colspan.start > 0 and axis.get_shared_y_axes().joined(axes[0], axis)
        assert axis.get_xlabel() and bool(axis.get_ylabel()) != shared and axis.get_legend() is not None
        looks = [(line.get_marker(), line.get_linestyle()) for line in axis.get_lines()]
        assert len(set(looks)) == len(looks)
    assert f"Title of {name}" in caption_of(path) and not any("Title" in text for text in texts(path))
    table = numbers(path)
    if name in ("figure7", "figure8"):
        assert len(table) == 2
        return
    assert {"audio", "visual", "depth"} <= {curve.split(",")[0] for _, curve in table}
    if name == "figure3":
        sizes = [row["gradient_norm"].values() for row in written[JOINT.label, 1]]
        gap = [line["seed1"] for line in table["(a) gradient", "gap (largest - smallest)"]]
        assert gap == pytest.approx([max(of) - min(of) for of in sizes])
    colours = {}
    for axis in axes:  # a modality looks the same in every panel
        for line in axis.get_lines():
            if line.get_label() in Three.modalities:
                colours.setdefault(line.get_label(), set()).add((line.get_color(), line.get_marker()))
    assert all(len(looks) == 1 for looks in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


@pytest.mark.parametrize("name", ["figure5", "figure7"])
def test_one_seed(tmp_path, name):
    write_runs(tmp_path, name, seeds=[3])
    path = figures.draw(EXPERIMENTS[name], "demo", [3], tmp_path)
    for lines in numbers(path).values():
        assert all(line["mean"] == line["seed3"] and "deviation" not in line for line in lines)
    assert caption_of(path).endswith("demo, seed3")


def test_a_number_that_was_not_finite_leaves_a_hole(tmp_path, monkeypatch):
    def diverge(row, seed):
        if row["epoch"] == 1:
            row["fisher_trace"]["audio"] = None

    write_runs(tmp_path, "figure10", change=diverge)
    axes, path = drawn(monkeypatch, EXPERIMENTS["figure10"], "demo", [0, 1], tmp_path)
    table = numbers(path)
    for curve, held in (("audio", [True, False, True]), ("model", [True, False, True]), ("visual", 3 * [True])):
        assert [line["mean"] == line["mean"] for line in table["trained together", curve]] == held


def test_runs_of_unequal_length_are_shown_as_far_as_all_go(tmp_path):
    written = write_runs(tmp_path, "figure10")
    (stopped, *_) = tmp_path.rglob("seed1/metrics.jsonl")
    stopped.write_text("".join(stopped.read_text().splitlines(keepends=True)[:2]))
    table = numbers(figures.draw(EXPERIMENTS["figure10"], "demo", [0, 1], tmp_path))
    first = {seed: sizes[:2] for seed, sizes in of_runs(written, JOINT.label, "fisher_trace", "audio").items()}
    check_curve(table["trained together", "audio"], [1, 2], first)


def test_missing_runs_are_counted_and_the_command_that_makes_them_is_named(tmp_path):
    write_runs(tmp_path, "figure7", seeds=[0])
    extra = ["--epochs", "3", "--tag", "two words"]
    with pytest.raises(RunError) as refused:
        figures.draw(EXPERIMENTS["figure7"], "demo", [0, 4], tmp_path, "some where", [])
    message = str(refused.value)
    assert message.startswith("figure7 lacks 4 of 8 runs on demo, first Joint training, seed 4 (not run): ")
    assert "\n" not in message
    words = shlex.split(message.partition("(not run): ")[2])
    assert words == [
        "SEEDS=0 4",
        "DATASET=demo",
        "DATA_ROOT=some where",
        f"OUT={tmp_path}",
        "bash",
        "scripts/reproduce.sh",
        "figure7",
    ]
    with pytest.raises(RunError) as refused:
        figures.draw(EXPERIMENTS["figure10"], "demo", [0], tmp_path, None, extra)
    words = shlex.split(str(refused.value).partition("(not run): ")[2])
    assert words == [
        "SEEDS=0",
        "DATASET=demo",
        f"OUT={tmp_path}",
        f"EXTRA={shlex.join(extra)}",
        "bash",
        "scripts/reproduce.sh",
        "figure10",
    ]
    assert not (tmp_path / "figures").exists()


def test_an_unfinished_run_is_a_missing_one(tmp_path):
    write_runs(tmp_path, "figure10")
    (tmp_path / "demo" / "joint" / "default" / "seed1" / "done").unlink()
    with pytest.raises(RunError, match="lacks 1 of 2 runs"):
        figures.draw(EXPERIMENTS["figure10"], "demo", [0, 1], tmp_path)


def test_where_nothing_can_be_written(tmp_path):
    write_runs(tmp_path, "figure10")
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(RunError, match="cannot write to .*figures"):
        figures.draw(EXPERIMENTS["figure10"], "demo", [0, 1], tmp_path)


def test_the_same_runs_give_the_same_bytes(tmp_path, capsys, every_form):
    write_runs(tmp_path, "figure5")
    path = figures.draw(EXPERIMENTS["figure5"], "demo", [0, 1], tmp_path)
    first = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert set(first) == {f"figure5_demo.{form}" for form in ("svg", "pdf", "png", "csv")}
    assert first["figure5_demo.pdf"].startswith(b"%PDF") and first["figure5_demo.png"].startswith(b"\x89PNG")
    for file in path.parent.iterdir():
        file.unlink()
    # By the command line, with another flag of main.py that names the same runs.
    words = ["figure5", "--dataset", "demo", "--seeds", "0", "1", "--out", str(tmp_path), "--tag=default"]
    assert program_of_figures.main(words) == path and capsys.readouterr().out == f"written: {path}\n"
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == first


def test_the_command_ends_in_one_sentence(tmp_path, monkeypatch):
    command = ["figures.py", "figure10", "--dataset", "demo", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="^error: figure10 lacks 3 of 3 runs on demo, [^\n]*$"):
        runpy.run_path(program_of_figures.__file__, run_name="__main__")
    monkeypatch.setattr(sys, "argv", [*command, "--epoch", "3"])
    with pytest.raises(SystemExit, match="^error: unknown argument --epoch; did you mean --epochs.$"):
        runpy.run_path(program_of_figures.__file__, run_name="__main__")


def test_the_figures_of_real_runs(tmp_path, monkeypatch):
    demo = make_demo(tmp_path / "demo_data")
    flags = "--frames 1 --image_size 32 --batch_size 16 --workers 0 --device cpu --epochs 2".split()
    extra = [*(f"--{name}={value}" for name, value in SETTING.items()), *flags]
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    folders = {}
    for name in ("figure1", "figure3", "figure5"):
        for cell in cells(EXPERIMENTS[name], "demo", [0], tmp_path, demo, extra):
            program.main(list(cell.argv[1:]))
            folders[cell.row.label] = cell.folder
        path = figures.draw(EXPERIMENTS[name], "demo", [0], tmp_path, demo, extra)
        table = numbers(path)
        panel, curve, column, of = {
            "figure1": ("(a) trained together", "visual", "fisher_trace", "visual"),
            "figure3": ("(a) gradient", "audio", "gradient_norm", "audio"),
            "figure5": ("(c) audio, the slow modality", JOINT.label, "fisher_trace", "audio"),
        }[name]
        check_curve(table[panel, curve], [1, 2], {0: [row[column][of] for row in rows_of(folders[JOINT.label])]}, [0])
