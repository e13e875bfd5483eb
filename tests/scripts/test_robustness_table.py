"""The table, the CSV and the plot of robustness, and what is kept of an evaluation."""

import csv
import json
import re
import shutil
import zlib

import numpy as np
import pytest
import torch
from helpers.runs import SMALL, make_demo, train
from helpers.written import table_of, texts

from dataset.demo import Demo
from scripts import evaluate, robustness
from scripts.drawing import robustness as drawing
from scripts.results.robustness import Row, make_csv, make_tables
from scripts.trained.evaluation import Condition, Evaluation
from utils.errors import RunError

ASKED = ["audio:snr:10,0", "missing:visual:1", "conflict:0.5"]
LEVELS = 5  # with the clean one


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    demo = make_demo(tmp_path_factory.mktemp("data") / "demo")
    for seed in ("0", "1"):
        train(demo, out, "--method", "joint", "--epochs", "3", "--lr", "0.3", "--seed", seed)
    train(demo, out, "--method", "unimodal", "--modality", "audio", "--epochs", "3", "--lr", "0.3")
    return out


@pytest.fixture
def results(made, tmp_path, monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    return shutil.copytree(made, tmp_path / "results")


def run(results, *words):
    return robustness.main([str(results), *words, "--device", "cpu", "--workers", "0"])


@pytest.fixture
def done(monkeypatch):
    """(condition, seed) of every evaluation, whose figures follow from these and the weights without any data."""
    done = []

    def figures(self, condition, seed=1, contribution=False):
        done.append((condition, seed))
        weights = sum(float(p.detach().double().sum()) for p in self.method.model.parameters())
        value = zlib.crc32(f"{condition} {seed} {weights}".encode()) / 2**32
        return {"accuracy": value, "macro_f1": value**2}

    monkeypatch.setattr(Evaluation, "metrics", figures)
    return done


def tables_of(text):
    """{heading: rows by column}"""
    parts = re.split(r"^## ", text, flags=re.M)[1:]
    return {part.splitlines()[0]: table_of(part) for part in parts}


def test_the_tables_are_what_evaluate_finds(results, tmp_path):
    text = run(results, "--corruptions", *ASKED, "--eval_seeds", "2")
    assert (results / "robustness.md").read_text() == text and "2 draw(s)" in text.splitlines()[0]
    tables = tables_of(text)
    assert list(tables) == ["demo, audio:snr", "demo, missing:visual", "demo, conflict"]
    flags = {
        ("demo, audio:snr", "0"): ["--eval_noise", "audio:snr:0"],
        ("demo, missing:visual", "1"): ["--eval_missing", "visual:1"],
        ("demo, conflict", "0.5"): ["--eval_conflict", "0.5"],
    }
    for (heading, level), words in flags.items():
        for row in tables[heading]:
            assert row["seeds"] == ("2" if row["method"] == "joint" else "1")
            found = []
            for path in sorted((results / "demo" / row["method"]).glob("*/seed*/last.pt")):
                argv = [str(path), *words, "--eval_seeds", "2", "--device", "cpu", "--workers", "0"]
                found.append(evaluate.main(argv))
            for column, key in (("clean", "clean"), (level, "mean")):
                values = [100 * figures[key]["accuracy"] for figures in found]
                spread = f" +- {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
                assert row[column] == f"{np.mean(values):.1f}{spread}"
    assert [row["method"] for row in tables["demo, conflict"]] == ["unimodal", "joint"]


def test_a_second_call_evaluates_nothing_and_writes_the_same(results, done):
    run(results, "--corruptions", *ASKED)
    files = ("robustness.md", "robustness.csv", "robustness_demo.svg")
    before = {name: (results / name).read_bytes() for name in files}
    done.clear()
    run(results, "--corruptions", *ASKED)
    assert not done and {name: (results / name).read_bytes() for name in files} == before
    run(results, "--corruptions", *ASKED, "audio:gaussian:3", "--eval_seeds", "2")
    # The second draw of four levels and both of a new one, for three runs; the clean split is drawn once.
    new = [seed for condition, seed in done if condition.noise == ("audio:gaussian:3",)]
    assert len(done) == 3 * (4 + 2) and sorted(new) == [1, 1, 1, 2, 2, 2]
    assert [seed for _, seed in done].count(1) == 3


def test_an_interrupted_call_goes_on_where_it_was(results, done, monkeypatch):
    whole = run(results, "--corruptions", *ASKED)
    for kept in results.rglob("robustness.json"):
        kept.unlink()
    with monkeypatch.context() as patch:
        figures = Evaluation.metrics

        def stop(self, *rest):
            if len(done) == LEVELS + 2:
                raise KeyboardInterrupt
            return figures(self, *rest)

        done.clear()
        patch.setattr(Evaluation, "metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            run(results, "--corruptions", *ASKED)
    done.clear()
    assert run(results, "--corruptions", *ASKED) == whole
    assert len(done) == 3 * LEVELS - (LEVELS + 2)


def test_a_changed_checkpoint_is_evaluated_anew(results, done):
    run(results, "--corruptions", *ASKED)
    path = results / "demo/joint/test/seed1/last.pt"
    before = json.loads((path.parent / "robustness.json").read_text())
    state = torch.load(path, weights_only=True)
    for value in state["model"].values():
        value.zero_()
    torch.save(state, path)
    (path.parent / "checksums.txt").unlink()  # or it would be damage
    done.clear()
    run(results, "--corruptions", *ASKED)
    assert len(done) == LEVELS
    after = json.loads((path.parent / "robustness.json").read_text())
    assert after.keys() == before.keys() and all(after[key] != before[key] for key in after)


def test_what_was_kept_and_is_no_number_is_named(results, done):
    run(results, "--corruptions", *ASKED)
    kept = results / "demo/joint/test/seed1/robustness.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"clean:clean seed 1": {"accuracy": "high"}}))
    with pytest.raises(
        RunError, match=f"{kept} is damaged .no number for 'accuracy' in clean:clean seed 1.: delete it"
    ):
        run(results, "--corruptions", *ASKED)
    kept.unlink()


def test_the_csv_has_every_figure(results, done):
    run(results, "--corruptions", *ASKED)
    with (results / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    kept = {}
    for row in rows:
        assert (row["dataset"], row["setting"]) == ("demo", "test")
        run_of = kept.setdefault((row["method"], row["seed"]), {})
        key = f"{row['corruption']}:{row['level']} seed 1"
        run_of.setdefault(key, {})[row["metric"]] = float(row["value"])
    assert kept.keys() == {("joint", "0"), ("joint", "1"), ("unimodal", "0")}
    for (method, seed), figures in kept.items():
        found = json.loads((results / f"demo/{method}/test/seed{seed}/robustness.json").read_text())
        assert len(figures) == LEVELS and {key: value for key, value in found.items() if key != "sha256"} == figures


def test_the_plot_has_a_panel_for_each_corruption_and_a_line_for_each_setting(results, done):
    run(results, "--corruptions", *ASKED)
    shown = " ".join(texts(results / "robustness_demo.svg"))
    for words in ("audio:snr", "missing:visual", "conflict", "Joint training, test", "unimodal, test", "clean", "0.5"):
        assert words in shown
    assert "Bands: one standard deviation over the seeds." in shown


def test_the_plot_of_many_settings_has_readable_panels_and_names_every_line(tmp_path, monkeypatch):
    figures, save = [], drawing.save_figure
    monkeypatch.setattr(drawing, "save_figure", lambda figure, *rest: (figures.append(figure), save(figure, *rest)))
    tags = [f"beta=0.{n}_epochs=3_window=accumulated" for n in range(1, 10)]
    settings = [("demo", method, tag) for method in ("inforeg", "ogm") for tag in tags]
    levels = [("clean", "clean"), ("audio:snr", "0"), ("missing:visual", "1")]
    rows = [Row(setting, "0", *level, {"accuracy": 0.5}) for setting in settings for level in levels]
    robustness.write(rows, "", tmp_path, {"beta", "epochs", "window"})
    (figure,) = figures
    width, height = figure.get_size_inches()
    for axis in figure.axes:
        left, bottom, across, up = axis.get_position().bounds
        assert across * width > 2 and up * height > 1.7  # inches
        assert figure.bbox.contains(*axis.get_tightbbox().min) and figure.bbox.contains(*axis.get_tightbbox().max)
        widths = [(line.get_linewidth(), line.get_markersize()) for line in axis.lines]
        assert len(set(widths)) == len(widths) == 18 and widths == sorted(widths, reverse=True)
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "In every run: --epochs 3 --window accumulated."
    names = [text.get_text() for text in legend.get_texts()]
    assert names[0] == "InfoReg, beta 0.1" and len(set(names)) == 18
    assert legend.get_window_extent().width <= figure.bbox.width


def test_what_is_not_in_the_tables_is_named(results, done):
    unfinished = shutil.copytree(results / "demo/joint/test/seed1", results / "demo/joint/test/seed2")
    (unfinished / "done").unlink()
    ensemble = results / "demo/ensemble/test/seed0"
    ensemble.mkdir(parents=True)
    for name in ("args.json", "done"):
        (ensemble / name).write_text("{}")
    text = run(results, "--corruptions", "conflict:0.5")
    assert f"Not finished, so not in the tables: {unfinished}" in text
    assert f"Without last.pt, so not in the tables: {ensemble}" in text
    assert {row["method"]: row["seeds"] for row in table_of(text)} == {"unimodal": "1", "joint": "2"}


def test_without_flags_it_is_everything_that_the_data_have(results, done):
    tables = tables_of(run(results, "--out", str(results / "elsewhere")))
    pictures = ["gaussian", "shot", "impulse", "contrast", "brightness", "pixelate", "jpeg"]
    wanted = ["audio:snr", "audio:gaussian", *(f"visual:{kind}" for kind in pictures)]
    wanted += ["missing:audio", "missing:visual", "conflict"]
    assert list(tables) == [f"demo, {name}" for name in wanted]
    assert list(tables["demo, audio:snr"][0])[3:] == ["clean", "20", "10", "0", "-5", "mean", "drop"]
    assert list(tables["demo, visual:jpeg"][0])[3:] == ["clean", "1", "2", "3", "4", "5", "mean", "drop"]
    assert (results / "elsewhere" / "robustness.csv").exists() and not (results / "robustness.csv").exists()


def test_the_table_by_hand():
    setting = ("demo", "joint", "default")
    accuracy = {
        ("0", "clean"): 0.9,
        ("1", "clean"): 0.8,
        ("0", "1"): 0.7,
        ("1", "1"): 0.7,
        ("0", "5"): 0.3,
        ("1", "5"): 0.2,
    }
    rows = [
        Row(setting, seed, "clean" if level == "clean" else "audio:gaussian", level, {"accuracy": value})
        for (seed, level), value in accuracy.items()
    ]
    (row,) = table_of(make_tables(rows, draws=1))
    assert row == {
        "method": "joint", "setting": "default", "seeds": "2", "clean": "85.0 +- 7.1", "1": "70.0 +- 0.0",
        "5": "25.0 +- 7.1", "mean": "47.5 +- 3.5", "drop": "37.5 +- 3.5",
    }  # fmt: skip
    assert make_csv(rows[:1]).splitlines()[1] == "demo,joint,default,0,clean,clean,accuracy,0.9"


def test_a_share_belongs_to_every_level_and_a_level_counts_once():
    assert robustness.read_sweep("audio:snr:5,0,5") == ("audio:snr", ("5", "0"))
    assert robustness.read_sweep("any:gaussian:1,5@0.5") == ("any:gaussian", ("1@0.5", "5@0.5"))
    condition = robustness.condition_of("any:gaussian", "5@0.5")
    assert condition == Condition(noise=("any:gaussian:5@0.5",))


@pytest.mark.parametrize(
    "words, said",
    [
        ("audio:jpeg:1", "the kinds of audio are snr, gaussian"),
        ("missing:smell:1", "the modalities are audio, visual"),
        ("audio:snr:1 audio:snr:2", "stands there twice"),
    ],
)
def test_what_is_not_defined_is_refused(results, words, said):
    with pytest.raises(RunError, match=said):
        run(results, "--corruptions", *words.split())
    assert not (results / "robustness.md").exists()


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(RunError, match="no finished run with a last.pt below"):
        run(tmp_path)


@pytest.mark.parametrize(
    "word", ["conflict", "audio", "conflict:2", "conflict:1@0.5", "audio:snr:", "clean:1", "audio:1"]
)
def test_a_word_without_levels_is_refused(results, word, capsys):
    with pytest.raises(SystemExit):
        run(results, "--corruptions", word)
    assert "--corruptions" in capsys.readouterr().err
