"""Modality valuation against hand-computed values, lists and gradients, and against joint training in its warm-up."""

import copy
from collections import Counter
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from dataset.loader import make_loader
from engine.parser import parse
from engine.train import train_epoch
from methods.joint import Joint
from methods.valuation import Listed, Valuation, copies, valued

PAIR, THREE = ("audio", "visual"), ("audio", "visual", "text")


@pytest.fixture
def begin(tiny_model, tiny_run, make_args):
    """begin(modalities, fusion, **flags): a method and its run over 30 samples."""

    def make(modalities=PAIR, fusion="concat", **flags):
        args = make_args(**dict(level="sample", warmup=0, alpha=1.0, valued_share=0.2) | flags)
        model = tiny_model(modalities, fusion)
        return Valuation(args, model), tiny_run(model, args, modalities, count=30)

    return make


@pytest.mark.parametrize(
    "audio, visual, both, values, repeated",
    [
        (0, 0, 0, (0.0, 0.0), (2, 2)),
        (1, 0, 0, (0.5, -0.5), (1, 3)),
        (0, 1, 0, (-0.5, 0.5), (3, 1)),
        (1, 1, 0, (0.0, 0.0), (2, 2)),
        (0, 0, 1, (1.0, 1.0), (0, 0)),
        (1, 0, 1, (1.5, 0.5), (0, 1)),
        (0, 1, 1, (0.5, 1.5), (1, 0)),
        (1, 1, 1, (1.0, 1.0), (0, 0)),
    ],
)
def test_values_and_copies_of_two_modalities(audio, visual, both, values, repeated):
    found = valued(torch.tensor([[0, audio, visual, both]]).bool())
    assert tuple(found[0].tolist()) == values
    assert tuple(copies(found)[0].tolist()) == repeated


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_values_are_means_over_all_orders_and_sum_to_the_benefit_of_all(modalities):
    draws = torch.Generator().manual_seed(modalities)
    correct = torch.rand(40, 2**modalities, generator=draws) < 0.5
    correct[:, 0] = False
    found, orders = valued(correct), list(permutations(range(modalities)))
    for row, hits in zip(found.tolist(), correct.tolist(), strict=True):
        expected = [0.0] * modalities
        for order in orders:
            subset, before = 0, 0
            for size, m in enumerate(order, 1):
                subset |= 1 << m
                expected[m] += (size * hits[subset] - before) / len(orders)
                before = size * hits[subset]
        assert row == pytest.approx(expected, abs=1e-12)
        assert sum(row) == pytest.approx(modalities * hits[-1], abs=1e-12)


def test_copies_do_not_depend_on_rounding():
    # All that four modalities' 15 subsets can be; 4! times a value is a whole number.
    every = F.pad(torch.arange(2**15).unsqueeze(1) >> torch.arange(15) & 1, (1, 0)).bool()
    parts = (24 * valued(every)).round().long()
    assert torch.equal(copies(valued(every)), (-((2 * (parts - 24)) // 24)).clamp(min=0))


@pytest.mark.parametrize("modalities, fusion", [(PAIR, "concat"), (PAIR, "film"), (PAIR, "gated"), (THREE, "sum")])
def test_each_subset_is_read_with_the_other_features_at_zero(begin, modalities, fusion):
    method, run = begin(modalities, fusion)
    run.model.eval()
    expected = []
    for i in range(len(run.train)):
        inputs, target, _ = run.train[i]
        features = {name: run.model.encoders[name](x.unsqueeze(0)) for name, x in inputs.items()}
        hits = [False]
        for bits in range(1, 2 ** len(modalities)):
            read = {name: f * (bits >> m & 1) for m, (name, f) in enumerate(features.items())}
            hits.append(run.model.fusion(read).argmax().item() == target)
        expected.append(hits)
    assert torch.equal(method.value(run, run.train), valued(torch.tensor(expected)))
    assert len({tuple(row) for row in expected}) > 2  # several kinds of sample, so that a wrong subset would show


def entries(method, data):
    """Counter of (sample, the modalities kept), from what the loader gives the step."""
    seen = Counter()
    for batch in make_loader(data, 4, workers=0, shuffle=True):
        kept = method.kept[batch.index]
        for image, keep in zip(batch.inputs["audio"], kept.tolist(), strict=True):
            (sample,) = (data.dataset.images["audio"] == image).flatten(1).all(dim=1).nonzero().flatten().tolist()
            seen[sample, tuple(keep)] += 1
    return seen


def test_list_of_the_sample_level_by_hand(begin, monkeypatch):
    method, run = begin()
    values = torch.ones(30, 2, dtype=torch.float64)
    values[3], values[7], values[8] = torch.tensor([[0.5, -0.5], [0.0, 0.0], [1.5, 0.5]])
    monkeypatch.setattr(method, "value", lambda *_: values)
    audio, visual = (True, False), (False, True)
    expected = Counter({(i, (True, True)): 1 for i in range(30)})
    expected += Counter({(3, audio): 1, (3, visual): 3, (7, audio): 2, (7, visual): 2, (8, visual): 1})
    assert entries(method, method.train_data(run)) == expected
    assert method.metrics["copies"] == pytest.approx({"audio": 3 / 30, "visual": 6 / 30})
    assert method.metrics["value"] == pytest.approx({"audio": 28.0 / 30 + 2.0 / 30 - 1 / 30, "visual": 27 / 30})


def test_three_modalities_are_repeated_alone(begin, monkeypatch):
    method, run = begin(THREE)
    values = torch.ones(30, 3, dtype=torch.float64)
    values[5, 1] = 0.0
    monkeypatch.setattr(method, "value", lambda *_: values)
    added = entries(method, method.train_data(run)) - Counter({(i, (True,) * 3): 1 for i in range(30)})
    assert added == Counter({(5, (False, True, False)): 2})


@pytest.mark.parametrize(
    "modalities, values, alpha, count, kept",
    [
        (PAIR, (1.1, 0.5), 1.0, 12, (False, True)),  # 2/3 0.6 30
        (PAIR, (0.5, 1.1), 0.5, 6, (True, False)),
        (THREE, (0.4, 1.2, 0.6), 1.0, 14, (True, False, True)),  # 2/3 (1.2 - 0.5) 30
    ],
)
def test_list_of_the_modality_level_by_hand(begin, monkeypatch, modalities, values, alpha, count, kept):
    method, run = begin(modalities, level="modality", alpha=alpha)
    sizes = []

    def value(_, data):
        sizes.append(len(data))
        # The last digits decide whether 12 copies come out as 11: the leader's value is a trace higher.
        return torch.tensor([values] * len(data), dtype=torch.float64) + 1e-9 * torch.tensor(kept).logical_not()

    monkeypatch.setattr(method, "value", value)
    added = entries(method, method.train_data(run)) - Counter({(i, (True,) * len(kept)): 1 for i in range(30)})
    assert sizes == [6] and added.total() == count and {keep for _, keep in added} == {kept}
    again = entries(method, method.train_data(run))
    run.epoch = 1
    other = entries(method, method.train_data(run))
    assert again == added + Counter({(i, (True,) * len(kept)): 1 for i in range(30)}) != other


def test_an_encoder_gets_no_gradient_from_samples_whose_feature_is_zero(begin, tiny_batch):
    method, run = begin()
    run.model.train()
    batch = tiny_batch()
    for x in batch.inputs.values():
        x.requires_grad_(True)
    # Without batch norm, through which samples see each other.
    for encoder in run.model.encoders.values():
        encoder.norm = torch.nn.Identity()
    method.kept = torch.tensor([[True, True], [True, False], [False, True], [True, True], [True, False], [True, True]])
    method.losses(method.forward(batch))["loss"].backward()
    for m, x in enumerate(batch.inputs.values()):
        assert (x.grad.flatten(1).abs().sum(dim=1) > 0).tolist() == method.kept[:, m].tolist()
    # A whole batch of them: no gradient at all.
    run.model.zero_grad()
    method.kept = torch.tensor([[True, False]] * 6)
    method.losses(method.forward(batch))["loss"].backward()
    assert not any(p.grad.any() for p in run.model.encoders["visual"].parameters())
    assert any(p.grad.any() for p in run.model.encoders["audio"].parameters())


def test_forward_is_that_of_the_zeroed_features_and_full_in_evaluation(begin, tiny_batch):
    method, run = begin()
    batch = tiny_batch()
    method.kept = torch.tensor([[True, False]] * 6)
    full = copy.deepcopy(run.model).train()
    features = full.encode(batch.inputs)
    torch.testing.assert_close(
        method.forward(batch).logits, full.fuse({"audio": features["audio"], "visual": 0 * features["visual"]})
    )
    run.model.eval()
    assert torch.equal(method.forward(batch).logits, run.model.fuse(run.model.encode(batch.inputs)))


def test_warm_up_is_joint_training_bit_for_bit_and_the_list_changes_it_after(begin):
    finals = []
    for method_class in (Joint, Valuation):
        method, run = begin(warmup=2)
        method = method_class(method.args, run.model)
        states = []
        for run.epoch in range(3):
            train_epoch(run, method)
            record = method.on_epoch_end(run)
            if method_class is Valuation:
                assert all((record[name]["audio"] is None) == (run.epoch < 2) for name in ("value", "copies"))
            states.append(copy.deepcopy(run.model.state_dict()))
        finals.append(states)
    same = [all(torch.equal(joint[key], other[key]) for key in joint) for joint, other in zip(*finals, strict=True)]
    assert same == [True, True, False]


@pytest.mark.parametrize("modalities", [PAIR, THREE])
@pytest.mark.parametrize("level", ["sample", "modality"])
def test_an_interrupted_run_makes_the_same_list(begin, modalities, level):
    method, run = begin(modalities, level=level, alpha=5.0, valued_share=0.7)
    for run.epoch in range(2):
        train_epoch(run, method)
        method.on_epoch_end(run)
    run.epoch = 2
    resumed, other = begin(modalities, level=level, alpha=5.0, valued_share=0.7)
    other.model.load_state_dict(run.model.state_dict())
    resumed.load_state_dict(method.state_dict())
    other.epoch = 2
    before = copy.deepcopy(run.model.state_dict()), torch.get_rng_state()
    one, two = method.train_data(run), resumed.train_data(other)
    assert isinstance(one, Listed) and one.indices == two.indices and torch.equal(method.kept, resumed.kept)
    assert len(one) > len(run.train)
    # Making it draws from no global generator and leaves the model as it is.
    assert all(torch.equal(before[0][key], value) for key, value in run.model.state_dict().items())
    assert torch.equal(before[1], torch.get_rng_state())


def test_nothing_but_the_training_split_is_looked_at(begin, monkeypatch):
    method, run = begin()
    looked_at, collect = [], run.collect
    monkeypatch.setattr(run, "collect", lambda data, fn: looked_at.append(data) or collect(data, fn))
    train_epoch(run, method)
    assert looked_at == [run.train] and method.held_out == 0


def test_flags_of_each_data_set():
    for dataset, warmup in {"CREMAD": 5, "GRID": 1, "demo": 1}.items():
        args = parse(["--dataset", dataset, "--method", "valuation"])
        assert (args.level, args.warmup, args.alpha, args.valued_share) == ("sample", warmup, 1.0, 0.2)
    with pytest.raises(SystemExit):
        parse(["--method", "valuation", "--unimodal_loss", "split"])
