"""Figures 6 and 9: silhouettes by their definition, maps of real features, and the picture."""

import csv
import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import SMALL, checkpoint, flags, train
from helpers.written import texts
from matplotlib.colors import to_rgba

from dataset.demo import Demo
from engine.parser import parse
from engine.setup import make_method
from scripts import tsne
from scripts.drawing import figures, maps
from scripts.drawing.pictures import Runs, caption_of
from scripts.experiments.cells import Experiment, Row
from scripts.experiments.paper import EXPERIMENTS
from scripts.trained.maps import Map, embed
from utils.errors import RunError
from utils.runs.plots import COLOURS


@pytest.fixture(scope="module")
def out(demo, tmp_path_factory):
    """Results of joint training and InfoReg with two seeds each."""
    results = tmp_path_factory.mktemp("results")
    for method in ("joint", "inforeg"):
        for seed in ("0", "1"):
            train(demo, results, "--method", method, "--epochs", "1", "--lr", "0.05", "--seed", seed)
    return results


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)


def run_of(out, method="joint", seed=0):
    return out / "demo" / method / "test" / f"seed{seed}"


def lines_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def slow_silhouettes(features, classes):
    """Rousseeuw's definition, sample by sample."""
    found = []
    for i, x in enumerate(features):
        distance = {
            c: [np.linalg.norm(x - y) for j, y in enumerate(features) if classes[j] == c and j != i]
            for c in set(classes)
        }
        inside = np.mean(distance[classes[i]])
        outside = min(np.mean(of) for c, of in distance.items() if c != classes[i])
        found.append((outside - inside) / max(inside, outside))
    return found


def test_the_maps_are_of_the_test_splits_features(demo, out, capsys):
    run = run_of(out)
    scores = tsne.main([str(run / "last.pt"), "--workers", "0", "--device", "cpu"])
    assert f"written: {run / 'figures' / 'tsne_<modality>.svg'}" in capsys.readouterr().out
    args = parse(flags(demo, out, "--method", "joint", "--epochs", "1", "--lr", "0.05"))
    rows = Demo.read_splits(args)[1]
    model = make_method(args).model
    model.load_state_dict(checkpoint(run)["model"])
    model.eval()
    data = Demo(args, rows, ("audio", "visual"), train=False)
    for name in ("audio", "visual"):
        with torch.no_grad():
            features = np.stack([model.encoders[name](data[i][0][name][None])[0].numpy() for i in range(len(data))])
        expected = slow_silhouettes(features.astype(float), data.targets)
        lines = lines_of(run / "figures" / f"tsne_{name}.csv")
        assert [float(line["silhouette"]) for line in lines] == pytest.approx(expected, abs=1e-4)
        assert scores[name] == pytest.approx(np.mean(expected), abs=1e-4)
        assert [line["class"] for line in lines] == [Demo.classes[target] for target in data.targets]
        assert [line["sample"] for line in lines] == [str(i) for i in range(len(data))]
        drawn = texts(run / "figures" / f"tsne_{name}.svg")
        assert {f"silhouette {scores[name]:+.3f}", *Demo.classes} <= set(drawn)
        assert any("joint on demo, seed 0" in text and name in text for text in drawn)


def test_clusters_stay_apart_and_the_map_is_always_the_same():
    draws = np.random.default_rng(0)
    centres = 20 * draws.standard_normal((3, 10))
    classes = np.repeat(np.arange(3), 20)
    features = (centres[classes] + draws.standard_normal((60, 10))).astype(np.float32)
    points = embed(features)
    assert points.shape == (60, 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(60)
    assert (classes[distances.argmin(axis=1)] == classes).all()
    np.testing.assert_array_equal(points, embed(features))


def test_a_dead_encoder_is_a_point():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not embed(np.full((12, 5), 0.3, dtype=np.float32)).any()


def test_a_test_split_of_one_class_has_no_silhouette(out, tmp_path, monkeypatch):
    own = Namespace(data_root=None, workers=0, device="cpu")
    read = Demo.read_splits
    monkeypatch.setattr(Demo, "read_splits", lambda args: [[(clip, 3) for clip, _ in rows] for rows in read(args)])
    with pytest.raises(RunError, match="last.pt: the test split cannot be mapped .*labels is 1"):
        maps.write_maps(run_of(out) / "last.pt", own)


def test_figure6_has_every_run_and_the_same_bytes_each_time(demo, out, monkeypatch):
    def rows(setting):
        return Row("Joint training", "--method joint"), Row("InfoReg", "--method inforeg")

    argv = flags(demo, out, "--epochs", "1", "--lr", "0.05")
    monkeypatch.setitem(EXPERIMENTS, "figure6", Experiment("figure6", "Title", ("demo",), (), rows))
    path = figures.draw(EXPERIMENTS["figure6"], "demo", [1, 0], out, demo, argv[argv.index("--tag") :])
    written = lines_of(path.with_suffix(".csv"))
    assert caption_of(path).startswith("Title; demo, points of seed1")
    for method, label in (("joint", "Joint training"), ("inforeg", "InfoReg")):
        for modality in ("audio", "visual"):
            scores = []
            for seed in (1, 0):
                where = (label, f"seed{seed}", modality)
                of = [line for line in written if (line["setting"], line["run"], line["modality"]) == where]
                own = lines_of(run_of(out, method, seed) / "figures" / f"tsne_{modality}.csv")
                assert [line | {"setting": ""} for line in of] == [line | {"setting": ""} for line in own]
                scores.append(np.mean([float(line["silhouette"]) for line in of]))
            mean, deviation = sum(scores) / 2, abs(scores[0] - scores[1]) / 2**0.5
            assert f"silhouette {mean:+.3f} ± {deviation:.3f}" in texts(path)
    first = path.read_bytes()
    figures.draw(EXPERIMENTS["figure6"], "demo", [1, 0], out, demo, argv[argv.index("--tag") :])
    assert path.read_bytes() == first
    assert figures.FIGURES["figure9"] is figures.FIGURES["figure6"]


def test_the_picture_of_three_modalities_and_two_settings():
    draws = np.random.default_rng(0)
    names, classes = [f"class {i}" for i in range(8)], np.arange(24) % 8

    def made():
        return Map(classes, draws.standard_normal((24, 2)), draws.uniform(-1, 1, 24), names)

    grid = [[{name: made() for name in ("audio", "visual", "text")}] for _ in range(2)]
    runs = [Runs(label, None, [Path("seed0")]) for label in ("Joint training", "InfoReg")]
    picture = maps.picture(runs, grid)
    assert len(picture.figure.axes) == 6
    for number, axis in enumerate(picture.figure.axes):
        modality, (column) = ("audio", "visual", "text")[number // 2], number % 2
        of = grid[column][0][modality]
        assert axis.get_title() == f"{runs[column].label}: {modality}\nsilhouette {of.silhouettes.mean():+.3f}"
        assert axis.get_xlabel() and axis.get_ylabel()
        for i, dots in enumerate(axis.collections):
            np.testing.assert_array_equal(dots.get_offsets(), of.points[classes == i])
            assert tuple(dots.get_facecolor()[0][:3]) == to_rgba(maps.look(i)["color"])[:3]
    legend = picture.figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == names
    assert legend.get_window_extent().width <= picture.figure.bbox.width


def test_seventy_two_classes_look_different_and_twelve_in_colour():
    looks = [(maps.look(i)["color"], maps.look(i)["marker"]) for i in range(72)]
    assert len(set(looks)) == 72
    for i in range(0, 72, 12):
        assert len({colour for colour, _ in looks[i : i + 12]}) == 12
    for i in range(0, 72, 6):
        assert len({marker for _, marker in looks[i : i + 6]}) == 6
    assert [colour for colour, _ in looks[: len(COLOURS)]] == list(COLOURS)
