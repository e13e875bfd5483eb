"""Which rows and columns of a table are shown, and which are marked as the best."""

import shutil

import numpy as np
import pytest
from helpers.results import fill, rows_of
from helpers.table2 import (
    SEEDS,
    lines_of,
    make,
    table2,
)  # fmt: skip

from scripts import collect
from scripts.experiments.paper import EXPERIMENTS
from scripts.results import experiment, tables
from scripts.results.lines import Line
from scripts.results.tables import Table
from utils.errors import RunError


@pytest.fixture
def results(tmp_path):
    return make(tmp_path / "results")


def test_only_what_is_ahead_by_more_than_a_tie_is_marked(results):
    shown = {label: row["accuracy"] for label, row in rows_of(tables.markdown(table2(results))).items()}
    # InfoReg leads PMR and AGM, which are alike, by 5 points: its standard deviation over seeds, and a test sample.
    assert shown["InfoReg"] == "85.0 +- 5.0" and shown["audio alone"] == "100.0 +- 0.0"  # a control
    assert not any("*" in cell or "<u>" in cell for cell in shown.values())
    assert tables.UNMARKED in tables.markdown(table2(results))
    # 19 and 20 samples of 20 are 10 points above PMR and AGM, with less than that between the seeds.
    for seed, right in zip(SEEDS, (19, 19, 20), strict=True):
        shutil.rmtree(results.folder("InfoReg", seed))
        fill(results.cell("InfoReg", seed), right)
    shown = {label: row["accuracy"] for label, row in rows_of(tables.markdown(table2(results))).items()}
    assert shown["InfoReg"] == "**96.7 +- 2.9**" and tables.MARKS in tables.markdown(table2(results))
    assert sum("**" in cell or "<u>" in cell for cell in shown.values()) == 1  # the second two are alike
    (results.folder("InfoReg", 1) / "done").unlink()  # now incomplete: no longer comparable
    assert "**" not in rows_of(tables.markdown(table2(results)))["InfoReg"]["accuracy"]


@pytest.mark.parametrize(
    "means, spread, count, marks",
    [
        ((1.0, 5.0, 3.0), 1.9, None, ["", "best", "second"]),
        ((1.0, 5.0, 3.0), 2.1, None, ["", "", ""]),  # within one standard deviation
        ((1.0, 5.0, 4.0), 0.5, 125, ["", "best", "second"]),  # a sample of 125 is 0.8 points
        ((1.0, 5.0, 4.0), 0.5, 80, ["", "", ""]),  # one of 80 is 1.25
        ((5.0, 1.0, 1.0), 0.5, None, ["best", "", ""]),  # the best is, the second two are not told apart
        ((5.0, 1.0), 0.5, None, ["best", "second"]),
        ((5.0,), 0.0, None, [""]),
    ],
)
def test_a_tie_is_one_deviation_over_seeds_or_one_test_sample(means, spread, count, marks):
    lines = lines_of(*means, spread=spread, count=count)
    assert Table("t", "t", "demo", "last", (0, 1), ("accuracy",), lines).marks("accuracy") == marks


def test_a_single_seed_is_ahead_by_more_than_one_sample():
    lines = [Line(str(right), {0: {"accuracy": right / 2}}, correct={0: np.ones(200, bool)}) for right in (10, 11, 13)]
    for chosen, marks in ((lines, ["", "", "best"]), (lines[:2], ["", ""])):
        found = Table("t", "t", "demo", "last", (0,), ("accuracy",), tuple(chosen)).marks("accuracy")
        assert found == marks  # 11 and 10 samples of 200 are a tie


def test_a_row_alone_is_not_the_best_and_no_number_is_that_is_not_better_for_being_higher():
    lines = (Line("a", {0: {"accuracy": 1.0}}), Line("b", {0: {"accuracy": 2.0}}, control=True))
    assert Table("t", "t", "demo", "last", (0,), ("accuracy",), lines).marks("accuracy") == ["", ""]
    lines = (Line("a", {0: {"hold audio": 1.0}}), Line("b", {0: {"hold audio": 20.0}}))
    assert Table("t", "t", "demo", "last", (0,), ("hold audio",), lines).marks("hold audio") == ["", ""]


def test_columns_are_chosen_and_ordered_and_constants_said_once(results):
    text = tables.markdown(table2(results))
    header = list(rows_of(text)["OGM"])
    assert header == ["", "seeds", "accuracy", "audio", "visual", "95% interval", "p (seeds)", "p (samples)"]
    chosen = ["visual", "p (seeds)", "macro_f1", "accuracy"]
    table = experiment.of_experiment(EXPERIMENTS["table2"], "demo", SEEDS, results.out, chosen=chosen)
    assert list(rows_of(tables.markdown(table))["OGM"]) == ["", *chosen]
    assert rows_of(tables.markdown(table))["OGM"]["macro_f1"] == "50.0 +- 0.0"
    assert "95% interval:" not in tables.markdown(table) and "p (seeds)" in tables.latex(table)
    with pytest.raises(RunError, match="--columns 'acuracy': the table has seeds, accuracy, macro_f1, audio"):
        collect.main([str(results.out), "--columns", "acuracy"])
    shown = collect.main([str(results.out), "--columns", "audio", "accuracy"])
    assert list(rows_of(shown)["OGM"]) == ["", "audio", "accuracy"]
    # Of a folder every column is shown, but for those that say the same of every setting.
    whole = collect.main([str(results.out)])
    assert "majority" not in rows_of(whole)["OGM"] and "seeds" not in rows_of(whole)["OGM"]
    assert "- The same in every row, so no column: seeds 3; macro_f1 50.0 +- 0.0; majority 12.5 +- 0.0" in whole
