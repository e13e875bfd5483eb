"""MMCSAL's first stage: its losses sample by sample, its prototypes, and that it reads no label."""

import copy
import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.contract import EPOCHS, N, epoch_of
from helpers.instances import make_features, save_features
from helpers.resuming import assert_resumes_after_every_step
from helpers.runs import checkpoint, differing, folder_of, rows_of
from helpers.steps import (
    assert_evaluates_as_the_model,
    assert_same_gradients,
    count_backwards,
    count_samples,
    host_reads,
    one_step,
    step,
)
from torch.utils.data import Subset

import main as program
from engine.parser import parse
from methods import METHODS, PRETRAINING
from methods.mmcsal import MMCSAL

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")


def slow_matching(a, b, temperature):
    """One sample against one other at a time."""
    count, total = len(a), 0
    s = [[x @ y / temperature for y in b] for x in a]
    for i in range(count):
        total = total - s[i][i] + torch.stack([s[i][k] for k in range(count)]).exp().sum().log()
        total = total - s[i][i] + torch.stack([s[k][i] for k in range(count)]).exp().sum().log()
    return total / (2 * count)


def slow_near(z, prototypes, assigned, temperature):
    total = 0
    for x, own in zip(z, assigned, strict=True):
        s = [x @ c / temperature for c in prototypes]
        total = total - s[own] + torch.stack(s).exp().sum().log()
    return total / len(z)


def slow_embed(model, features):
    found = {}
    for name, f in features.items():
        first, _, last = model.projectors[name]
        g = (f @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
        found[name] = g / (g**2).sum(dim=1, keepdim=True).sqrt()
    return found


def with_prototypes(method, count=4, samples=N):
    """As though an epoch had made some."""
    draws = torch.Generator().manual_seed(5)
    for name in method.model.modalities:
        drawn = torch.randn(count, method.args.projection, generator=draws, dtype=torch.float64)
        method.prototypes[name] = F.normalize(drawn)
        method.assigned[name] = torch.randint(count, (samples,), generator=draws)


@pytest.mark.parametrize("prototypes", [False, True])
@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_loss_and_gradients_are_those_of_single_samples(begin, tiny_batch, modalities, prototypes):
    method, run = begin("mmcsal", modalities, temperature=0.3, prototype_weight=0.7, prototype_temperature=0.4)
    batch = tiny_batch(modalities)
    batch.index = torch.tensor([3, 9, 0, 7, 20, 5])
    if prototypes:
        with_prototypes(method)
    literal = copy.deepcopy(method.model).train()
    z = slow_embed(literal, literal.encode(batch.inputs))
    pairs = list(combinations(modalities, 2))
    expected = sum(slow_matching(z[a], z[b], 0.3) for a, b in pairs) / len(pairs)
    if prototypes:
        terms = [slow_near(z[m], method.prototypes[m], method.assigned[m][batch.index], 0.4) for m in modalities]
        expected = expected + 0.7 * sum(terms) / len(terms)
    expected.backward()
    grads = {name: p.grad for name, p in literal.named_parameters()}
    assert_same_gradients(one_step(method, batch), grads)
    _, losses = step(method, batch)
    torch.testing.assert_close(losses["loss"], expected.detach())
    assert losses.keys() == {"loss", "loss_matching"} | ({"loss_prototypes"} if prototypes else set())
    assert all(grad is None for name, grad in grads.items() if name.startswith("fusion"))


def test_prototypes_are_cluster_centres_of_the_whole_split_and_begin_after_a_share_of_the_epochs(begin):
    method, run = begin("mmcsal", prototypes=3, prototype_start=0.5)
    assert EPOCHS == 4
    for epoch in range(EPOCHS):
        (means, _), _ = epoch_of(method, run, epoch)
        assert ("loss_prototypes" in means) == (epoch >= 2), epoch
    seen = run.collect(run.train, lambda batch: method.embed(method.model.encode(batch.inputs)))
    for name, z in seen.items():
        for k in range(3):
            centre = z[method.assigned[name] == k].mean(dim=0)
            torch.testing.assert_close(method.prototypes[name][k], centre / centre.norm())
        assert set(method.assigned[name].tolist()) == {0, 1, 2}


def test_prototypes_of_a_part_know_which_samples_it_has(begin):
    method, run = begin("mmcsal", prototypes=2, prototype_start=0.0)
    run.train = Subset(run.train, [20, 3, 11, 8, 17])
    epoch_of(method, run, 0)
    seen = run.collect(run.train, lambda batch: method.embed(method.model.encode(batch.inputs)))
    for name, z in seen.items():
        at = method.assigned[name][run.train.indices]
        nearest = (z @ method.prototypes[name].T).argmax(dim=1)
        assert torch.equal(at, nearest) and len(method.assigned[name]) == N


@pytest.mark.parametrize("flags, count", [({}, 6), ({"prototypes": 40}, N), ({"prototypes": 0}, None)])
def test_two_prototypes_for_each_class_by_default_and_never_more_than_samples(begin, flags, count):
    method, run = begin("mmcsal", prototype_start=0.0, **flags)
    epoch_of(method, run, 0)
    assert {name: len(c) for name, c in method.prototypes.items()} == (dict.fromkeys(TWO, count) if count else {})
    assert bool(method.bound_to(3)) == bool(count)


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_the_gap_is_the_distance_between_the_centres(begin, modalities):
    method, run = begin("mmcsal", modalities)
    _, record = epoch_of(method, run, 0)
    z = run.collect(run.train, lambda batch: method.embed(method.model.encode(batch.inputs)))
    centres = {name: sum(x) / N for name, x in z.items()}
    for name in modalities:
        others = [math.dist(centres[name], centres[other]) for other in modalities if other != name]
        assert record["modality_gap"][name] == pytest.approx(sum(others) / len(others), rel=1e-9)


def test_what_belongs_together_is_brought_together(begin):
    """Every fourth epoch of several, since each has other batches."""
    method, run = begin("mmcsal", temperature=0.3, prototypes=0)
    run.optimizer = torch.optim.Adam(method.model.parameters(), lr=0.03)
    losses = [epoch_of(method, run, epoch)[0][0]["loss_matching"] for epoch in range(13)][::4]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1


def test_a_stop_after_any_step_changes_nothing(begin, tmp_path):
    assert_resumes_after_every_step(lambda: begin("mmcsal", prototype_start=0.3, prototypes=3), tmp_path)


def test_shuffled_labels_give_the_same_weights(tmp_path):
    """Whatever the shares of the classes."""
    folders = []
    for name, labels in (("one", np.arange(36) % 3), ("two", np.random.default_rng(0).choice([0, 1, 1, 1, 2], 36))):
        arrays = make_features()
        assert set(labels) == {0, 1, 2}
        arrays["train"]["label"] = labels
        places = ["--data_root", str(save_features(tmp_path / name, arrays)), "--out", str(tmp_path / name)]
        small = "--hidden 8 --batch_size 12 --epochs 2 --workers 0 --device cpu --method mmcsal --prototypes 3".split()
        argv = ["--dataset", "features", *places, *small]
        program.main(argv)
        folders.append(folder_of(argv))
    one, two = map(checkpoint, folders)
    assert not differing(one["model"], two["model"])
    records = [[{k: v for k, v in row["train"].items() if k.startswith("loss")} for row in rows_of(f)] for f in folders]
    assert records[0] == records[1] and "loss_prototypes" in records[0][1]
    assert rows_of(folders[0])[1]["modality_gap"] == rows_of(folders[1])[1]["modality_gap"]


@pytest.mark.parametrize("flags", [dict(val_fraction=0.1), dict(patience=3)])
def test_what_would_choose_by_labels_is_refused(tiny_model, flags):
    args = parse(["--method", "mmcsal"])
    vars(args).update(flags)
    with pytest.raises(ValueError, match="mmcsal reads no label, and --val_fraction and --patience choose by"):
        MMCSAL(args, tiny_model())


def test_one_modality_has_nothing_to_match(tiny_model):
    with pytest.raises(ValueError, match="it needs two or more"):
        MMCSAL(parse(["--method", "mmcsal"]), tiny_model(("audio",)))


def test_a_step_is_one_pass_and_waits_for_nothing(begin, tiny_batch, monkeypatch):
    method, run = begin("mmcsal", prototypes=3, prototype_start=0.0)
    epoch_of(method, run, 0)
    forwards, calls = count_samples(run.model.encoders), count_backwards(monkeypatch)
    batch, reads = tiny_batch(), host_reads(monkeypatch)
    _, losses = step(method, batch)
    assert "loss_prototypes" in losses and reads == []
    assert forwards == dict.fromkeys(TWO, [6]) and calls == {"backward": 1, "grad": 0}
    monkeypatch.undo()
    assert_evaluates_as_the_model(method, batch)


def test_it_is_trained_by_main_and_stands_in_no_table_of_accuracies():
    assert parse(["--method", "mmcsal"]).method == "mmcsal" and "mmcsal" in PRETRAINING and "mmcsal" not in METHODS


@pytest.mark.parametrize("name", ["joint", "mmcsal"])
def test_samples_are_compared_by_unit_vectors(begin, tiny_batch, name):
    method, run = begin(name)
    features = method.model.encode(tiny_batch().inputs)
    expected = (
        slow_embed(method.model, features) if name == "mmcsal" else {m: F.normalize(f) for m, f in features.items()}
    )
    torch.testing.assert_close(method.embed(features), expected)
