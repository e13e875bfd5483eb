"""The tables of a folder: every setting by its short name, and the tidy CSV."""

import pytest
from helpers.results import rows_of
from helpers.table2 import (
    SEEDS,
    change,
    check_latex,
    make,
    parsed_csv,
    table2,
)  # fmt: skip

from scripts import collect
from scripts.results import tables
from scripts.results.folder import find_runs, tables_of
from scripts.results.labels import label_settings
from utils.errors import RunError


@pytest.fixture
def results(tmp_path):
    return make(tmp_path / "results")


def test_a_folder_is_checked_too_and_written_in_every_form(results, capsys):
    root = str(results.out)
    text = collect.main([root, "--check"])
    assert "Warning" not in text and rows_of(text)["InfoReg"]["accuracy"] == "85.0 +- 5.0"
    (table,) = tables_of(find_runs(results.out)[0], "last")
    header, rows = tables.grid(table)
    check_latex(collect.main([root, "--format", "tex"]), len(header), len(rows))
    # The same settings, seeds and tests as the experiment's own table.
    for line in table.lines:
        (ours,) = [other for other in table2(results).lines if other.label == line.label]
        assert line.interval == ours.interval and line.p_samples == ours.p_samples and line.control == ours.control
    change(results.folder("OGM", 1) / "args.json", commit="b" * 40)
    assert "Warning: demo: code, commit" in collect.main([root])
    capsys.readouterr()
    assert "Warning" not in collect.main([root, "--format", "csv"]) and "Warning" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"OGM \(seed 1\)"):
        collect.main([root, "--check"])


def test_the_tidy_csv_has_a_row_for_each_run_and_rule_and_a_column_for_each_flag_that_differs(results):
    found = parsed_csv(collect.main([str(results.out), "--format", "csv"]))
    assert len(found) == 8 * 3 * 2  # settings, seeds, rules
    assert list(found[0])[:6] == ["dataset", "method", "tag", "seed", "rule", "epoch"]
    (ogm,) = [e for e in found if (e["method"], e["seed"], e["rule"]) == ("ogm", "2", "last")]
    assert (
        float(ogm["accuracy"]) == 75
        and float(ogm["visual"]) == pytest.approx(55)
        and ogm["epoch"] == "1"
        and ogm["loss"] == "1.0"
    )
    assert ogm["fusion"] == "concat" and "epochs" not in ogm and "commit" not in ogm  # Greedy sums
    (alone,) = [e for e in found if e["tag"] == "modality=visual" and e["seed"] == "0" and e["rule"] == "oracle"]
    assert alone["modality"] == "visual" and alone["audio"] == "" and alone["epoch"] == "2"
    assert ogm["modality"] == ""
    only = parsed_csv(collect.main([str(results.out), "--format", "csv", "--rule", "oracle"]))
    assert only == [entry for entry in found if entry["rule"] == "oracle"]


@pytest.mark.parametrize(
    "tags, labels, shared",
    [
        ({"joint": ["default"], "inforeg": ["default"]}, ["Joint training", "InfoReg"], {}),
        (
            {"unimodal": ["epochs=2_modality=audio"], "inforeg": ["beta=0.5_epochs=2_unimodal_loss=split"]},
            ["audio alone", "InfoReg*, beta 0.5"],
            {"epochs": "2"},
        ),
        ({"ensemble": ["default"], "joint": ["mine"]}, ["average of these", "Joint training, mine"], {}),
        ({"inforeg": ["start_epoch=3"]}, ["InfoReg, start_epoch 3"], {}),  # alone, it shares nothing
        ({"dgl": ["epochs=2", "epochs=2_lr=0.1"]}, ["dgl", "dgl, lr 0.1"], {"epochs": "2"}),
    ],
)
def test_a_setting_has_a_short_name_in_place_of_its_tag(tags, labels, shared):
    flags = ("epochs", "modality", "beta", "unimodal_loss", "start_epoch", "lr")
    settings = [("demo", method, tag) for method, of_method in tags.items() for tag in of_method]
    found, said = label_settings(settings, flags)
    assert list(found.values()) == labels and said == shared


def test_two_settings_of_one_name_keep_their_tags():
    found, _ = label_settings([("demo", "joint", "lr 1"), ("demo", "joint", "lr=1")], ("lr",))
    assert list(found.values()) == ["joint/lr 1", "joint/lr=1"]


def test_a_flag_that_the_tag_names_makes_the_row(results):
    for seed in SEEDS:
        path = results.folder("OGM", seed)
        change(path / "args.json", epochs=99)
        target = path.parent.with_name("epochs=99") / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    assert "Warning" not in collect.main([str(results.out), "--check"])
    change(target / "args.json", epochs=100)  # gone on with, under the name that it has
    assert "--epochs: 99 in 2: " in collect.main([str(results.out)])
