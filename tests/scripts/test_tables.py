"""The tables of experiments, on results that are made by hand: values, order, marks, empty cells, formats."""

import json
import re
import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers.results import PROVENANCE, TARGET, N, fill, rows_of, write
from helpers.table2 import (
    EPOCHS,
    RIGHT,
    SEEDS,
    change,
    check_latex,
    correct,
    lines_of,
    make,
    parsed_csv,
    table2,
)  # fmt: skip
from scipy.stats import ttest_rel

from scripts import collect
from scripts.experiments.cells import cells
from scripts.experiments.paper import EXPERIMENTS
from scripts.results import experiment, tables
from scripts.results.consistency import Origin, differences
from scripts.results.lines import Line
from scripts.results.render import escape
from scripts.results.significance import interval, samples_test
from scripts.results.tables import Table
from utils.errors import RunError
from utils.lock import Lock
from utils.runs.predictions import write_predictions


@pytest.fixture
def results(tmp_path):
    return make(tmp_path / "results")


def test_values_order_and_paper(results):
    table = table2(results)
    text = tables.markdown(table)
    rows = rows_of(text)
    assert list(rows) == [
        "audio alone", "visual alone", "average of these", "Joint training", "OGM", "Greedy", "PMR", "AGM", "InfoReg",
    ]  # fmt: skip
    # By hand: 10, 11 and 12 of 20 are 50, 55 and 60%; mean 55, deviation 5. Visual: 6, 7, 8 of 20.
    assert rows["Joint training"]["accuracy"] == "55.0 +- 5.0" and rows["Joint training"]["visual"] == "35.0 +- 5.0"
    assert rows["OGM"]["accuracy"] == "65.0 +- 8.7" and rows["Greedy"]["accuracy"] == "45.0 +- 0.0"
    assert rows["audio alone"]["visual"] == "-" and rows["audio alone"]["audio"] == "100.0 +- 0.0"
    assert "rule last: the last epoch" in text and "3 seeds (0, 1, 2)" in text and f"{N} test samples" in text
    assert "paper has no values for these rows on demo" in text and not any("paper" in name for name in rows["OGM"])
    oracle = rows_of(tables.markdown(table2(results, "oracle")))
    assert oracle["Joint training"]["accuracy"] == "60.0 +- 5.0"
    assert "rule oracle: the best test epoch" in tables.markdown(table2(results, "oracle"))


def test_the_papers_value_stands_beside_ours_with_the_difference():
    lines = (
        Line("OGM", {0: {"accuracy": 70.0}, 1: {"accuracy": 71.0}}, paper={"accuracy": 68.7}),
        Line("AGM", {}, {0: "not run", 1: "running: process 7"}, paper={"accuracy": 69.71}),
        Line("alone", {0: {"accuracy": 60.0}, 1: {"accuracy": 60.0}}, control=True),
    )
    table = Table("table2", "Table 2", "CREMAD", "last", (0, 1), ("accuracy",), lines)
    rows = rows_of(tables.markdown(table))
    assert [row["accuracy, paper"] for row in rows.values()] == ["68.70 (+1.8)", "69.71", "-"]
    assert rows["AGM"]["accuracy"] == "not run, running" and rows["AGM"]["seeds"] == "0 of 2"
    assert "running: process 7; rows (seeds): AGM (1)" in tables.markdown(table)
    assert "oracle" in tables.markdown(table)  # the paper's rule is named beside ours


def test_tests_and_intervals_are_against_joint_training_on_the_same_seeds_and_samples(results):
    table = table2(results)
    line = {line.label: line for line in table.lines}
    assert table.references == ["Joint training"] and line["Joint training"].against is None
    for label in ("InfoReg", "OGM", "audio alone"):
        ours, theirs = ([5.0 * right for right in RIGHT[name]] for name in (label, "Joint training"))
        assert line[label].p_seeds("accuracy") == pytest.approx(ttest_rel(ours, theirs).pvalue)
        assert line[label].p_samples == samples_test(correct(label), correct("Joint training"))
        assert line[label].interval == pytest.approx(tuple(100 * end for end in interval(correct(label))))
    shown = rows_of(tables.markdown(table))
    assert shown["Joint training"]["p (seeds)"] == shown["Joint training"]["p (samples)"] == "-"
    assert shown["InfoReg"]["p (samples)"] == tables.probability(line["InfoReg"].p_samples) != "-"
    assert re.fullmatch(r"\d+\.\d to \d+\.\d", shown["InfoReg"]["95% interval"])
    # Without seed 0 of InfoReg, joint training's seed 0 stays out, too.
    (results.folder("InfoReg", 0) / "done").unlink()
    line = {line.label: line for line in table2(results).lines}
    assert line["InfoReg"].p_seeds("accuracy") == pytest.approx(ttest_rel([90.0, 85], [55.0, 60]).pvalue)
    assert line["InfoReg"].p_samples == samples_test(correct("InfoReg", (1, 2)), correct("Joint training", (1, 2)))
    # And the other way round: OGM's seed 0 without joint training's.
    (results.folder("Joint training", 0) / "done").unlink()
    line = {line.label: line for line in table2(results).lines}
    assert line["OGM"].p_seeds("accuracy") == pytest.approx(ttest_rel([60.0, 75], [55.0, 60]).pvalue)
    assert line["OGM"].p_samples == samples_test(correct("OGM", (1, 2)), correct("Joint training", (1, 2)))


def test_runs_without_predictions_have_figures_but_no_test_over_samples(results):
    (results.folder("InfoReg", 1) / "predictions.npz").unlink()
    write_predictions(results.folder("OGM", 2), {"target": TARGET[::-1], "last": TARGET})
    rows = rows_of(tables.markdown(table2(results)))
    for label in ("InfoReg", "OGM"):
        assert rows[label]["p (samples)"] == rows[label]["95% interval"] == "-" != rows[label]["p (seeds)"]
    assert rows["PMR"]["p (samples)"] != "-"


def test_joint_training_is_told_how_far_one_is_ahead_and_how_much_each_starves(results):
    table = table2(results)
    lines = {line.label: line for line in table.lines}
    joint = {name: lines["Joint training"].mean(name) for name in ("audio", "visual")}
    below = {name: lines[f"{name} alone"].mean(name) - mean for name, mean in joint.items()}
    assert joint["visual"] > joint["audio"]
    assert [line for line in tables.legend(table) if "points ahead" in line] == [
        f"Joint training: visual is {joint['visual'] - joint['audio']:.1f} points ahead of audio; points below what "
        f"each reaches alone: audio {below['audio']:.1f}, visual {below['visual']:.1f}."
    ]


def test_no_modality_is_ahead_of_itself(results):
    lines = [
        SimpleNamespace(label=line.label, control=line.control, mean=lambda _: 60.0) for line in table2(results).lines
    ]
    table = SimpleNamespace(lines=lines, columns=("audio", "visual"), references=["Joint training"])
    assert tables.starved(table) == [
        "Joint training: no modality is ahead; points below what each reaches alone: audio 0.0, visual 0.0."
    ]


def test_tests_are_explained_where_there_is_a_row_to_test_against(results):
    table = table2(results)
    told = [line for line in tables.legend(table) if line.startswith("Against ")]
    assert len(told) == 1 and told[0].startswith("Against Joint training: ")
    alone = replace(table, lines=tuple(replace(line, against=None) for line in table.lines))
    assert not [line for line in tables.legend(alone) if line.startswith("Against ")]


def test_a_single_seed_has_no_deviation_and_no_test_over_seeds(results):
    text = tables.markdown(table2(results, seeds=(1,)))
    row = rows_of(text)["InfoReg"]
    assert row["accuracy"] == "**90.0**" and "p (seeds)" not in row and row["p (samples)"] != "-"
    assert "1 seed (1), so without a standard deviation and a test over seeds" in text
    assert "bootstrap over test samples." in text and "+-" not in text


def test_an_empty_cell_says_why(results):
    for seed in SEEDS:
        (results.folder("OGM", seed) / "done").unlink()
        (results.folder("PMR", seed) / "done").unlink()
        (results.folder("Greedy", seed) / "done").unlink()
        for label in ("OGM", "PMR", "Greedy"):
            (results.folder(label, seed) / "metrics.jsonl").unlink()
    (results.folder("OGM", 0) / "log.txt").write_text("$ python main.py\nerror: train loss became NaN | lower --lr\n")
    metrics = "".join(json.dumps({"epoch": epoch}) + "\n" for epoch in range(3))
    (results.folder("Greedy", 1) / "metrics.jsonl").write_text(metrics)
    with Lock(results.folder("PMR", 2)):
        text = tables.markdown(table2(results))
    rows = rows_of(text)
    assert rows["OGM"]["accuracy"] == "failed, not run" and rows["OGM"]["seeds"] == "0 of 3"
    assert rows["PMR"]["accuracy"] == rows["PMR"]["audio"] == "not run, running"
    assert rows["Greedy"]["accuracy"] == "not run, stopped"
    assert "failed: train loss became NaN \\| lower --lr; rows (seeds): OGM (0)" in text
    assert "stopped: after epoch 3; rows (seeds): Greedy (1)" in text
    assert re.search(r"running: process \d+ on .*; rows \(seeds\): PMR \(2\)", text)
    assert "not run; rows (seeds): average of these (0, 1, 2), OGM (1, 2), Greedy (0, 2), PMR (0, 1)" in text


def test_rows_that_do_not_apply_and_rules_that_a_run_has_not(tmp_path):
    out = tmp_path / "results"
    found = cells(EXPERIMENTS["table3"], "demo", (0,), out)
    by_label = {cell.row.label: cell for cell in found}
    fill(by_label["Joint training"], 10, rules=("last", "val", "oracle"))
    fill(by_label["InfoReg*"], 10)
    table = experiment.of_experiment(EXPERIMENTS["table3"], "demo", (0,), out, rule="val")
    line = {line.label: line for line in table.lines}
    assert line["InfoReg*"].empty == {0: "no val: the run chose by last, oracle only"}
    assert not line["Joint training"].empty
    table = experiment.of_experiment(EXPERIMENTS["table3"], "demo", (0,), out, extra=["--unimodal_loss", "heads"])
    line = {line.label: line for line in table.lines}
    assert line["MMPareto"].empty[0].startswith("does not apply: --unimodal_loss does not apply: mmpareto")
    assert rows_of(tables.markdown(table))["MMPareto"]["accuracy"] == "does not apply"
    assert line["InfoReg*"].empty == {}  # what makes the row wins


@pytest.mark.parametrize(
    "flags, number, wanted",
    [
        (["--method joint", "--method ogm", "--method inforeg"], 2, 0),
        (["--method joint", "--method ogm"], 0, None),
        (["--method ogm", "--method inforeg"], 1, None),
        (["--method joint", "--method joint --unimodal_loss split", "--method inforeg --unimodal_loss split"], 2, 1),
        (["--method joint", "--method joint --unimodal_loss split", "--method gblending"], 2, 0),
        (["--method joint", "--method joint --unimodal_loss split"], 1, 0),
        (["--method joint --fusion sum", "--method joint --fusion film", "--method ogm --fusion film"], 2, 1),
        (["--method joint --fusion sum", "--method joint --fusion film", "{audio} {visual}"], 1, None),
        (["--method joint --fusion sum", "--method joint --fusion film", "{audio} {visual}"], 2, None),
        (["--method joint --epochs 1", "--method joint", "{audio} {visual}"], 0, 1),
        (["--method joint --epochs 1", "--method joint", "{audio} {visual}"], 2, 1),
        (["--method joint --unimodal_loss split", "--method joint", "--method inforeg --unimodal_loss none"], 2, 1),
    ],
)
def test_a_row_is_compared_with_the_joint_training_most_like_it(flags, number, wanted):
    assert experiment.joint_for(number, [SimpleNamespace(flags=words) for words in flags]) == wanted


def test_rows_with_several_references_name_theirs(tmp_path):
    for cell in cells(EXPERIMENTS["table3"], "demo", SEEDS, tmp_path):
        if cell.row.program == "main.py":
            fill(cell, 10 + cell.seed + ("*" in cell.row.label))
    table = experiment.of_experiment(EXPERIMENTS["table3"], "demo", SEEDS, tmp_path)
    rows = rows_of(tables.markdown(table))
    assert rows["InfoReg\\*"]["against"] == "Joint training\\*" and rows["MMPareto"]["against"] == "Joint training"
    assert rows["Joint training\\*"]["against"] == "Joint training" and rows["Joint training"]["against"] == "-"
    (star,) = [line for line in table.lines if line.label == "Joint training*"]
    assert star.p_seeds("accuracy") is None  # one more in every seed: no spread


def test_csv_holds_the_same_numbers_in_full(results):
    table = table2(results)
    found = parsed_csv(tables.as_csv(table))
    assert len(found) == len(table.lines) * 3
    for entry in found:
        line = next(line for line in table.lines if line.label == entry["row"])
        values = [float(value) for value in entry["values"].split()]
        assert values == line.values(entry["column"]) and entry["control"] == str(int(line.control))
        if values:
            assert float(entry["mean"]) == statistics.fmean(values)
            assert float(entry["deviation"]) == statistics.stdev(values)
        else:
            assert entry["mean"] == entry["deviation"] == entry["p_seeds"] == ""
    (inforeg,) = [e for e in found if (e["row"], e["column"]) == ("InfoReg", "accuracy")]
    line = next(line for line in table.lines if line.label == "InfoReg")
    assert (float(inforeg["low"]), float(inforeg["high"])) == line.interval
    assert float(inforeg["p_samples"]) == line.p_samples and inforeg["against"] == "Joint training"
    assert inforeg["mark"] == "" and inforeg["seeds"] == "0 1 2" and inforeg["rule"] == "last"
    (average,) = [e for e in found if (e["row"], e["column"]) == ("average of these", "accuracy")]
    assert average["empty"] == "seed 0: not run; seed 1: not run; seed 2: not run"


SPECIAL = r"a_b & 50% of #1 {x} ~ ^ \ $ <c>"


def test_latex_is_balanced_and_escaped(results):
    table = table2(results)
    header, rows = tables.grid(table)
    lines = check_latex(tables.latex(table), len(header), len(rows))
    assert r"85.0 $\pm$ 5.0" in lines[-1]
    marked = Table("t", "t", "demo", "last", (0, 1), ("accuracy",), lines_of(60.0, 80.0, 70.0, spread=1.0))
    marked = check_latex(tables.latex(marked), 2, 3)
    assert r"\textbf{80.0 $\pm$ 1.0}" in marked[2] and r"\underline{70.0 $\pm$ 1.0}" in marked[3]
    odd = Line(SPECIAL, {0: {"macro_f1": 50.0}})
    table = Table("t_1", "T_1: 50%", "demo_set", "last", (0,), ("macro_f1",), (odd, Line("b", {}, {0: "not_run: $x"})))
    lines = check_latex(tables.latex(table), 3, 2)
    wanted = r"a\_b \& 50\% of \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$ $<$c$>$ & 1 & 50.0 \\"
    assert lines[1] == wanted and r"macro\_f1" in lines[0]
    markdown = tables.markdown(table)
    assert r"| a_b & 50% of #1 {x} ~ ^ \\ $ \<c> |" in markdown


def test_the_files_and_their_names(results, capsys):
    text = experiment.write_experiment(EXPERIMENTS["table2"], "demo", SEEDS, results.out)
    folder = results.out / "tables"
    assert {path.name for path in folder.iterdir()} == {f"table2_demo.{ending}" for ending in ("md", "tex", "csv")}
    assert (folder / "table2_demo.md").read_text() == text and text in capsys.readouterr().out
    collect.main(["--experiment", "table2", "--dataset", "demo", "--out", str(results.out), "--rule", "oracle"])
    assert (folder / "table2_demo_oracle.csv").exists() and (folder / "table2_demo.md").read_text() == text
    assert {row["rule"] for row in parsed_csv((folder / "table2_demo_oracle.csv").read_text())} == {"oracle"}


MIXTURES = {
    "data": (dict(data={"train.csv": "2" * 64}), "data, train.csv: 11111111... in", "22222222... in 1: OGM seed 1"),
    "commit": (dict(commit="b" * 40), "code, commit: aaaaaaaaaa in", "bbbbbbbbbb in 1: OGM seed 1"),
    "dirty": (dict(dirty=True, changes="c" * 64), "code, commit", "aaaaaaaaaa with changes cccccccc in 1: OGM seed 1"),
    "no commit": (dict(commit=None), "code, commit", "not recorded in 1: OGM seed 1"),
    "library": (dict(versions={"torch": "3"}), "code, torch: 2 in", "3 in 1: OGM seed 1"),
    "flag of all": (dict(epochs=99), f"recipe, --epochs: {EPOCHS} in 2: OGM seed 0, OGM seed 2", "99 in 1: OGM seed 1"),
    "own flag": (dict(alpha=9.0), "recipe, --alpha", "9.0 in 1: OGM seed 1"),
}


@pytest.mark.parametrize("what", MIXTURES)
def test_mixed_runs_are_warned_of_and_refused(results, what):
    assert table2(results).warnings == ()
    experiment.write_experiment(EXPERIMENTS["table2"], "demo", SEEDS, results.out, check=True)
    changes, *said = MIXTURES[what]
    change(results.folder("OGM", 1) / "args.json", **changes)
    (warning,) = table2(results).warnings
    assert all(words in warning for words in said), warning
    text = experiment.write_experiment(EXPERIMENTS["table2"], "demo", SEEDS, results.out)
    assert f"Warning: {escape(warning, 'md')}" in text
    before = (results.out / "tables" / "table2_demo.md").read_text()
    with pytest.raises(RunError, match="not alike") as refused:
        collect.main(["--experiment", "table2", "--dataset", "demo", "--out", str(results.out), "--check"])
    assert warning in str(refused.value)
    assert (results.out / "tables" / "table2_demo.md").read_text() == before


def test_rows_of_another_recipe_are_told_but_not_what_makes_the_row_or_its_method(results):
    for seed in SEEDS:
        change(results.folder("OGM", seed) / "args.json", epochs=99)
    (warning,) = table2(results).warnings
    assert (
        warning.startswith(f"recipe, --epochs: {EPOCHS} in 21")
        and "99 in 3: OGM seed 0, OGM seed 1, OGM seed 2" in warning
    )
    # Greedy sums by its own default, InfoReg modulates in the prime window, each has an alpha of its own.
    values = {json.loads((results.folder(r, 0) / "args.json").read_text())["fusion"] for r in ("Greedy", "OGM")}
    assert values == {"sum", "concat"}


def test_the_constants_of_another_window_follow_from_it(results):
    for seed in SEEDS:
        change(results.folder("OGM", seed) / "args.json", window="accumulated", threshold=0.1, start_epoch=1)
    (warning,) = table2(results).warnings
    assert warning.startswith("recipe, --window: paper in ")
    for seed in SEEDS:
        change(results.folder("OGM", seed) / "args.json", threshold=0.2)
    assert {text.partition(":")[0] for text in table2(results).warnings} == {"recipe, --threshold", "recipe, --window"}


def test_a_run_that_two_commits_have_worked_on(results):
    path = results.folder("OGM", 1) / "args.json"
    args = json.loads(path.read_text())
    (entry,) = args["provenance"]
    write(path, args | {"provenance": [entry, entry | {"commit": "b" * 40}]})
    (warning,) = table2(results).warnings
    assert "aaaaaaaaaa, then bbbbbbbbbb in 1: OGM seed 1" in warning


def test_runs_that_tell_nothing_cannot_be_vouched_for(results):
    for path in results.out.rglob("args.json"):
        write(path, {name: value for name, value in json.loads(path.read_text()).items() if name != "provenance"})
    data, code = table2(results).warnings
    assert data.startswith("checksums of the data: not recorded in 24") and "code, commit: not recorded in 24" in code


@pytest.mark.parametrize("other, alike", [("joint/seed1/last.pt", True), ("sum/seed1/last.pt", False)])
def test_each_seed_may_have_teachers_of_its_own(other, alike):
    args = {"dataset": "demo", "method": "g2d", "epochs": 3, "provenance": [PROVENANCE], "priority_epochs": 1}
    seeds = enumerate(("joint/seed0/last.pt", other))
    runs = [Origin(f"seed {k}", "g2d", args | {"seed": k, "teachers": [f"audio={path}"]}) for k, path in seeds]
    assert (differences(runs) == []) == alike


def test_a_place_that_cannot_be_written_to(results, tmp_path):
    (results.out / "tables").write_text("")
    with pytest.raises(RunError, match="tables .*choose --out"):
        experiment.write_experiment(EXPERIMENTS["table2"], "demo", SEEDS, results.out)


def test_flags_that_are_none_and_requests_without_a_subject(tmp_path):
    with pytest.raises(RunError, match="--epoch;"):
        experiment.write_experiment(EXPERIMENTS["table2"], "demo", (0,), tmp_path, extra=["--epoch", "2"])
    for words in ([], [str(tmp_path), "--experiment", "table2"]):
        with pytest.raises(SystemExit):
            collect.main(words)
