"""Small models and data in float64, so that the mathematics can be compared to many digits and in milliseconds."""

import gc
import os
from argparse import Namespace

import pytest
import torch
from helpers.forked import programs
from helpers.places import ROOT, TESTS
from helpers.runs import make_demo
from helpers.tiny import CLASSES, TinyData, TinyEncoder

import main as program
from dataset.base import Batch
from dataset.cremad import CREMAD
from methods.run import Run
from models.multimodal import MultimodalModel, build_model
from utils.runs import plots
from utils.runs.plots import FORMS, draw

# A second thread costs tiny tensors more than it gives them, and much more on a machine that is busy: one in this
# process and, unless the caller says otherwise, in the programs that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Programs that tests start are those of this checkout, wherever the environment has another one installed.
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, TESTS)))
torch.set_num_threads(1)


# Files with tests of many seconds: what comes last must be short, or one process works on alone at the end.
LONG = {"engine/test_faults.py", "engine/test_run.py", "engine/test_kill.py", "engine/test_long_life.py"}
LONG |= {"scripts/test_reproduce.py", "scripts/test_reproduce_faults.py", "scripts/test_benchmark_data.py"}
LONG |= {
    "utils/test_distributed.py",
    "data/test_prepare.py",
    "data/test_prepare_ucf101.py",
    "data/test_prepare_videos.py",
}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: str(item.path.relative_to(TESTS)) not in LONG)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The generated data set that `runs.train` reads, to be read only: a test that changes one makes its own."""
    folder = make_demo(tmp_path_factory.mktemp("data") / "demo")
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    yield folder
    left = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert left == files, "a test has changed the data of the others"


@pytest.fixture(scope="session", autouse=True)
def quick():
    """A run's pictures take ten times as long as a small run (`drawing` lets a test have them), and a fifth of it is
    waiting for the disk, whose cache no test empties. Of the forms of a figure one will do (`every_form` has all).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "draw", lambda *_: None)
        patch.setattr(plots, "FORMS", {"svg": FORMS["svg"]})
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def drawing(monkeypatch):
    monkeypatch.setattr(program, "draw", draw)


@pytest.fixture
def every_form(monkeypatch):
    monkeypatch.setattr(plots, "FORMS", FORMS)


@pytest.fixture(scope="session", autouse=True)
def forked():
    """Programs in processes of their own, without the time that importing torch takes.

    Used by itself, that is before the first test, so that what they are forked from is as new as a Python just started.
    """
    gc.freeze()  # what has been imported is no garbage, and looking through it takes a third of a second each time
    with programs() as started:
        yield started


@pytest.fixture
def tiny_model():
    """make(modalities, fusion, seed): a model whose encoders give features of 2, 3, ... values, or of 3 each."""

    def make(modalities=("audio", "visual"), fusion="concat", seed=0):
        widths = [3] * len(modalities) if fusion == "shared" else range(2, 2 + len(modalities))
        makers = {name: (lambda dim=dim: TinyEncoder(dim)) for name, dim in zip(modalities, widths, strict=True)}
        return build_model(makers, fusion, CLASSES, seed).double()

    return make


@pytest.fixture
def save_teachers(tiny_model, tmp_path):
    """save(modalities, seed, **said): unimodal checkpoints as --teachers names them; `said` changes their args."""

    def save(modalities=("audio", "visual"), seed=11, **said):
        words = []
        for name, encoder in tiny_model(modalities, seed=seed).encoders.items():
            torch.manual_seed(seed)
            teacher = MultimodalModel({name: encoder}, "concat", CLASSES)
            args = {"dataset": "CREMAD", "method": "unimodal", "modality": name} | said
            path = tmp_path / f"{name}.pt"
            state = {"model": teacher.state_dict(), "args": args, "epoch": 7, "classes": list(CREMAD.classes)}
            torch.save(state, path)
            words.append(f"{name}={path}")
        return words

    return save


@pytest.fixture
def tiny_batch():
    """make(modalities, size, seed): a batch of TinyData's images."""

    def make(modalities=("audio", "visual"), size=6, seed=0):
        data = TinyData(modalities, size, seed)
        return Batch(dict(data.images), torch.tensor(data.targets), torch.arange(size))

    return make


@pytest.fixture
def tiny_run():
    """make(model, args, modalities, count): a Run over TinyData, for the real training loop."""

    def make(model, args, modalities=("audio", "visual"), count=10):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return Run(args, model, optimizer, TinyData(modalities, count), None, None, torch.device("cpu"))

    return make


@pytest.fixture
def make_args():
    """make(**changes): the flags that methods and the loop read, at their defaults."""

    def make(**changes):
        flags = dict(threshold=0.04, window_smoothing=1, unimodal_loss="none", modulate_during="all")
        flags |= dict(batch_size=4, workers=0, seed=0, epochs=1, precision="fp32")
        flags |= dict(
            variant="paper", regulation="proximal", beta=None, start_epoch=None, window="paper", window_every=None
        )
        flags |= dict(weights=None, freeze=None, clip_norm=None, patience=None, accumulate=1)
        flags |= dict(modality_lr=None, schedule="step", lr_step=30, lr_gamma=0.1, lr_warmup=0)
        return Namespace(**flags | changes)

    return make


@pytest.fixture
def train():
    """train(method, optimizer, epochs): the loop's order of calls over lists of batches; returns the epochs' records.

    Nothing but the contract, so that a test can hold it beside a computation of its own.
    """

    def run(method, optimizer, epochs):
        method.on_fit_start(Namespace(optimizer=optimizer))
        records = []
        method.model.train()
        for batches in epochs:
            method.on_epoch_start(None)
            for batch in batches:
                output = method.forward(batch)
                losses = method.losses(output)
                optimizer.zero_grad()
                method.backward(losses)
                method.after_backward(output)
                optimizer.step()
            records.append(method.on_epoch_end(None))
        return records

    return run
