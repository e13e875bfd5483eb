"""What is said of single classes: evaluate.py, the pictures of a run and the report, against the run's predictions."""

import csv
import io
import json
import re

import numpy as np
import pytest
from helpers.runs import SMALL, rows_of, train
from helpers.three import Three
from helpers.written import table_of
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from dataset import DATASETS
from dataset.demo import Demo
from main import main
from scripts import collect, evaluate, report
from utils.metrics import calibration_error
from utils.runs.plots import draw_confusion
from utils.runs.predictions import read_predictions


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    return train(demo, tmp_path_factory.mktemp("results"), "--method", "joint", "--epochs", "2", figures=True)


@pytest.fixture
def three(tmp_path, monkeypatch):
    """The run of a set of three modalities."""
    monkeypatch.setitem(DATASETS, "three", Three)
    main(f"--dataset three --method joint --out {tmp_path} --workers 0 --device cpu".split())
    return tmp_path / "three" / "joint" / "default" / "seed0"


def parsed(said):
    """{metric: share in %} and the table of classes, as evaluate.py prints them."""
    return dict(re.findall(r"^ *(\w+) +([\d.]+)%$", said, re.M)), table_of(said)


def check(metrics, table, folder):
    """The numbers of evaluate.py are those of the run's record and predictions."""
    found, recorded = read_predictions(folder), json.loads((folder / "result.json").read_text())["last"]
    target, fused = found["target"], found["last_probabilities"][:, 0].astype(float)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "mAP", "ece", "majority", *found["heads"][1:]):
        assert metrics[name] == f"{100 * recorded[name]:.2f}"
    assert recorded["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, found["last"]))
    assert recorded["ece"] == pytest.approx(calibration_error(target, found["last"], fused), abs=2e-3)
    assert [row["class"] for row in table] == [*found["classes"], "mean"]
    for k, row in enumerate(table[:-1]):
        own = target == k
        assert row["samples"] == str(own.sum())
        for head, classes in zip(found["heads"], found["last_by_head"].T, strict=True):
            assert row[head] == f"{100 * (classes[own] == k).mean():.1f}"
        assert float(row["AP"]) == pytest.approx(100 * average_precision_score(own, fused[:, k]), abs=0.06)
    mean = table[-1]
    assert (
        mean["fused"] == f"{100 * recorded['balanced_accuracy']:.1f}" and mean["AP"] == f"{100 * recorded['mAP']:.1f}"
    )


def test_evaluate_says_of_each_class_what_the_run_has_recorded(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    out = [f"--out={tmp_path / 'out.json'}", f"--confusion={tmp_path / 'pictures' / 'c'}"]
    result = evaluate.main([str(run / "last.pt"), "--workers", "0", "--per_class", *out])
    said = capsys.readouterr().out
    check(*parsed(said), run)
    assert f"written: {tmp_path / 'pictures' / 'c'}.svg, .pdf and .png\nwritten: {tmp_path / 'out.json'}\n" in said
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(result))
    assert list(result["classes"]) == list(Demo.classes)
    assert "<svg" in (tmp_path / "pictures" / "c.svg").read_text()
    recorded = rows_of(run)[-1]["test"]
    assert result["clean"] == {name: recorded[name] for name in result["clean"]}
    evaluate.main([str(run / "last.pt"), "--workers", "0", "--per_class", "--format", "csv"])
    lines = capsys.readouterr().out.partition("\n\n")[2]
    rows = {row.pop("class"): row for row in csv.DictReader(io.StringIO(lines))}
    for name, wanted in result["classes"].items():
        assert {head: float(rows[name][head]) for head in wanted["accuracy"]} == wanted["accuracy"]
        assert float(rows[name]["AP"]) == wanted["average_precision"]


def test_three_modalities_have_a_column_each(three, capsys):
    evaluate.main([str(three / "last.pt"), "--workers", "0", "--device", "cpu", "--per_class"])
    metrics, table = parsed(capsys.readouterr().out)
    assert list(table[0]) == ["class", "samples", "fused", *Three.modalities, "AP"]
    check(metrics, table, three)


def test_under_a_condition_the_classes_are_those_of_its_first_seed(run, monkeypatch, capsys):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    argv = [str(run / "last.pt"), "--workers", "0", "--per_class", "--eval_missing"]
    result = evaluate.main([*argv, "audio:1"])
    alone = {name: of_class["accuracy"] for name, of_class in result["classes"].items()}
    assert all(of_class["fused"] == of_class["visual"] for of_class in alone.values())
    assert np.mean([of_class["visual"] for of_class in alone.values()]) == pytest.approx(
        result["mean"]["balanced_accuracy"]
    )


def test_the_record_has_the_metrics_of_every_epoch_and_the_table_shows_them(run):
    for row in rows_of(run):
        assert {"balanced_accuracy", "mAP", "ece"} <= row["test"].keys()
    (row,) = table_of(collect.main([str(run)]))
    recorded = json.loads((run / "result.json").read_text())["last"]
    assert [row[name] for name in ("mAP", "ece")] == [f"{100 * recorded[name]:.1f}" for name in ("mAP", "ece")]


def test_the_report_shows_the_classes_and_the_confusion_matrix(run):
    page = report.main([str(run.parents[3])]).read_text()
    assert (run / "figures" / "confusion.svg").stat().st_size > 5000
    assert 'alt="Confusion matrix, last epoch, seed0"' in page and "<summary>Each class</summary>" in page
    table = page.partition("<summary>Each class</summary>")[2].partition("</details>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in table.splitlines() if "<td" in line]
    recorded = json.loads((run / "result.json").read_text())["last"]
    assert [row[0] for row in rows] == [*Demo.classes, "mean"]
    assert rows[-1][2] == f"{100 * recorded['balanced_accuracy']:.1f}" and rows[-1][5] == f"{100 * recorded['mAP']:.1f}"


def test_a_class_may_have_any_name_and_any_number_of_samples(tmp_path):
    names = ["a$b$_^{", "été", "no sample", *(f"{k}" for k in range(60))]
    for count in (3, 20, 63):
        target = np.array([0, 1, 1])
        draw_confusion(target, np.array([0, 0, 1]), names[:count], tmp_path / f"{count}", "title")
        assert (tmp_path / f"{count}.svg").stat().st_size > 3000
