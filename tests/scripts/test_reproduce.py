"""Tables and figures from one command each: which runs they are, and with which flags."""

import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.desk import EXTRA, Inline, count_trainings
from helpers.instances import make_series, save_series
from helpers.places import ROOT

from engine.parser import parse
from methods import METHODS
from scripts import reproduce
from scripts.drawing.figures import FIGURES
from scripts.experiments.cells import LOG, Experiment, Row, cells, folder_of, setting_of
from scripts.experiments.paper import EXPERIMENTS


def listed(capsys, desk, *words):
    capsys.readouterr()
    assert desk.run(*words, "--list") == 0 and not desk.commands
    return capsys.readouterr().out.splitlines()


def test_every_script_on_the_demo(desk, capsys, monkeypatch, tmp_path):
    """All of them into one folder, so that what two share is trained once; what is listed is what is run."""
    desk.process = Inline
    count_trainings(monkeypatch, tmp_path / "trained")
    for name, experiment in EXPERIMENTS.items():
        found = desk.cells(name)
        wanted = {cell.folder: not cell.done for cell in found}
        commands = listed(capsys, desk, name)
        assert len(commands) == len(set(commands)) == len(found)
        assert desk.run(name) == 0, capsys.readouterr().out
        assert set(desk.commands) <= set(commands) and len(desk.commands) == sum(wanted.values())
        assert all(cell.done for cell in found), name
        said = capsys.readouterr().out
        assert f"{len(found)} to do, {len(found) - len(desk.commands)} done before, 2 at a time" in said
        told = ("demo", [0], str(desk.out), os.environ["DATA_ROOT"], EXTRA.split())
        assert desk.tables.pop() == (experiment, *told, "last") and not desk.tables
        assert desk.figures == ([(experiment, *told, "last")] if name in FIGURES else [])
        desk.figures.clear()
        setting = setting_of(experiment, *told[:1], *told[2:])
        columns = experiment.columns_of(setting)
        assert len(columns) == len(set(columns)) and "{modalities}" not in columns
        for cell in found:
            figures = json.loads((cell.folder / "result.json").read_text())["last"]
            # A probe and a hold, which stand elsewhere, are called "probe audio".
            absent = [column for column in columns if column not in figures and " " not in column]
            assert not absent or (cell.row.control and len(absent) == 1), (name, cell.row.label)
    trained = (tmp_path / "trained").read_text().splitlines()
    assert len(trained) == len(set(trained)) == len(list(desk.out.glob("demo/*/*/seed0/last.pt")))
    assert not list(desk.out.rglob("*lock"))
    capsys.readouterr()
    # A probe of every run, by the loader of its run; the average of models has no encoder to look at.
    commands = listed(capsys, desk, "table1", "--probe")
    assert desk.run("table1", "--probe") == 0 and len(desk.commands) == 3 and set(desk.commands) < set(commands)
    probed = [json.loads((cell.folder / "probe.json").read_text()) for cell in desk.cells("table1")]
    assert all(probe.keys() == {"audio", "visual"} for probe in probed)
    assert all("--workers 0" in command and "linear_probe.py" in command for command in desk.commands)
    assert desk.run("table1", "--probe") == 0 and not desk.commands


def test_without_a_name_every_name_is_listed_with_what_to_expect(capsys):
    """Runs and epochs as docs/REPRODUCTION.md has them, and numbers of ours that stand there, too."""
    reproduce.main([])
    shown = capsys.readouterr().out
    reproduce.main(["--help"])
    assert capsys.readouterr().out == shown and "SEEDS" in shown and "robustness FOLDER" in shown
    paragraphs = dict(re.findall(r"^(\w+): (.*(?:\n .*)+)", shown.partition("names:")[2], re.M))
    assert list(paragraphs) == list(EXPERIMENTS)
    document = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("REPRODUCTION", "SHORT_RUNS"))
    table = re.findall(r"^\| (?:Table|Figure)[^|]*\| ([^|]*)\|([^|]*)/([^|]*)\|", document, re.M)
    wanted = {}
    for command, *counts in table:
        names = re.findall(r"(?:table|figure)\d+", command)  # Figures 6 and 9 share a line
        columns = (count.split(",") for count in counts)
        wanted |= dict(zip(names, zip(*columns, strict=True), strict=True))
    assert sorted(wanted) == sorted(name for name in EXPERIMENTS if name.startswith(("table", "figure")))
    for name, text in paragraphs.items():
        experiment = EXPERIMENTS[name]
        sizes = re.findall(r"(\w+): (\d+) runs, (\d+) epochs in all", text)
        assert text.splitlines()[0] == experiment.title and [size[0] for size in sizes] == list(experiment.datasets)
        assert f"`{name}`" in document or f"reproduce.sh {name}" in document
        if name in wanted:
            total = [eval(words.replace("x", "*"), {}) for words in wanted[name]]  # "2 x (18 + 6)"
            assert [sum(int(size[k]) for size in sizes) for k in (1, 2)] == total
        ours = text.partition("ours: ")[2].replace("docs/", "")
        assert ours
        for measured in re.findall(r"\d+\.\d(?: \+- \d+\.\d)?|figures/\S+", ours):
            assert measured in document
    assert "the paper's InfoReg*: accuracy 75.71, audio 61.63, visual 61.22" in paragraphs["table3"]
    with pytest.raises(SystemExit):
        reproduce.main(["table8"])
    with pytest.raises(SystemExit):
        reproduce.main(["--list"])


def test_a_shell_script_as_it_is_called(demo, tmp_path):
    told = dict(SEEDS="3", DATASET="demo", DATA_ROOT=demo, OUT=tmp_path / "out", EXTRA=f"{EXTRA} --encoder convnet")
    environment = os.environ | {name: str(value) for name, value in told.items()}
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "reproduce.sh", "figure3"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    (folder,) = (tmp_path / "out" / "demo" / "joint").glob("*/seed3")
    assert (folder / "done").exists(), done
    assert "[1/1] Joint training on demo, seed 3: " in done.stdout
    log = (folder / LOG).read_text().splitlines()
    assert log[0].startswith("$ ") and "main.py --dataset demo" in log[0] and log[-1].startswith("written to ")
    assert done.returncode == 0, done
    assert (tmp_path / "out" / "tables" / "figure3_demo.md").exists()
    assert (tmp_path / "out" / "figures" / "figure3_demo.svg").exists()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_commands_are_those_of_the_papers_data_sets(name, monkeypatch, tmp_path):
    """No flag is mistyped, no two rows are the same run, and every modality is there alone where there are controls."""
    save_series(tmp_path / "MOSI", make_series())
    monkeypatch.chdir(tmp_path)
    experiment = EXPERIMENTS[name]
    for dataset in experiment.datasets:
        root = tmp_path / "MOSI" if dataset == "MOSI" else None
        found = cells(experiment, dataset, [0, 5], tmp_path, root)
        assert not [cell.refusal for cell in found if cell.refusal]
        assert len({cell.folder for cell in found}) == len(found)
        assert [cell.row.label for cell in found[: len(found) // 2]] == [
            cell.row.label for cell in found[len(found) // 2 :]
        ]
        for cell in found:
            if cell.row.program == "main.py":
                args = parse(list(cell.argv[1:]))
                assert (args.dataset, args.seed, args.resume) == (dataset, cell.seed, True)
                assert Path(args.out) == tmp_path and folder_of(cell.argv[1:]) == cell.folder
        if any(cell.row.control for cell in found):
            alone = [cell for cell in found if "unimodal" in cell.argv]
            setting = setting_of(experiment, dataset, tmp_path, root)
            assert [cell.row.label for cell in alone if cell.seed == 5] == [f"{m} alone" for m in setting.modalities]
            assert all(cell.row.control and not cell.row.paper for cell in alone)
        if name.startswith("table"):
            columns = set(experiment.columns_of(setting_of(experiment, dataset, tmp_path, root)))
            assert any(cell.row.paper.get(dataset, {}).keys() <= columns for cell in found if cell.row.paper)
    if name in ("table2", "table3", "table5", "table6", "table7"):
        assert any(cell.row.program == "scripts/ensemble.py" for cell in found)


def values(name, dataset, column):
    rows = EXPERIMENTS[name].rows(SimpleNamespace(modalities=("audio", "visual"), args=parse(["--method", "joint"])))
    return {row.label: row.paper[dataset][column] for row in rows if column in row.paper.get(dataset, {})}


def test_the_papers_values():
    """Those of every table, typed a second time."""
    assert list(values("table1", "CREMAD", "visual").values()) == [35.14, 35.36, 49.65]
    assert list(values("table1", "CREMAD", "visual"))[1] == "Joint training, 100 epochs"
    assert values("table2", "CREMAD", "accuracy") == {
        "Joint training": 66.61, "OGM": 68.70, "Greedy": 67.82, "PMR": 66.92, "AGM": 69.71, "InfoReg": 71.90,
    }  # fmt: skip
    assert list(values("table2", "CREMAD", "visual").values()) == [35.14, 39.52, 40.17, 38.91, 43.72, 49.65]
    assert list(values("table2", "KineticsSounds", "audio").values()) == [53.13, 53.39, 53.15, 53.42, 53.12, 54.16]
    assert values("table3", "CREMAD", "audio") == {
        "Joint training": 58.99, "Joint training*": 60.52, "G-Blending": 60.14, "MMPareto": 60.83, "InfoReg*": 61.63,
    }  # fmt: skip
    assert list(values("table3", "KineticsSounds", "accuracy").values()) == [65.67, 68.71, 68.33, 71.11, 72.03]
    assert values("table3", "KineticsSounds", "audio")["Joint training"] == 54.13  # 53.13 in Table 2
    table4 = values("table4", "CREMAD", "accuracy")
    assert table4["Joint training"] == 66.61 and table4["InfoReg, whole training"] == 69.03
    assert list(table4.values())[1:] == [
        68.70, 68.76, 67.13, 69.71, 69.54, 67.41, 66.92, 66.99, 66.57, 69.03, 71.90, 67.22,
    ]  # fmt: skip
    assert values("table5", "CREMAD", "accuracy") == {
        "Joint training, gated": 65.32, "Joint training, sum": 64.38, "Joint training, film": 66.67,
        "Joint training, concat": 66.61, "InfoReg, gated": 69.18, "InfoReg, sum": 70.12, "InfoReg, film": 70.23,
        "InfoReg, concat": 71.90,
    }  # fmt: skip
    assert list(values("table6", "MOSI", "accuracy").values()) == [61.09, 61.88, 61.47, 61.39, 62.31]
    assert list(values("table6", "MOSI", "macro_f1").values()) == [60.74, 61.32, 60.98, 60.43, 62.03]
    assert list(values("table7", "folder", "accuracy").values()) == [89.21, 90.56]
    assert list(values("table7", "HatefulMemes", "accuracy").values()) == [55.00, 56.20]
    for name, best in (("figure7", "InfoReg, beta 0.9"), ("figure8", "InfoReg, threshold 0.04")):
        assert values(name, "CREMAD", "accuracy") == {"Joint training": 66.61, best: 71.90}


def test_what_makes_a_row_wins_over_extra_and_follows_from_it(desk):
    desk.say(EXTRA=f"{EXTRA} --fusion sum --epochs 4 --threshold 0.08")
    assert [parse(list(cell.argv[1:])).epochs for cell in desk.cells("table1")] == [4, 8, 4]
    assert desk.cells("table1")[1].row.label == "Joint training, 8 epochs"
    fusions = [parse(list(cell.argv[1:])).fusion for cell in desk.cells("table5") if cell.row.program == "main.py"]
    assert fusions == ["concat", "concat", *("gated", "sum", "film", "concat") * 2]
    grid = [parse(list(cell.argv[1:])).threshold for cell in desk.cells("figure8")]
    assert grid == [0.08, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1]
    sizes = [parse(list(cell.argv[1:])).batch_size for cell in desk.cells("ablation_batch_size")]
    assert sizes == [4, 8, 16, 32] * 2


def small_experiment(*methods):
    rows = tuple(Row(method, f"--method {method}") for method in methods)
    return Experiment("table2", "", ("CREMAD",), ("accuracy",), lambda setting: rows)


def test_a_row_whose_flags_mean_nothing_says_so(desk, capsys, monkeypatch):
    def refuse(self, args, model):
        raise ValueError("OGM acts on weight matrices, and here are none")

    monkeypatch.setattr(METHODS["ogm"], "__init__", refuse)
    desk.say(EXTRA=f"{EXTRA} --unimodal_loss heads")
    by_label = {cell.row.label: cell for cell in desk.cells("table2")}
    refused = "--unimodal_loss does not apply: greedy defines its own losses"
    assert by_label["Greedy"].missing() == refused and by_label["Greedy"].folder is None
    monkeypatch.setitem(EXPERIMENTS, "table2", small_experiment("greedy", "ogm", "joint"))
    assert desk.run("table2", "--list") == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 2 and shown.err == f"left out: greedy on demo, seed 0: {refused}\n"
    assert desk.run("table2") == 0
    said, complaint = capsys.readouterr()
    assert complaint == f"left out: greedy on demo, seed 0: {refused}\n"
    assert "ogm on demo, seed 0: left out: OGM acts on weight matrices, and here are none" in said
    assert by_label["OGM"].missing() == "OGM acts on weight matrices, and here are none"
    assert by_label["Joint training"].done and desk.tables


def test_folders_of_several_data_sets_lie_in_one(desk, capsys):
    desk.say(DATASET="", EXTRA="", DATA_ROOT="/data")
    roots = {re.search("--dataset (\\w+).* --data_root (\\S+) --out", line).groups()
             for line in listed(capsys, desk, "table7") if "main.py" in line}  # fmt: skip
    assert roots == {("folder", "/data/ViolentFlows"), ("HatefulMemes", "/data/HatefulMemes")}
    desk.say(DATASET="HatefulMemes")
    assert all("--data_root /data " in line for line in listed(capsys, desk, "table7"))
    desk.say(DATASET="CREMAD", DATA_ROOT="", SEEDS="1 1 2")
    lines = listed(capsys, desk, "table1")
    assert len(lines) == 6 and not any("--data_root" in line for line in lines)
    desk.say(SEEDS="", JOBS="")
    assert len(listed(capsys, desk, "table1")) == 9
