"""Files of a finished run without checksums that are not what a run writes: named, with what to do, and not shown."""

import json
import shutil

import numpy as np
import pytest
from helpers.results import TARGET, N

from scripts import collect, report
from scripts.drawing.sweeps import by_rule
from scripts.results.columns import probes
from utils.errors import RunError
from utils.files import FROM_LAST
from utils.runs.files import read_epochs, read_results, read_rule
from utils.runs.predictions import read_predictions

TRACES = {"audio": 1.0, "visual": None}  # a trace that was not finite is null
LINE = {"epoch": 0, "fisher_trace": TRACES, "test": {"loss": None, "accuracy": 0.5, "audio": 0.5, "visual": 0.5}}
LAST = {"epoch": 0, "loss": 1.0, "accuracy": 0.5, "macro_f1": 0.5, "mAP": None}
ARRAYS = {
    "names": np.arange(N).astype(str), "classes": np.arange(8).astype(str), "heads": np.array(["fused", "audio"]),
    "target": TARGET, "last": TARGET, "last_by_head": np.zeros((N, 2), int), "last_probabilities": np.ones((N, 2, 8)),
}  # fmt: skip


@pytest.fixture
def run(made, tmp_path):
    """A finished run of joint training, without checksums."""
    source = made.folder("Joint training", 0)
    folder = shutil.copytree(source, tmp_path / source.relative_to(made.out))
    (folder / "checksums.txt").unlink()
    return folder


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def without(values, name):
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    "lines, said",
    [
        ([], "no epoch"),
        ([LINE, 1], "a line is not an epoch's record"),
        ([LINE, LINE], "line 2 is not of epoch 2"),
        ([without(LINE, "fisher_trace")], "no fisher_trace of epoch 1"),
        ([LINE, without(LINE, "test") | {"epoch": 1}], "no test of epoch 2"),
        ([LINE | {"test": without(LINE["test"], "visual")}], "no number for 'visual' in test of epoch 1"),
        ([LINE | {"test": LINE["test"] | {"accuracy": None}}], "no number for 'accuracy' in test of epoch 1"),
        ([LINE | {"hold": {"audio": 1.0}}], "no number for 'visual' in hold of epoch 1"),
    ],
)
def test_lines_that_are_no_epochs(tmp_path, lines, said):
    write_lines(tmp_path / "metrics.jsonl", LINE)
    assert read_epochs(tmp_path, "fisher_trace", "test") == [LINE]
    write_lines(tmp_path / "metrics.jsonl", *lines)
    with pytest.raises(RunError, match=f"metrics.jsonl is damaged .{said}.: .* remove the folder and run it again"):
        read_epochs(tmp_path, "fisher_trace", "test")


@pytest.mark.parametrize(
    "results, said",
    [
        ([], "not a JSON object"),
        ({}, "no rule"),
        ({"last": None}, "no rule 'last'"),
        ({"last": without(LAST, "accuracy")}, "no number for 'accuracy' in rule 'last'"),
        ({"last": LAST, "oracle": LAST | {"accuracy": None}}, "no number for 'accuracy' in rule 'oracle'"),
        ({"last": LAST | {"ece": "high"}}, "no number for 'ece' in rule 'last'"),
    ],
)
def test_results_that_are_no_numbers(tmp_path, results, said):
    (tmp_path / "last.pt").touch()
    (tmp_path / "result.json").write_text(json.dumps({"last": LAST}))
    assert read_results(tmp_path, "accuracy", "macro_f1") == {"last": LAST}
    (tmp_path / "result.json").write_text(json.dumps(results))
    with pytest.raises(RunError, match=f"result.json is damaged .{said}.: {FROM_LAST}"):
        read_results(tmp_path, "accuracy", "macro_f1")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"target": None}, "no target"),
        ({"target": TARGET[:-1]}, "names has the shape"),
        ({"target": TARGET.astype(float)}, "target holds what is no class's number"),
        ({"target": TARGET + 92}, "target holds what is no class's number"),
        ({"last": TARGET - 1}, "last holds what is no class's number"),
        ({"classes": ARRAYS["classes"][:3]}, "target holds what is no class's number"),
        ({"heads": None}, "last_by_head has the shape"),
        ({"last_probabilities": np.ones((N, 8))}, "last_probabilities has the shape"),
    ],
)
def test_predictions_that_are_not_about_the_samples(tmp_path, changes, said):
    np.savez(tmp_path / "predictions.npz", **ARRAYS)
    assert read_predictions(tmp_path).keys() == ARRAYS.keys()
    kept = {name: array for name, array in (ARRAYS | changes).items() if array is not None}
    np.savez(tmp_path / "predictions.npz", **kept)
    with pytest.raises(RunError, match=f"predictions.npz is damaged .{said}"):
        read_predictions(tmp_path)


def change_args(folder, **values):
    (folder / "checksums.txt").unlink(missing_ok=True)
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(args | values))


def change(path, **values):
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"last": result["last"] | values}))


@pytest.mark.parametrize(
    "name, damage",
    [
        ("result.json", lambda path: path.write_text("{}")),
        ("result.json", lambda path: change(path, accuracy="high")),
        ("result.json", lambda path: change(path, visual=None)),
        ("metrics.jsonl", lambda path: path.write_text("")),
        ("metrics.jsonl", lambda path: write_lines(path, {"epoch": 0})),
        ("predictions.npz", lambda path: np.savez(path, last=TARGET)),
        ("probe.json", lambda path: path.write_text('{"audio": "high"}')),
    ],
)
@pytest.mark.parametrize("program", [collect, report])
def test_programs_name_the_file(run, tmp_path, program, name, damage):
    damage(run / name)
    with pytest.raises(RunError, match=f"{run / name} is damaged"):
        program.main([str(tmp_path)])


def test_the_page_needs_the_last_epoch_of_every_run_but_an_ensemble(run, tmp_path):
    ensemble = shutil.copytree(run, tmp_path / "demo/ensemble/default/seed0")
    change_args(ensemble, method="ensemble")
    result = json.loads((run / "result.json").read_text())
    (ensemble / "result.json").write_text(json.dumps({"val": result["last"]}))  # of best.pt alone
    assert "Settings without this rule are not in the table." in report.page(tmp_path)
    (run / "result.json").write_text(json.dumps({"oracle": result["oracle"]}))
    with pytest.raises(RunError, match=f"{run} has no rule 'last'"):
        report.page(tmp_path)


def test_seeds_of_other_modalities_are_no_setting_of_the_page(run, made, tmp_path):
    other = shutil.copytree(made.folder("audio alone", 1), run.with_name("seed1"))
    change_args(other, method="joint")
    with pytest.raises(RunError, match=f"the runs in {run.parent} are not of the same modalities"):
        report.page(tmp_path)


def test_the_page_has_the_tables_of_experiments_alone(run, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "selection_subsets_demo.csv").write_text("strategy,labels,seed,class,share\npool,,,a,1\n")
    assert "selection" not in report.page(tmp_path)


def test_a_number_that_is_not_finite_is_an_empty_cell(run, tmp_path):
    change(run / "result.json", mAP=None)
    assert "mAP" not in collect.main([str(tmp_path)])
    (run / "probe.json").write_text('{"audio": 0.5}')
    assert probes(run) == {"probe audio": 50.0}


def test_a_rule_that_a_run_lacks_is_told_as_it_is(run):
    with pytest.raises(RunError, match="no rule 'val': it was trained without --val_fraction"):
        by_rule("val")[0](run)
    (run / "result.json").write_text(json.dumps({"val": LAST}))
    with pytest.raises(RunError, match="no rule 'last': its result.json has val"):
        read_rule(run, "last")
