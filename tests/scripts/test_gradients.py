"""Figure 4: gradients and their cosines against autograd, parameter by parameter, and what is measured of a run."""

import csv
import runpy
import sys
from argparse import Namespace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.runs import SMALL, checkpoint, flags, train
from helpers.written import texts

from dataset.demo import Demo
from dataset.loader import make_loader
from engine.parser import parse
from engine.setup import make_method
from scripts import gradients as program
from scripts import tsne
from scripts.drawing import figures
from scripts.drawing.gradients import picture as draw_cosines
from scripts.drawing.pictures import Runs, caption_of
from scripts.experiments.cells import Experiment, Row
from scripts.experiments.paper import EXPERIMENTS
from scripts.trained import gradients
from utils.errors import RunError


def slow_gradient(model, name, batch):
    """One autograd call per parameter."""
    return torch.cat(
        [
            torch.autograd.grad(F.cross_entropy(model.fuse(model.encode(batch.inputs)), batch.target), weight)[
                0
            ].flatten()
            for weight in model.encoders[name].parameters()
        ]
    )


def slow_cosine(one, other):
    return float((one * other).sum() / ((one**2).sum().sqrt() * (other**2).sum().sqrt()))


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "text")], ids=["two", "three"])
def test_cosines_of_gradients_against_autograd(tiny_model, tiny_batch, modalities, monkeypatch):
    model = tiny_model(modalities)
    batches = [tiny_batch(modalities, seed=seed) for seed in range(4)]
    model.eval()  # the measurement is in training mode, whatever the model was in
    found = gradients.gradients(model, batches)
    assert tuple(found) == modalities
    assert all(weight.grad is None for weight in model.parameters())
    model.train()
    for chunk in (5, 7, 2**20):  # of 36 + 8 + 10 and more weights
        monkeypatch.setattr(gradients, "CHUNK", chunk)
        for name in modalities:
            vectors = [slow_gradient(model, name, batch) for batch in batches]
            for one, other in zip(found[name], vectors, strict=True):
                torch.testing.assert_close(one, other)
            matrix = gradients.cosines(found[name])
            expected = [[slow_cosine(one, other) for other in vectors] for one in vectors]
            np.testing.assert_allclose(matrix, expected, rtol=1e-10)
            assert 0.01 < np.ptp(gradients.pairs(matrix))  # so the values say something


def test_cosines_of_known_vectors():
    vectors = [torch.tensor(v) for v in ([3.0, 0.0], [-6.0, 0.0], [0.0, 0.1], [2.0, 2.0], [0.0, 0.0])]
    matrix = gradients.cosines(vectors)
    half = 0.5**0.5
    wanted = [[1, -1, 0, half], [-1, 1, 0, -half], [0, 0, 1, half], [half, -half, half, 1]]
    np.testing.assert_allclose(matrix[:4, :4], wanted, atol=1e-12)
    assert np.isnan(matrix[4]).all()
    assert gradients.pairs(matrix[:4, :4]).tolist() == pytest.approx([-1, 0, half, 0, -half, half])


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    """Two epochs of joint training on 48 samples, three batches of 16."""
    return train(demo, tmp_path_factory.mktemp("results"), "--method", "joint", "--epochs", "2", "--threshold", "-10")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)


def measured(path, batches=20):
    own = Namespace(data_root=None, workers=0, device="cpu")
    return gradients.measure(path, own, batches)


def test_a_run_is_measured_at_its_last_weights_on_the_next_epochs_batches(demo, run):
    found = measured(run / "last.pt")
    args = parse(flags(demo, run, "--method", "joint", "--epochs", "2"))
    method = make_method(args)
    method.model.load_state_dict(checkpoint(run)["model"])
    method.model.train()
    data = Demo(args, Demo.read_splits(args)[0], ("audio", "visual"), train=True)
    batches = list(make_loader(data, 16, 0, seed=0, epoch=2, shuffle=True))
    assert [len(batch) for batch in batches] == [16, 16, 16]
    for name in ("audio", "visual"):
        vectors = []
        for batch in batches:
            method.model.zero_grad()
            output = method.forward(batch)
            method.backward(method.losses(output))
            vectors.append(torch.cat([p.grad.flatten() for p in method.model.encoders[name].parameters()]).double())
        for i, j in combinations(range(3), 2):
            assert found.cosines[name][i, j] == pytest.approx(
                slow_cosine(vectors[i], vectors[j]), abs=1e-4
            )  # of single precision
        np.testing.assert_allclose(np.diag(found.cosines[name]), 1)
    assert found.epochs == 2 and found.opened == ("audio", "visual")
    for name, matrix in measured(run / "last.pt", batches=2).cosines.items():
        np.testing.assert_array_equal(matrix, found.cosines[name][:2, :2])


def test_the_window_is_that_of_the_next_epoch(run, tmp_path):
    state = checkpoint(run)
    state["args"]["threshold"] = 0.25
    state["method"]["trace"]["history"] = {"audio": [3.0, 3.9], "visual": [3.0, 4.1]}  # changes of 0.23 and 0.27
    torch.save(state, tmp_path / "last.pt")
    assert measured(tmp_path / "last.pt").opened == ("visual",)


def test_only_full_batches_count(run, tmp_path):
    state = checkpoint(run)
    state["args"]["batch_size"] = 20  # 20, 20 and 8
    torch.save(state, tmp_path / "last.pt")
    assert {len(matrix) for matrix in measured(tmp_path / "last.pt").cosines.values()} == {2}
    state["args"]["batch_size"] = 25
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(RunError, match="48 training samples are not two full batches of 25"):
        measured(tmp_path / "last.pt")


def test_a_checkpoint_without_traces_is_refused(run, tmp_path):
    state = checkpoint(run)
    del state["method"]
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(RunError, match="best.pt holds no Fisher traces.*give last.pt"):
        measured(tmp_path / "best.pt")


def test_the_command_writes_its_figure_beside_the_checkpoint(run, capsys):
    found = program.main([str(run / "last.pt"), "--batches", "3", "--workers", "0", "--device", "cpu"])
    shown = capsys.readouterr().out
    for name, matrix in found.items():
        of = gradients.pairs(matrix)
        line = f"{name:>8}: {of.mean():+.3f} ± {of.std():.3f}, {of.min():+.3f} to {of.max():+.3f} over 3 pairs"
        assert line in shown.splitlines()
    assert {"audio after 2 epochs;", "the next epoch's window: open", "batch"} <= set(
        texts(run / "figures" / "gradients.svg")
    )
    with (run / "figures" / "gradients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = {(name, i + 1, j + 1): m[i, j] for name, m in found.items() for i, j in combinations(range(3), 2)}
    assert {(r["modality"], int(r["batch"]), int(r["other_batch"])): float(r["cosine"]) for r in rows} == wanted
    assert {(r["run"], r["epochs"], r["next_window_open"]) for r in rows} == {("seed0", "2", "True")}


def test_figure4_has_every_seed_and_the_same_bytes_each_time(demo, run, tmp_path, monkeypatch):
    def rows(setting):
        return Row("Joint training", "--method joint"), Row("InfoReg", "--method inforeg")

    monkeypatch.setitem(EXPERIMENTS, "figure4", Experiment("figure4", "Title", ("demo",), (), rows))
    argv = flags(demo, tmp_path, "--epochs", "2")
    for method in ("joint", "inforeg"):
        for seed in ("0", "1"):
            train(demo, tmp_path, "--method", method, "--epochs", "2", "--seed", seed)
    extra = argv[argv.index("--tag") :]
    path = figures.draw(EXPERIMENTS["figure4"], "demo", [0, 1], tmp_path, demo, extra)
    first = path.read_bytes(), path.with_suffix(".csv").read_bytes()
    with path.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for method, label in (("joint", "Joint training"), ("inforeg", "InfoReg")):
        for seed in ("seed0", "seed1"):
            matrices = measured(tmp_path / "demo" / method / "test" / seed / "last.pt").cosines
            of = [r for r in rows if (r["setting"], r["run"]) == (label, seed)]
            assert [float(r["cosine"]) for r in of] == [x for m in matrices.values() for x in gradients.pairs(m)]
    assert "seed0's matrices" in caption_of(path) and "2 seeds" in caption_of(path)
    figures.draw(EXPERIMENTS["figure4"], "demo", [0, 1], tmp_path, demo, extra)
    assert (path.read_bytes(), path.with_suffix(".csv").read_bytes()) == first


@pytest.mark.parametrize("script", [program, tsne])
def test_the_commands_end_in_one_sentence(monkeypatch, script):
    monkeypatch.setattr(sys, "argv", [script.__file__, "nowhere.pt"])
    with pytest.raises(SystemExit, match="^error: nowhere.pt does not exist$"):
        runpy.run_path(script.__file__, run_name="__main__")


def test_the_picture_of_three_modalities():
    draws = np.random.default_rng(0)
    cosines = {name: draws.uniform(-1, 1, (4, 4)) for name in ("audio", "visual", "text")}
    seeds = [gradients.Measured(cosines, ("text",), 1), gradients.Measured({n: -m for n, m in cosines.items()}, (), 1)]
    runs = Runs("Joint training", None, [Path("seed0"), Path("seed1")])
    picture = draw_cosines([runs], [seeds])
    *matrices, histogram = [axis for axis in picture.figure.axes if axis.get_label() != "<colorbar>"]
    for axis, (name, matrix) in zip(matrices, cosines.items(), strict=True):
        np.testing.assert_array_equal(axis.get_images()[0].get_array(), matrix)
        assert axis.get_images()[0].get_clim() == (-1, 1)
        state = "open" if name == "text" else "closed"
        assert axis.get_title() == f"{name} after 1 epoch;\nthe next epoch's window: {state}"
        assert axis.get_xlabel() == axis.get_ylabel() == "batch"
    assert histogram.get_xlabel() and histogram.get_ylabel().endswith("(%)")
    # Both seeds' pairs together: a value for each negative one.
    assert [text.get_text()[:-8].strip() for text in histogram.get_legend().get_texts()] == [
        f"{n}: +0.000" for n in cosines
    ]
    looks = {(patch.get_edgecolor(), patch.get_linestyle()) for patch in histogram.patches}
    assert len({colour for colour, _ in looks}) == len({dash for _, dash in looks}) == 3
