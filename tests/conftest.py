"""Small models and data in float64, so that the mathematics can be compared to many digits and in milliseconds."""

import os
from argparse import Namespace

# A second thread costs tiny tensors more than it gives them, and much more on a machine that is busy: one in this
# process and, unless the caller says otherwise, in the programs that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import torch.nn as nn
from runs import make_demo
from torch.utils.data import Dataset

from dataset.base import Batch
from methods.run import Run
from models.encoders import Staged
from models.multimodal import MultimodalModel, build_model

torch.set_num_threads(1)

CLASSES = 3


class TinyEncoder(Staged):
    """Convolution, batch norm and a linear layer: one layer of each kind that a trace or a regulation treats apart."""

    widths = (4, 4)

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.conv = nn.Conv2d(1, 4, kernel_size=3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, dim)

    @property
    def stages(self):
        return self.conv, nn.Sequential(self.norm, nn.ReLU())

    def pool(self, maps, batch):
        return self.linear(maps.mean(dim=(2, 3)))


class TinyData(Dataset):
    """Random images whose mean carries the class, so that a few steps change the accuracies."""

    def __init__(self, modalities=("audio", "visual"), count=10, seed=0):
        draws = torch.Generator().manual_seed(seed)
        self.targets = [i % CLASSES for i in range(count)]
        self.images = {
            name: torch.randn(count, 1, 5, 5, generator=draws, dtype=torch.float64)
            + torch.tensor(self.targets).view(-1, 1, 1, 1)
            for name in modalities
        }

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return {name: images[i] for name, images in self.images.items()}, self.targets[i], i


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The generated data set that `runs.train` reads, anew for each file of tests."""
    return make_demo(tmp_path_factory.mktemp("data") / "demo")


@pytest.fixture
def tiny_model():
    """make(modalities, fusion, seed): a model whose encoders give features of 2, 3, ... values."""

    def make(modalities=("audio", "visual"), fusion="concat", seed=0):
        makers = {name: (lambda dim=dim: TinyEncoder(dim)) for dim, name in enumerate(modalities, 2)}
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
            torch.save({"model": teacher.state_dict(), "args": args, "epoch": 7}, path)
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
        flags |= dict(variant="paper", regulation="proximal", beta=None, start_epoch=None)
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
