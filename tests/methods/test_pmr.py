"""PMR: prototypes, posteriors and coefficients by hand, the loss against autograd, and whom its gradient reaches."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers.coefficients import score
from helpers.steps import gradients
from helpers.tiny import CLASSES, TinyData

from engine.parser import parse
from engine.train import train_epoch
from methods.joint import Joint
from methods.pmr import PMR, log_posterior, updated

FLAGS = dict(
    alpha=1.0, coefficient="clip", mu=0.0, per_epochs=0, prototype_share=1.0, prototype_momentum=0.0,
    modulation_starts=0, modulation_ends=100,
)  # fmt: skip
WITH_PER = {"mu": 0.1, "per_epochs": 1}


def started(make_args, model, run=None, **changes):
    """PMR with prototypes drawn at random, or the run's."""
    method = PMR(make_args(**FLAGS | changes), model)
    if run is not None:
        method.on_epoch_start(run)
        return method
    draws = torch.Generator().manual_seed(3)
    for name, dim in model.dims.items():
        method.prototypes[name] = torch.randn(CLASSES, dim, generator=draws, dtype=torch.float64)
    return method


def literal_terms(features, prototypes, target):
    """{modality: (score, PCE, entropy)} sample by sample; score and weights are to be constants, so they are floats."""
    terms = {}
    for name, f in features.items():
        total, cross, entropy = 0.0, 0.0, 0.0
        for i, y in enumerate(target):
            pi = torch.softmax(torch.stack([-(f[i] - c).norm() for c in prototypes[name]]), dim=0)
            total += pi[y].item()
            cross = cross - pi[y].log() / len(target)
            entropy = entropy - (pi * pi.log()).sum() / len(target)
        terms[name] = (total, cross, entropy)
    return terms


def clip(x):
    return min(max(x, 0.0), 1.0)


def test_prototypes_are_class_means():
    feature = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 5.0]])
    target = torch.tensor([0, 0, 2])
    # Class 1 has no sample: first the mean of all features, later what it was.
    first = updated(None, feature, target, 3, momentum=0.5)
    assert first.tolist() == [[2.0, 2.0], [3.0, 3.0], [5.0, 5.0]]
    second = updated(first, feature + 2, target, 3, momentum=0.25)
    assert second.tolist() == [[3.5, 3.5], [3.0, 3.0], [6.5, 6.5]]
    assert updated(first, feature + 2, target, 3, momentum=0.0).tolist() == [[4.0, 4.0], [3.0, 3.0], [7.0, 7.0]]


def test_posterior_by_hand():
    # Distances 5 and 1, not their squares.
    log_pi = log_posterior(torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[3.0, 4.0], [1.0, 0.0]]).double())
    assert log_pi.exp()[0].tolist() == pytest.approx([1 / (1 + math.exp(4)), 1 / (1 + math.exp(-4))])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_where_a_feature_meets_its_prototype(dtype):
    feature = torch.tensor([[1.0, 2.0]], dtype=dtype, requires_grad=True)
    log_posterior(feature, torch.tensor([[1.0, 2.0], [4.0, 6.0]], dtype=dtype))[0, 0].backward()
    assert feature.grad.isfinite().all()


def test_posterior_is_computed_in_full_precision():
    assert log_posterior(torch.ones(1, 2, dtype=torch.bfloat16), torch.zeros(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    "scores, clipped, switched",
    [
        ((3.0, 2.0), [0, 0.5], [0, 1]),
        ((2.0, 3.0), [0.5, 0], [1, 0]),
        ((9.0, 2.0), [0, 1], [0, 1]),  # 3.5 is clipped
        ((2.0, 2.0), [0, 0], [0, 0]),
        ((3.0, 2.0, 2.4), [0, 0.5, 0.25], [0, 1, 1]),
        ((0.0, 1.0), [1, 0], [1, 0]),
        ((0.0, 0.0), [0, 0], [0, 0]),
    ],
)
def test_coefficients_by_hand(tiny_model, make_args, scores, clipped, switched):
    for kind, wanted in (("clip", clipped), ("switch", switched)):
        method = PMR(make_args(**FLAGS | {"coefficient": kind}), tiny_model())
        assert method._coefficients(score(*scores)).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("coefficient", ["clip", "switch"])
@pytest.mark.parametrize("names", [("audio", "visual"), ("audio", "visual", "text")])
@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_loss_and_gradients_are_those_of_slow_autograd(tiny_model, tiny_batch, make_args, names, coefficient, fusion):
    model, batch = tiny_model(names, fusion).train(), tiny_batch(names)
    method = started(make_args, model, coefficient=coefficient, alpha=2.0, **WITH_PER)
    literal = copy.deepcopy(model)
    features = literal.encode(batch.inputs)
    terms = literal_terms(features, method.prototypes, batch.target)
    scores = {name: term[0] for name, term in terms.items()}
    fastest = max(scores, key=scores.get)
    loss = F.cross_entropy(literal.fuse(features), batch.target)
    for name, (s, cross, _) in terms.items():
        weight = clip(scores[fastest] / s - 1) if coefficient == "clip" else float(name != fastest)
        loss = loss + 2.0 * weight * cross
    others = sum(s for name, s in scores.items() if name != fastest) / (len(names) - 1)
    ahead = clip(scores[fastest] / others - 1)
    assert 0.01 < ahead < 1
    loss = loss - 0.1 * ahead * terms[fastest][2]
    loss.backward()
    losses = method.losses(method.forward(batch))
    method.backward(losses)
    torch.testing.assert_close(losses["loss"], loss, rtol=1e-10, atol=0)
    found = gradients(model)
    for name, grad in gradients(literal).items():
        torch.testing.assert_close(found[name], grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_the_extra_gradient_reaches_the_slower_encoder_alone(tiny_model, tiny_batch, make_args, fusion):
    model, batch = tiny_model(fusion=fusion).train(), tiny_batch()
    method = started(make_args, model)
    output = method.forward(batch)
    terms = literal_terms(output.features, method.prototypes, batch.target)
    slower = min(terms, key=lambda name: terms[name][0])
    extra = method.losses(output)["loss"] - F.cross_entropy(output.logits, batch.target)
    extra.backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-12}
    assert touched and all(name.startswith(f"encoders.{slower}.") for name in touched)
    assert not any(c.requires_grad for c in method.prototypes.values())


def test_entropy_is_raised_of_the_fastest_alone(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model().train(), tiny_batch()
    method = started(make_args, model, alpha=0.0, **WITH_PER)
    output = method.forward(batch)
    terms = literal_terms(output.features, method.prototypes, batch.target)
    fastest = max(terms, key=lambda name: terms[name][0])
    extra = method.losses(output)["loss"] - F.cross_entropy(output.logits, batch.target)
    assert extra < 0
    extra.backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-12}
    assert touched and all(name.startswith(f"encoders.{fastest}.") for name in touched)


def runs_to_the_end(method_class, args, tiny_model, tiny_run, epochs=3):
    model = tiny_model()
    method, run = method_class(args, model), tiny_run(model, args)
    records = []
    for run.epoch in range(epochs):
        train_epoch(run, method)
        records.append(method.on_epoch_end(run))
    return model.state_dict(), method, records


@pytest.mark.parametrize(
    "neutral", [{"alpha": 0.0}, {"alpha": 0.0, "mu": 0.0, "per_epochs": 9}, {"modulation_starts": 3}]
)
def test_neutral_settings_are_joint_training_bit_for_bit(tiny_model, tiny_run, make_args, neutral):
    joint, reference, _ = runs_to_the_end(Joint, make_args(), tiny_model, tiny_run)
    same, method, _ = runs_to_the_end(PMR, make_args(**FLAGS | neutral), tiny_model, tiny_run)
    assert all(torch.equal(joint[name], same[name]) for name in joint)
    assert reference.trace.history == method.trace.history
    other, _, _ = runs_to_the_end(PMR, make_args(**FLAGS), tiny_model, tiny_run)
    assert not all(torch.equal(joint[name], other[name]) for name in joint)


def test_equal_scores_are_joint_training(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model().train(), tiny_batch()
    method = started(make_args, model, **WITH_PER)
    output = method.forward(batch)
    output.features["visual"] = output.features["audio"]
    method.prototypes["visual"] = method.prototypes["audio"]
    assert torch.equal(method.losses(output)["loss"], F.cross_entropy(output.logits, batch.target))


def test_prototypes_are_of_the_training_split_in_evaluation_mode(tiny_model, tiny_run, make_args):
    model = tiny_model().train()
    before = copy.deepcopy(model.state_dict())
    run = tiny_run(model, make_args())
    method = started(make_args, model, run)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    target = torch.tensor(run.train.targets)
    with torch.no_grad():
        features = copy.deepcopy(model).eval().encode(run.train.images)
    for name, prototypes in method.prototypes.items():
        wanted = torch.stack([features[name][target == k].mean(dim=0) for k in range(CLASSES)])
        torch.testing.assert_close(prototypes, wanted, rtol=1e-10, atol=1e-14)


def test_the_share_is_random_and_new_in_each_epoch(tiny_model, tiny_run, make_args):
    model, sizes = tiny_model(), []
    run = tiny_run(model, make_args(), count=40)
    method = PMR(make_args(**FLAGS | {"prototype_share": 0.1}), model)
    real = run.collect
    run.collect = lambda data, fn: sizes.append(tuple(data.indices)) or real(data, fn)
    state = torch.get_rng_state()
    for run.epoch in (0, 1, 1):
        method.on_epoch_start(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(set(chosen)) for chosen in sizes] == [4, 4, 4]
    assert sizes[0] != sizes[1] == sizes[2]
    assert sizes[0] != tuple(range(4))


def test_momentum_blends_epochs(tiny_model, tiny_run, make_args):
    model = tiny_model()
    run = tiny_run(model, make_args())
    method = started(make_args, model, run, prototype_momentum=0.25)
    old = dict(method.prototypes)
    with torch.no_grad():
        for encoder in model.encoders.values():
            encoder.linear.bias += 1.0
    method.on_epoch_start(run)
    for name, prototypes in method.prototypes.items():
        torch.testing.assert_close(prototypes, old[name] + 0.75, rtol=1e-10, atol=1e-12)


def test_epochs_and_record(tiny_model, tiny_run, make_args):
    flags = FLAGS | {"modulation_starts": 1, "modulation_ends": 2, "mu": 0.1, "per_epochs": 2}
    _, _, records = runs_to_the_end(PMR, make_args(**flags), tiny_model, tiny_run, epochs=4)
    for column, recorded in (
        ("coefficient", [False, True, True, False]),
        ("prototype_score", [False, True, True, False]),
        ("prototype_loss", [False, True, True, False]),
        ("entropy_weight", [False, True, False, False]),
    ):
        assert [set(record[column].values()) != {None} for record in records] == recorded
    assert 0 < max(records[1]["coefficient"].values()) <= 1
    assert all(0 < s < 1 for s in records[1]["prototype_score"].values())


@pytest.mark.parametrize("during, acts", [("prime", (True, False)), ("outside", (False, True)), ("all", (True, True))])
def test_modulate_during_gates_each_modality(tiny_model, make_args, during, acts):
    method = PMR(make_args(**FLAGS, modulate_during=during), tiny_model())
    method.trace.load_state_dict({"history": {"audio": [1.0, 2.0], "visual": [2.0, 2.0]}})  # open, closed
    assert method.gated(score(0.5, 0.25), neutral=0).tolist() == [0.5 * acts[0], 0.25 * acts[1]]


@pytest.mark.parametrize("during", ["prime", "outside"])
def test_the_gate_reaches_the_loss(tiny_model, tiny_batch, make_args, during):
    model, batch = tiny_model().train(), tiny_batch()
    method = started(make_args, model, **WITH_PER | {"per_epochs": 9}, modulate_during=during)
    history = {name: [1.0, 2.0] if during == "outside" else [2.0, 2.0] for name in model.modalities}
    method.trace.load_state_dict({"history": history})
    output = method.forward(batch)
    assert torch.equal(method.losses(output)["loss"], F.cross_entropy(output.logits, batch.target))


@pytest.mark.parametrize("unimodal_loss", ["split", "heads"])
def test_unimodal_losses_come_beside_it(tiny_model, tiny_batch, make_args, unimodal_loss):
    model, batch = tiny_model(), tiny_batch()
    method = started(make_args, model, unimodal_loss=unimodal_loss)
    model.double().train()
    output = method.forward(batch)
    with_prototypes, without = method.losses(output)["loss"], Joint.losses(method, output)["loss"]
    plain = started(make_args, model)
    extra = plain.losses(output)["loss"] - Joint.losses(plain, output)["loss"]
    torch.testing.assert_close(with_prototypes - without, extra)
    assert extra > 0.01


def test_a_class_that_the_share_never_holds_stops_nothing(tiny_model, tiny_run, make_args):
    model, args = tiny_model(), make_args(**FLAGS | WITH_PER)
    method, run = PMR(args, model), tiny_run(model, args)
    run.train = TinyData(count=10)
    run.train.targets = [0] * 9 + [1]
    losses, _ = train_epoch(run, method)
    assert math.isfinite(losses["loss"])
    assert all(p.isfinite().all() for p in nn.utils.parameters_to_vector(model.parameters()).unsqueeze(0))


def test_one_modality_is_refused(tiny_model, make_args):
    with pytest.raises(ValueError, match="two or more"):
        PMR(make_args(**FLAGS), tiny_model(("audio",)))


def test_defaults():
    args = vars(parse(["--method", "pmr"]))
    wanted = dict(alpha=2.0, coefficient="clip", mu=0.01, per_epochs=10, prototype_share=0.1, prototype_momentum=0.0)
    wanted |= dict(modulation_starts=0, modulation_ends=70, modulate_during="all", momentum=0.9, tag="default")
    assert {name: args[name] for name in wanted} == wanted
    assert parse(["--method", "pmr", "--dataset", "demo"]).alpha == 1.0
    assert parse(["--method", "pmr", "--prototype_share", "1"]).prototype_share == 1
