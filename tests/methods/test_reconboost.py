"""ReconBoost: the residual and the memory by hand and against autograd, and who learns in which epoch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import THREE, TWO
from helpers.steps import assert_same_gradients, gradients, one_step, same_state, sgd, step

from engine.parser import parse
from methods.joint import Joint
from methods.reconboost import UNITS, ReconBoost
from methods.unimodal import Unimodal
from models.multimodal import MultimodalModel, Output

FLAGS = dict(residual="masked", rho=0.2, consolidation=0.5, phase_epochs=1, rectify_epochs=1)
ADDITIVE = ["sum", "concat", "shared"]


@pytest.fixture
def make(tiny_model, make_args):
    """make(modalities, fusion, epoch, **flags): the method on a tiny model, before the first step of an epoch."""

    def make(modalities=TWO, fusion="sum", epoch=0, seed=0, **flags):
        method = ReconBoost(make_args(**FLAGS | flags), tiny_model(modalities, fusion, seed))
        method.model.double()
        method.optimizer = sgd(method.model)
        put(method, epoch)
        return method

    return make


def put(method, epoch):
    """As though `epoch` comes next."""
    method.trace.load_state_dict({"history": {name: [1.0] * epoch for name in method.model.modalities}})
    method.on_epoch_start(None)


@pytest.fixture
def epochs(tiny_batch):
    """epochs(count, modalities): of three batches each."""
    return lambda count, modalities=TWO: [
        [tiny_batch(modalities, seed=10 * epoch + i) for i in range(3)] for epoch in range(count)
    ]


def same_weights(one, other):
    expected = other.state_dict()
    return all(torch.equal(value, expected[name]) for name, value in one.state_dict().items())


def literal(model, batch, trained, before, residual, rho, consolidation):
    """The loss of a phase-1 step sample by sample; the others' encoders in evaluation mode."""
    model.train()
    features = {}
    for name, encoder in model.encoders.items():
        encoder.train(name == trained)
        features[name] = encoder(batch.inputs[name])
    z = model.unimodal(features)
    total, classes = 0, model.classes
    for i, y in enumerate(batch.target.tolist()):
        p = z[trained][i].softmax(0)
        q = sum(z[name][i] for name in z if name != trained).softmax(0).detach()
        for c in range(classes):
            told = q[c] if residual == "full" or c == y else 0
            total = total - (float(c == y) - rho * told) * p[c].log()
        if before:
            apart = (p - z[before][i].softmax(0).detach()).square().sum()
            total = total + consolidation * apart / classes
    return total / len(batch)


# Gradients


@pytest.mark.parametrize("fusion", ADDITIVE)
@pytest.mark.parametrize("residual", ["masked", "full"])
@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_the_gradient_is_that_of_the_written_loss(make, tiny_batch, modalities, residual, fusion):
    for stage in range(3):
        method = make(modalities, fusion, epoch=2 * stage, residual=residual, rho=0.4, clip_norm=1.0)
        trained = modalities[stage % len(modalities)]
        before = modalities[(stage - 1) % len(modalities)] if stage else None
        with torch.no_grad():  # running statistics and biases as after some training
            for encoder in method.model.encoders.values():
                encoder.norm.running_mean.add_(0.3)
            for p in method.model.fusion.parameters():
                p.mul_(2).add_(0.1 * torch.arange(len(p)).view(-1, *[1] * (p.ndim - 1)))
        assert method.trained == trained
        batch, model = tiny_batch(modalities), copy.deepcopy(method.model)
        literal(model, batch, trained, before, residual, 0.4, 0.5).backward()
        assert_same_gradients(one_step(method, batch), gradients(model))


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_the_memory_has_a_gradient_in_the_modality_that_is_trained_alone(make, modalities):
    method = make(modalities, epoch=2)
    draws = torch.Generator().manual_seed(0)
    z = {n: torch.randn(5, 3, dtype=torch.float64, generator=draws).requires_grad_() for n in modalities}
    own, *others = torch.autograd.grad(
        method.memory(z), [z[modalities[1]], z[modalities[0]], *(z[n] for n in modalities[2:])], allow_unused=True
    )
    assert own.abs().min() > 1e-4 and others == [None] * (len(modalities) - 1)
    apart = (z[modalities[1]].softmax(1) - z[modalities[0]].softmax(1)).square().mean()
    torch.testing.assert_close(method.memory(z), apart)


def test_the_memory_is_of_the_modality_of_the_stage_before(make):
    z = {name: torch.eye(3, dtype=torch.float64)[[i]] * 5 for i, name in enumerate(THREE)}
    z["text"] = z["audio"].clone()
    distance = {}
    for stage in range(4):  # audio, visual, text, audio
        method = make(THREE, epoch=2 * stage)
        distance[stage] = method.memory(z).item()
    assert distance[0] == distance[3] == 0 < distance[1] == distance[2]  # text and audio say the same


def test_the_others_send_no_gradient_and_get_none(make, tiny_batch):
    """Nor does a modality's head, where it has one of its own."""
    method = make(THREE, epoch=2)
    found = one_step(method, tiny_batch(THREE))
    assert {n for n, grad in found.items() if grad is not None} == {
        n for n in found if n.startswith(("encoders.visual.", "fusion.heads.visual."))
    }


# The residual


def loss_of(method, z, others, target):
    """The residual term for logits (B, C) of the first modality and of the second, in the first stage."""
    method.model.train()
    output = Output(z + others, {"audio": z, "visual": others}, {}, target)
    return method.losses(output)["loss_residual"]


def test_the_weight_by_hand(make):
    method = make()
    q = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([0, 2, 0, 0])
    wanted = method.wanted(q, target)
    assert wanted.flatten().tolist() == pytest.approx([0.9, 0, 0, 0, 0, 0.84, 1, 0, 0, 0.8, 0, 0])
    full = make(residual="full", clip_norm=1.0).wanted(q, target)
    assert full[0].tolist() == pytest.approx([0.9, -0.06, -0.04])
    # The public code's (5 - q_y) / 6 of six classes: at q_y = 0.5 three quarters of the cross entropy.
    official = make(fusion="shared", variant="official", consolidation=0.0)
    official.factor = official.factor * 3 / 6
    z, one = torch.tensor([[0.3, -1.0, 0.2]], dtype=torch.float64), torch.tensor([0])
    others = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    assert loss_of(official, z, others, one).item() == pytest.approx(0.75 * F.cross_entropy(z, one).item())


def test_the_weight_falls_with_the_others_confidence_and_keeps_its_bounds(make):
    method, target = make(rho=0.7), torch.zeros(50, dtype=torch.long)
    q = torch.linspace(0, 1, 50, dtype=torch.float64)
    weight = method.wanted(torch.stack([q, (1 - q) / 2, (1 - q) / 2], dim=1), target)[:, 0]
    assert (weight.diff() < 0).all() and weight[0] == 1 and weight[-1].item() == pytest.approx(0.3)


def test_the_full_residual_is_the_papers_objective_up_to_a_constant(make):
    draws = torch.Generator().manual_seed(3)
    z, others = (torch.randn(7, 3, dtype=torch.float64, generator=draws).requires_grad_() for _ in range(2))
    target, rho = torch.arange(7) % 3, 0.6
    log_p, log_q = z.log_softmax(1), others.detach().log_softmax(1)
    divergence = (log_q.exp() * (log_q - log_p)).sum(1).mean()
    entropy = -(log_q.exp() * log_q).sum(1).mean()
    expected = F.cross_entropy(z, target) - rho * divergence - rho * entropy
    method = make(residual="full", rho=rho, clip_norm=1.0)
    found = loss_of(method, z, others, target)
    torch.testing.assert_close(found, expected)
    (grad,) = torch.autograd.grad(found, z)
    label = F.one_hot(target, 3)
    torch.testing.assert_close(grad, ((1 - rho) * log_p.exp() - (label - rho * log_q.exp())).detach() / 7)
    # Unbounded below, which is why it is not the default: along y - q it falls for ever.
    way = label - log_q.exp()
    falls = [loss_of(method, step * way, others, target).item() for step in (10.0, 100.0, 1000.0)]
    assert falls[0] > falls[1] > falls[2] and falls[2] < -50


def test_the_residual_is_the_way_down_for_the_ensemble():
    draws = torch.Generator().manual_seed(0)
    z, target = torch.randn(20, 3, dtype=torch.float64, generator=draws).requires_grad_(), torch.arange(20) % 3
    before = F.cross_entropy(z, target)
    (grad,) = torch.autograd.grad(before, z)
    residual = F.one_hot(target, 3) - z.detach().softmax(1)
    torch.testing.assert_close(grad, -residual / 20)
    torch.testing.assert_close(residual.sum(1), torch.zeros(20, dtype=torch.float64))
    assert F.cross_entropy(z + 0.1 * residual, target) < before


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_without_a_residual_it_is_the_cross_entropy_of_the_modality(make, tiny_batch, modalities):
    method = make(modalities, rho=0.0, consolidation=0.0)
    output, losses = step(method, tiny_batch(modalities))
    own = F.cross_entropy(output.unimodal["audio"], output.target)
    torch.testing.assert_close(losses["loss"], own, rtol=1e-14, atol=0)
    weighted = make(modalities, rho=0.0, consolidation=0.0)
    weighted.class_weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    _, losses = step(weighted, tiny_batch(modalities))
    own = F.cross_entropy(output.unimodal["audio"], output.target, weighted.class_weights)
    torch.testing.assert_close(losses["loss"], own, rtol=1e-14, atol=0)


# Who learns when


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_modalities_take_turns_with_joint_training_in_between(make, modalities):
    method, seen = make(modalities, phase_epochs=2, rectify_epochs=1), []
    for epoch in range(3 * len(modalities) + 3):
        put(method, epoch)
        seen.append(method.trained)
    cycle = [name for modality in modalities for name in (modality, modality, None)]
    assert seen == [*cycle, *cycle[:3]]


@pytest.mark.parametrize("fusion", ADDITIVE)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_others_stay_bit_for_bit_in_a_modalitys_turn(make, epochs, train, optimizer, fusion):
    """Weights and batch statistics of their encoders, and their heads'; the optimizer holds nothing of them."""
    method = make(THREE, fusion)
    trainer = sgd(method.model) if optimizer == "sgd" else torch.optim.AdamW(method.model.parameters(), lr=0.01)
    data, turned = epochs(7, THREE), 0
    put(method, 0)
    for batches in data:
        before, trained = copy.deepcopy(method.model.state_dict()), method.trained
        train(method, trainer, [batches])
        after = method.model.state_dict()
        for name in THREE:
            kept = [torch.equal(before[key], value) for key, value in after.items() if f"encoders.{name}." in key]
            assert any(kept) == all(kept) == (trained not in (name, None))
            if trained not in (name, None):
                parts = [method.model.encoders[name], *([method.model.fusion.heads[name]] if fusion == "sum" else [])]
                assert not any(p in trainer.state for part in parts for p in part.parameters())
                turned += 1
        if fusion == "sum":
            moved = {name for name in THREE if not torch.equal(before[f"fusion.heads.{name}.weight"],
                                                               after[f"fusion.heads.{name}.weight"])}  # fmt: skip
            assert moved == ({trained} if trained else set(THREE))
    assert turned == 2 * 4


def test_who_is_not_trained_is_in_evaluation_mode_while_it_predicts_and_in_training_mode_again(make, tiny_batch):
    method, batch = make(THREE, epoch=2), tiny_batch(THREE)
    output, _ = step(method, batch)
    assert all(encoder.training for encoder in method.model.encoders.values())
    assert list(output.features) == list(output.unimodal) == list(THREE)
    method.model.eval()
    features = method.model.encode(batch.inputs)
    for name in THREE:
        assert torch.equal(output.features[name], features[name]) == (name != "visual")
        assert output.features[name].requires_grad == (name == "visual")  # no activations are kept of the others
    method.model.freeze(["audio"])
    step(method, batch)
    assert not method.model.encoders["audio"].training


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_every_phase_begins_as_with_a_new_optimizer(make, epochs, train, kind):
    flags = dict(lr=0.05, weight_decay=1e-3, fused=True) | (dict(momentum=0.9) if kind is torch.optim.SGD else {})
    data = epochs(5)
    one, other = make(phase_epochs=2, rectify_epochs=1), make(phase_epochs=2, rectify_epochs=1)
    kept, momentum = kind(one.model.parameters(), **flags), []
    put(one, 0), put(other, 0)
    for epoch, batches in enumerate(data):
        train(one, kept, [batches])
        if epoch not in (1, 4):  # the second epochs of a phase
            new = kind(other.model.parameters(), **flags)
        train(other, new, [batches])
        assert same_weights(one.model, other.model)
        momentum.append(len(kept.state))
    assert momentum[0] == momentum[1] < momentum[2] > momentum[3]


@pytest.mark.parametrize("fusion", ADDITIVE)
@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_without_turns_it_is_joint_training_bit_for_bit(make, tiny_model, make_args, epochs, train, modalities, fusion):
    data = epochs(3, modalities)
    neutral = make(modalities, fusion, phase_epochs=0, rectify_epochs=9)
    joint = Joint(make_args(), tiny_model(modalities, fusion))
    records = [train(method, sgd(method.model), data) for method in (neutral, joint)]
    assert same_weights(neutral.model, joint.model)
    assert records[0][-1]["fisher_trace"] == records[1][-1]["fisher_trace"]
    turning = make(modalities, fusion)
    train(turning, sgd(turning.model), data)
    assert not same_weights(turning.model, joint.model)


def test_with_neither_residual_nor_memory_nor_joint_phase_each_learns_as_if_alone(make, make_args, epochs, train):
    """Bit for bit what `unimodal` makes of the epochs in which it is a modality's turn."""
    method, data = make(rho=0.0, consolidation=0.0, phase_epochs=2, rectify_epochs=0), epochs(4)
    alone = {}
    for name in TWO:
        model = MultimodalModel({name: copy.deepcopy(method.model.encoders[name])}, "sum", 3).double()
        model.fusion.heads[name].load_state_dict(method.model.fusion.heads[name].state_dict())
        alone[name] = Unimodal(make_args(), model)
    put(method, 0)
    train(method, sgd(method.model), data)
    for place, name in enumerate(TWO):
        train(alone[name], sgd(alone[name].model), data[2 * place : 2 * place + 2])
        ended = method.model.state_dict()
        assert all(torch.equal(value, ended[key]) for key, value in alone[name].model.state_dict().items())


def test_a_weight_is_recorded_for_the_modality_in_training_alone(make, epochs, train):
    method = make()
    put(method, 0)
    audio, joint, visual = (record["residual"] for record in train(method, sgd(method.model), epochs(3)))
    assert audio["visual"] is visual["audio"] is None and joint == {"audio": None, "visual": None}
    assert all(0.8 < value < 1 for value in (audio["audio"], visual["visual"]))


# The public code's rules


def test_the_public_codes_head_and_scale(make, tiny_batch, epochs, train):
    method, batch = make(THREE, "shared", variant="official", consolidation=0.0), tiny_batch(THREE)
    fusion = method.model.fusion
    assert fusion.head[0].out_features == UNITS and fusion.scale.item() == 1
    torch.nn.init.constant_(fusion.scale, 3.0)
    features = method.model.encode(batch.inputs)
    z = method.model.unimodal(features)
    torch.testing.assert_close(z["text"], fusion.head(features["text"]))
    torch.testing.assert_close(method.model.fuse(features), 3 * (z["audio"] + z["visual"] + z["text"]))
    # The others' predictions are sharpened by the scale, and the loss is divided by the classes and multiplied by 5.
    output, losses = step(method, batch)
    q = (3 * (output.unimodal["visual"] + output.unimodal["text"])).softmax(1)
    right = q.gather(1, batch.target.unsqueeze(1)).squeeze(1)
    own = F.cross_entropy(output.unimodal["audio"], batch.target, reduction="none")
    torch.testing.assert_close(losses["loss"], 5 / 3 * ((1 - 0.2 * right) * own).mean())
    assert fusion.scale.grad is None
    put(method, 0)
    before = fusion.scale.item()
    train(method, sgd(method.model), epochs(1, THREE))
    assert fusion.scale.item() == before
    train(method, sgd(method.model), epochs(1, THREE))
    assert fusion.scale.item() != before


def test_a_state_that_is_loaded_goes_on_without_the_epochs_start(make, tiny_batch):
    """Nothing is remembered but the epoch's number, which the traces have."""
    method, other = make(epoch=4), make()
    other.load_state_dict(method.state_dict())
    assert other.trained == method.trained == "audio" and other.stage == method.stage == (2, 0)
    assert same_state(one_step(method, tiny_batch()), one_step(other, tiny_batch()))


# What is refused


@pytest.mark.parametrize(
    "flags, message",
    [
        (dict(fusion="film"), "ReconBoost adds up the modalities' logits: use --fusion sum, concat or shared"),
        (dict(fusion="gated"), "ReconBoost adds up the modalities' logits: use --fusion sum, concat or shared"),
        (dict(modalities=("audio",)), "ReconBoost weighs modalities against each other: it needs two or more"),
        (dict(phase_epochs=0, rectify_epochs=0), "--phase_epochs 0 and --rectify_epochs 0 leave nothing to train"),
        (dict(residual="full"), "--residual full is unbounded below: bound its steps by --clip_norm, say 1"),
        (dict(variant="official"), "--variant official has one head for all modalities: leave --fusion away"),
    ],
)
def test_what_it_is_not_defined_for_is_refused_in_a_sentence(make, flags, message):
    with pytest.raises(ValueError) as refused:
        make(**flags)
    assert str(refused.value) == message


def test_flags(capsys):
    args = parse(["--method", "reconboost"])
    assert (args.fusion, args.residual, args.rho, args.consolidation) == ("sum", "masked", 0.2, 0.5)
    assert (args.phase_epochs, args.rectify_epochs) == (4, 4)
    args = parse(["--method", "reconboost", "--variant", "official"])
    assert (args.fusion, args.residual, args.rho, args.consolidation) == ("shared", "masked", 0.2, 0.0)
    with pytest.raises(SystemExit):
        parse(["--method", "reconboost", "--rho", "1"])
    assert "share from 0 to below 1" in capsys.readouterr().err
