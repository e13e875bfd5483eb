"""Missing and conflicting modalities, and each modality's contribution, on outputs made by hand."""

import itertools

import numpy as np
import pytest
import torch
from helpers.tiny import CLASSES, TinyData

from dataset.base import MultimodalDataset
from dataset.loader import make_loader
from models.fusion import FUSIONS
from models.multimodal import Output
from scripts.trained.conditions import Conflicting, contributions, draw_present, missing, subsets, without
from utils.errors import RunError

THREE = ("audio", "visual", "depth")
COUNT = 40


# --- Missing modalities


@pytest.fixture
def outputs(tiny_model):
    """outputs(modalities, fusion, heads): a model in evaluation mode and its output for COUNT samples."""

    def make(modalities, fusion="concat", heads=False):
        model = tiny_model(modalities, fusion).eval()
        if heads:
            model.add_heads()
            model.heads.double()
        for p in model.parameters():
            torch.nn.init.normal_(p)  # biases, too: they tell a read-out from a prediction
        features = model.encode(TinyData(modalities, COUNT).images)
        target = torch.arange(COUNT) % CLASSES
        return model, Output(model.fuse(features), model.unimodal(features), features, target)

    return make


CASES = [(THREE[:2], fusion, heads) for fusion in FUSIONS for heads in (False, True)]
CASES += [(THREE, fusion, heads) for fusion in ("concat", "sum") for heads in (False, True)]


@pytest.mark.parametrize("modalities, fusion, heads", CASES)
def test_a_modality_left_alone_gives_exactly_its_unimodal_read_out(outputs, modalities, fusion, heads):
    model, output = outputs(modalities, fusion, heads)
    for name in modalities:
        rates = {other: 1.0 for other in modalities if other != name}
        found = without(model, output, draw_present(modalities, rates, COUNT, seed=1))
        assert torch.equal(found.logits, output.unimodal[name])
        assert torch.equal(found.unimodal[name], output.unimodal[name])
        assert not torch.allclose(found.logits, output.logits)
        absent = {other: torch.zeros_like(feature) for other, feature in output.features.items()}
        for other in rates:
            assert torch.equal(found.unimodal[other], model.unimodal(absent)[other])


@pytest.mark.parametrize("modalities, fusion, heads", CASES)
@pytest.mark.parametrize("mean", [False, True])
def test_nothing_missing_is_the_methods_own_output_bit_for_bit(outputs, modalities, fusion, heads, mean):
    model, output = outputs(modalities, fusion, heads)
    output.logits = output.logits / 3  # a method may make something of the fused logits
    fill = {name: feature.mean(dim=0) for name, feature in output.features.items()} if mean else None
    found = without(model, output, draw_present(modalities, {"audio": 0.0}, COUNT, seed=1), fill)
    assert torch.equal(found.logits, output.logits) and found.target is output.target
    assert all(torch.equal(found.unimodal[name], output.unimodal[name]) for name in modalities)


@pytest.mark.parametrize("modalities, fusion, heads", CASES)
@pytest.mark.parametrize("mean", [False, True])
def test_every_sample_is_read_by_what_it_has(outputs, modalities, fusion, heads, mean):
    model, output = outputs(modalities, fusion, heads)
    fill = {name: feature.mean(dim=0) for name, feature in output.features.items()}
    present = draw_present(modalities, dict.fromkeys(modalities, 0.5), COUNT, seed=2)
    found = without(model, output, present, fill if mean else None)
    seen = set()
    for i in range(COUNT):
        there = [name for name in modalities if present[name][i]]
        seen.add(tuple(there))
        row = {
            name: output.features[name][i : i + 1]
            if name in there
            else (fill[name][None] if mean else torch.zeros(1, model.dims[name], dtype=torch.float64))
            for name in modalities
        }
        wanted = model.fuse(row) if mean or len(there) != 1 else model.unimodal(row)[there[0]]
        torch.testing.assert_close(found.logits[i : i + 1], wanted, rtol=1e-10, atol=1e-10)
    assert len(seen) == 2 ** len(modalities)


def test_the_only_modality_of_a_model_is_its_fused_prediction(outputs):
    model, output = outputs(("audio",), heads=True)
    found = without(model, output, draw_present(("audio",), {}, COUNT, seed=1))
    assert torch.equal(found.logits, output.logits) and not torch.equal(output.logits, output.unimodal["audio"])


def test_what_is_missing_is_drawn_for_each_modality_by_seed_and_place_alone():
    count, rates = 4000, {"audio": 0.3, "visual": 0.7, "depth": 0.0}
    present = draw_present(THREE, rates, count, seed=1)
    for name, rate in rates.items():
        assert abs((~present[name]).sum().item() - rate * count) <= 4 * (count * rate * (1 - rate)) ** 0.5
    both = (~present["audio"] & ~present["visual"]).sum().item()
    assert abs(both - 0.21 * count) < 4 * (0.21 * 0.79 * count) ** 0.5
    alone = draw_present(("visual",), rates, 100, seed=1)["visual"]  # another model, a shorter split
    assert torch.equal(alone, present["visual"][:100])
    assert not torch.equal(alone, draw_present(("visual",), rates, 100, seed=2)["visual"])
    more = draw_present(THREE, rates | {"audio": 0.6}, count, seed=1)["audio"]
    assert (more <= present["audio"]).all()  # who lacks it at a low rate lacks it at a higher one


# --- Conflict

SEEDS = range(1, 4)


class Marked(TinyData):
    """The first pixel says which sample an input is of."""

    def __init__(self, modalities=THREE, count=300):
        super().__init__(modalities, count)
        for images in self.images.values():
            images[:, 0, 0, 0] = torch.arange(count)

    def origin(self, inputs):
        return {name: int(x[0, 0, 0]) for name, x in inputs.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_conflict_is_one_modality_of_another_class(seed):
    data = Marked()
    conflicting = Conflicting(data, 0.4, THREE, seed)
    swapped = []
    for i in range(len(data)):
        inputs, target, position = conflicting[i]
        assert (target, position) == (data.targets[i], i) and tuple(inputs) == THREE
        others = {name: origin for name, origin in data.origin(inputs).items() if origin != i}
        assert len(others) <= 1
        for name, origin in others.items():
            assert data.targets[origin] != target
            assert torch.equal(inputs[name], data.images[name][origin])
            swapped.append((name, data.targets[origin], target))
    assert abs(len(swapped) - 0.4 * 300) <= 4 * (300 * 0.4 * 0.6) ** 0.5
    for name in THREE:
        assert abs(sum(one == name for one, _, _ in swapped) - len(swapped) / 3) <= 4 * (len(swapped) * 2 / 9) ** 0.5
    assert {(a, b) for _, a, b in swapped} == set(itertools.permutations(range(CLASSES), 2))


def test_conflicts_are_those_of_every_model_and_rate():
    data, alone = Marked(), Marked(("visual",))
    whole, partial, less = (
        Conflicting(*options, seed=1) for options in ((data, 0.8, THREE), (alone, 0.8, THREE), (data, 0.2, THREE))
    )

    def of(source, i):
        return source.data.origin(source[i][0])

    assert [of(whole, i)["visual"] for i in range(300)] == [of(partial, i)["visual"] for i in range(300)]
    struck = [{i for i in range(300) if set(of(source, i).values()) != {i}} for source in (less, whole)]
    assert struck[0] < struck[1]
    assert all(of(less, i) == of(whole, i) for i in struck[0])
    assert all(set(of(Conflicting(data, 0.0, THREE, 1), i).values()) == {i} for i in range(300))
    assert any(of(whole, i) != of(Conflicting(data, 0.8, THREE, 2), i) for i in range(300))


def test_one_class_has_no_conflict():
    data = Marked()
    data.targets = [1] * len(data)
    with pytest.raises(RunError, match="one class only"):
        Conflicting(data, 0.5, THREE, 1)


# --- Contribution


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_contributions_are_means_over_the_orders_of_joining(count):
    names = ("audio", "visual", "depth", "text")[:count]
    draws = np.random.default_rng(count)
    accuracy = {frozenset(some): draws.random() for some in subsets(names)}
    assert len(accuracy) == 2**count
    found = contributions({some: accuracy[frozenset(some)] for some in subsets(names)}, names)
    wanted = dict.fromkeys(names, 0.0)
    orders = list(itertools.permutations(names))
    for order in orders:
        for place, name in enumerate(order):
            gain = accuracy[frozenset(order[: place + 1])] - accuracy[frozenset(order[:place])]
            wanted[name] += gain / len(orders)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert sum(found.values()) == pytest.approx(accuracy[frozenset(names)] - accuracy[frozenset()], rel=1e-12)


def test_two_modalities_by_hand():
    accuracy = {(): 0.1, ("audio",): 0.7, ("visual",): 0.3, ("audio", "visual"): 0.8}
    found = contributions(accuracy, ("audio", "visual"))
    assert found == pytest.approx({"audio": 0.55, "visual": 0.15})  # (0.6 + 0.5) / 2 and (0.2 + 0.1) / 2


# --- All of it, whatever the loader does


class Shuffled(MultimodalDataset):
    """`data` in another order; a sample keeps its position."""

    def __init__(self, data):
        self.data, self.targets = data, data.targets[::-1]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[len(self.data) - 1 - i]


def test_logits_depend_neither_on_batches_nor_on_workers_nor_on_the_order(outputs):
    model, _ = outputs(THREE)
    present = draw_present(THREE, dict.fromkeys(THREE, 0.4), COUNT, seed=1)

    def forward(batch):
        features = model.encode(batch.inputs)
        return Output(model.fuse(features), model.unimodal(features), features, batch.target)

    predict = missing(model, forward, present, every_subset=True)
    data = Conflicting(TinyData(THREE, COUNT), 0.5, THREE, seed=1)
    found = []
    for batch_size, workers, source in ((COUNT, 0, data), (7, 2, data), (9, 0, Shuffled(data))):
        rows = {}
        for batch in make_loader(source, batch_size, workers):
            output = predict(batch)
            assert [names for names in output.unimodal if isinstance(names, tuple)] == subsets(THREE)
            heads = [output.logits, *output.unimodal.values()]
            rows |= {int(i): torch.stack([z[n] for z in heads]) for n, i in enumerate(batch.index)}
        found.append(torch.stack([rows[i] for i in range(COUNT)]))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-12, atol=1e-12)
