"""Diagnosing & Re-learning against hand-computed numbers, and against joint training where it does nothing."""

import copy
import math
from argparse import Namespace

import pytest
import torch
from helpers.tiny import CLASSES, TinyData

from dataset import DATASETS, build
from dataset.base import targets_of
from engine.parser import parse
from engine.train import train_epoch
from methods import relearning
from methods.joint import Joint
from methods.relearning import Relearning, purity, reset

THREE = ("audio", "visual", "text")


@pytest.fixture
def begin(tiny_model, tiny_run, make_args):
    """begin(modalities, **flags): a method and its run, with a withheld share and the training data as it is."""

    def make(modalities=("audio", "visual"), **flags):
        args = make_args(**dict(every=1, times=9, strength=3.0, held_out=0.1) | flags)
        model = tiny_model(modalities)
        method, run = Relearning(args, model), tiny_run(model, args, modalities, count=24)
        run.plain, run.held_out = TinyData(modalities, 24), TinyData(modalities, 12, seed=1)
        return method, run

    return make


def epochs(method, run, numbers):
    records = []
    for run.epoch in numbers:
        train_epoch(run, method)
        records.append(method.on_epoch_end(run))
    return records


def test_purity_by_hand():
    separated = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    assert purity(separated, torch.tensor([1, 1, 1, 0, 0, 0]), 2) == 1.0
    assert purity(separated, torch.tensor([0, 0, 1, 1, 1, 1]), 2) == pytest.approx(5 / 6)


@pytest.mark.parametrize("seed", range(5))
def test_purity_is_at_least_the_largest_class_share(seed):
    draws = torch.Generator().manual_seed(seed)
    target = torch.tensor([0] * 20 + [1] * 6 + [2] * 4)
    assert 20 / 30 <= purity(torch.randn(30, 4, generator=draws), target, 3) <= 1


def test_dimensions_are_scaled_to_the_same_range():
    # The first dimension tells the classes apart, the second varies a thousand times as much, the third not at all.
    target = torch.arange(40) % 2
    spread = torch.linspace(-1000, 1000, 20).repeat_interleave(2)
    assert purity(torch.stack([target.float(), spread, torch.ones(40)], dim=1), target, 2) == 1.0


def test_purity_draws_from_no_global_generator():
    before = torch.get_rng_state(), relearning.np.random.get_state()[1].copy()
    purity(torch.randn(30, 4, generator=torch.Generator()), torch.arange(30) % 3, 3)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == relearning.np.random.get_state()[1]).all()


def test_reset_of_strength_zero_one_and_a_quarter():
    start, now = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    for strength, expected in ((0.0, now), (1.0, start)):
        p = now.clone()
        reset([p], [start], strength)
        assert torch.equal(p, expected)
    p = torch.tensor([2.0, 6.0])
    reset([p], [torch.tensor([10.0, -2.0])], 0.25)
    assert p.tolist() == [4.0, 4.0]


def test_only_encoder_parameters_are_reset_each_by_its_own_strength(begin, monkeypatch):
    method, run = begin(THREE)
    epochs(method, run, [0])
    before, momentum = copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.optimizer.state_dict())
    purities = iter([0.9, 0.5, 1.0, 0.7, 0.6, 1.0])  # train, then withheld; audio, visual, text
    monkeypatch.setattr(relearning, "purity", lambda *_: next(purities))
    run.epoch = 1
    method.on_epoch_start(run)
    # |0.9 - 0.7|, |0.5 - 0.6|: a larger purity of the withheld share counts as well; no gap, no reset.
    strengths = {"audio": math.tanh(0.6), "visual": math.tanh(0.3), "text": 0.0}
    assert method.diagnosis["reset"] == pytest.approx(strengths, rel=1e-12)
    after, parameters = run.model.state_dict(), dict(run.model.named_parameters())
    for name, strength in strengths.items():
        initial = iter(method.initial[name])
        for key in (key for key in parameters if key.startswith(f"encoders.{name}.")):
            expected = strength * next(initial) + (1 - strength) * before[key]
            torch.testing.assert_close(after[key], expected, rtol=1e-12, atol=0)
            assert torch.equal(after[key], before[key]) == (name == "text")
    kept = [key for key in before if key not in parameters or not key.startswith("encoders.")]
    assert any("running_mean" in key for key in kept) and any(key.startswith("fusion.") for key in kept)
    assert all(torch.equal(after[key], before[key]) for key in kept)
    for place, values in run.optimizer.state_dict()["state"].items():
        assert torch.equal(values["momentum_buffer"], momentum["state"][place]["momentum_buffer"])


def test_epochs_of_the_diagnoses(begin):
    method, _ = begin(every=20, times=3)
    assert [epoch for epoch in range(120) if method.due(epoch)] == [20, 40, 60]
    assert not any(begin(times=0)[0].due(epoch) for epoch in range(120))


def test_record_and_which_data_are_looked_at(begin, monkeypatch):
    method, run = begin(every=2, times=1)
    looked_at, collect = [], run.collect
    monkeypatch.setattr(run, "collect", lambda data, fn: looked_at.append((run.epoch, data)) or collect(data, fn))
    records = epochs(method, run, range(5))
    assert looked_at == [(2, run.plain), (2, run.held_out)]
    for epoch, record in enumerate(records):
        for name in ("purity_train", "purity_held_out", "reset"):
            assert record[name].keys() == {"audio", "visual"}
            assert all((value is None) == (epoch != 2) for value in record[name].values())
    gap = records[2]["purity_train"]["audio"] - records[2]["purity_held_out"]["audio"]
    assert records[2]["reset"]["audio"] == pytest.approx(math.tanh(3 * abs(gap)))


def test_diagnosis_leaves_training_as_joint_when_it_resets_nothing(begin):
    finals = []
    for method_class in (Joint, Relearning):
        method, run = begin(strength=0.0)  # diagnosed before every epoch
        method = method if method_class is Relearning else Joint(method.args, run.model)
        epochs(method, run, range(3))
        finals.append((run.model.state_dict(), method.trace.history))
    assert all(torch.equal(finals[0][0][key], finals[1][0][key]) for key in finals[0][0])
    assert finals[0][1] == finals[1][1]


def test_a_reset_changes_what_follows(begin):
    finals = []
    for times in (0, 1):
        method, run = begin(times=times, strength=30.0)
        epochs(method, run, range(2))
        finals.append(run.model.state_dict())
    assert not torch.equal(finals[0]["encoders.audio.linear.weight"], finals[1]["encoders.audio.linear.weight"])


def test_state_goes_on_from_the_first_weights(begin, tmp_path):
    method, run = begin()
    epochs(method, run, [0])
    torch.save(method.state_dict(), tmp_path / "state.pt")
    resumed = Relearning(method.args, copy.deepcopy(run.model))  # built on weights that are not the first
    assert not torch.equal(resumed.initial["audio"][0], method.initial["audio"][0])
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for name in method.initial:
        assert all(torch.equal(p, q) for p, q in zip(method.initial[name], resumed.initial[name], strict=True))
    assert resumed.trace.history == method.trace.history


class Listed(TinyData):
    """36 samples to train on and 12 to test on, under the contract of a data set; `train` stands for augmentation."""

    method_defaults = {}

    def __init__(self, args, rows, modalities, train):
        super().__init__(modalities, len(rows))
        self.rows, self.train = rows, train

    read_splits = staticmethod(lambda args: (range(36), range(36, 48)))
    class_names = staticmethod(lambda args: range(CLASSES))


def test_the_share_is_withheld_and_the_plain_split_is_the_training_split(begin, monkeypatch):
    monkeypatch.setitem(DATASETS, "listed", Listed)
    method, _ = begin(held_out=0.25)
    for val_fraction in (0.0, 0.25):
        args = Namespace(dataset="listed", val_fraction=val_fraction, train_list=None)
        splits = build(args, ("audio",), method.held_out)
        assert splits.plain.indices == splits.train.indices and targets_of(splits.plain) == targets_of(splits.train)
        assert splits.train.dataset.train and not splits.plain.dataset.train and not splits.held_out.dataset.train
        assert len(splits.held_out) == 9 and not set(splits.held_out.indices) & set(splits.train.indices)
        assert splits.plain.dataset.rows == splits.held_out.dataset.rows == range(36)  # none of the test split
        assert build(args, ("audio",)).plain is None


def test_flags_of_each_data_set():
    for dataset, expected in {"CREMAD": (20, 0.111), "GRID": (2, 0.1), "demo": (2, 0.1)}.items():
        args = parse(["--dataset", dataset, "--method", "relearning"])
        assert (args.every, args.held_out, args.times, args.strength) == (*expected, 3, 3.0)
    assert parse(["--method", "relearning", "--unimodal_loss", "split"]).unimodal_loss == "split"
    with pytest.raises(SystemExit):
        parse(["--method", "relearning", "--held_out", "0"])
