"""The scripts that read runs: the linear probe of a checkpoint and the table of a folder of results."""

import json
import shutil

import pytest
from helpers.runs import SMALL, train
from helpers.written import table_of

from dataset.demo import Demo
from scripts import collect, linear_probe
from utils.errors import RunError


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    """{method: folder of a real run}; joint with heads, which a probe has to rebuild."""
    out = tmp_path_factory.mktemp("results")
    return {
        "joint": train(demo, out, "--method", "joint", "--epochs", "2", "--unimodal_loss", "heads"),
        "inforeg": train(demo, out, "--method", "inforeg", "--epochs", "2"),
    }


def test_the_probe_of_a_checkpoint(demo, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    folder = shutil.copytree(runs["joint"], tmp_path / "run")
    scores = linear_probe.main([str(folder / "last.pt"), "--workers", "0"])
    assert scores.keys() == {"audio", "visual"} and all(0 <= score <= 1 for score in scores.values())
    said = capsys.readouterr().out
    assert "audio: " in said and said.endswith(f"written: {folder / 'probe.json'}\n")
    assert json.loads((folder / "probe.json").read_text()) == scores
    assert linear_probe.main([str(folder), "--workers", "0"]) == scores  # a run's folder stands for its last.pt
    with pytest.raises(RunError, match="nowhere.pt does not exist"):
        linear_probe.main([str(folder / "nowhere.pt")])
    (tmp_path / "moved").symlink_to(demo)
    assert linear_probe.main([str(folder / "last.pt"), "--workers=0", f"--data_root={tmp_path / 'moved'}"]) == scores


def fake_run(root, method, seed, accuracy, opened=(), done=True):
    """A run's folder with the files that the table reads."""
    folder = root / "demo" / method / "default" / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "args.json").write_text("{}")
    if done:
        (folder / "done").write_text("{}")
        test = {"loss": 1.0, "macro_f1": 0.5, "accuracy": accuracy, "audio": 0.25, "visual": 0.75}
        result = {"last": {"epoch": 1} | test, "oracle": {"epoch": 0} | test | {"accuracy": 0.99}}
        (folder / "result.json").write_text(json.dumps(result))
        windows = [{"epoch": e, "prime_window": {"audio": e in opened, "visual": False}} for e in range(2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in windows))
    return folder


def test_the_table_shows_mean_deviation_rule_and_seeds(tmp_path, capsys):
    for seed, accuracy in enumerate((0.50, 0.60)):
        fake_run(tmp_path, "joint", seed, accuracy)
        fake_run(tmp_path, "inforeg", seed, accuracy + 0.1, opened=[1])
    text = collect.main([str(tmp_path)])
    assert text in capsys.readouterr().out
    assert "rule last" in text and "2 seeds (0, 1)" in text
    joint, inforeg = table_of(text)
    assert (joint[""], inforeg[""]) == ("Joint training", "InfoReg")  # the order of METHODS
    assert "55.0 +- 7.1" in joint["accuracy"] and "65.0 +- 7.1" in inforeg["accuracy"]
    assert "macro_f1 50.0 +- 0.0; audio 25.0 +- 0.0; visual 75.0 +- 0.0; window visual never" in text
    assert joint["window audio"] == "never" and inforeg["window audio"] == "2"
    oracle = collect.main([str(tmp_path), "--rule", "oracle"])
    assert "rule oracle" in oracle and table_of(oracle)[0]["accuracy"] == "99.0 +- 0.0"


def test_the_table_lists_unfinished_runs(tmp_path):
    fake_run(tmp_path, "joint", 0, 0.5)
    unfinished = fake_run(tmp_path, "joint", 1, 0.5, done=False)
    text = collect.main([str(tmp_path)])
    assert str(unfinished) in text.splitlines()[-1] and "1 seed (0)" in text
    assert [row["accuracy"] for row in table_of(text)] == ["50.0"]


def test_the_table_says_when_rows_differ_in_their_seeds(tmp_path):
    fake_run(tmp_path, "joint", 0, 0.5)
    for seed in range(3):
        fake_run(tmp_path, "inforeg", seed, 0.5)
    assert [row["seeds"] for row in table_of(collect.main([str(tmp_path)]))] == ["1 of 3", "3"]


def test_the_table_of_real_runs_wherever_it_is_asked_for(runs, monkeypatch):
    results = runs["joint"].parents[3]
    wanted = collect.main([str(results), "--columns", "accuracy"])
    assert [row[""] for row in table_of(wanted)] == ["Joint training, test", "InfoReg, test"]
    monkeypatch.chdir(results / "demo" / "joint")
    (joint,) = table_of(collect.main([".", "--columns", "accuracy"]))
    assert joint["accuracy"] == table_of(wanted)[0]["accuracy"].strip("*")


def test_the_table_without_a_run_or_a_rule(runs, tmp_path):
    with pytest.raises(RunError, match="no finished run"):
        collect.main([str(tmp_path)])
    with pytest.raises(RunError, match="--val_fraction"):
        collect.main([str(runs["joint"]), "--rule", "val"])
