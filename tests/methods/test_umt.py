"""UMT against its loss written out entry by entry, and teachers that stay as they are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, one_step, sgd, step

from dataset.base import Batch
from engine.parser import parse
from methods.g2d import G2D
from methods.joint import Joint
from methods.umt import UMT
from models.multimodal import Output
from utils.errors import RunError

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
SETTINGS = [(TWO, fusion) for fusion in ("concat", "sum", "film", "gated")] + [(THREE, "concat"), (THREE, "sum")]
FLAGS = dict(method="umt", dataset="CREMAD", data_root="data/CREMAD", feature_weight=10.0)
G2D_FLAGS = dict(temperature=1.0, logit_weight=0.0, priority_epochs=0, hold="encoder")


@pytest.fixture
def make(tiny_model, make_args, save_teachers):
    """make(modalities, fusion, kind, **flags): a taught method on a tiny model."""

    def make(modalities=TWO, fusion="concat", kind=UMT, **flags):
        if "teachers" not in flags:
            flags["teachers"] = save_teachers(modalities)
        made = kind(make_args(**FLAGS | flags), tiny_model(modalities, fusion))
        made.model.double()
        made.on_fit_start(None)
        return made

    return make


@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_loss_and_gradients_are_those_of_the_terms_written_out(make, tiny_batch, modalities, fusion):
    method, batch = make(modalities, fusion, feature_weight=0.7), tiny_batch(modalities)
    literal = copy.deepcopy(method.model).train()
    features = literal.encode(batch.inputs)
    expected = F.cross_entropy(literal.fuse(features), batch.target)
    for name, teacher in method.teachers.items():
        taught = teacher.encoders[name](batch.inputs[name])
        squares = [(f - t) ** 2 for f, t in zip(features[name].flatten(), taught.flatten(), strict=True)]
        expected = expected + 0.7 * sum(squares) / len(squares)
    expected.backward()
    _, losses = step(method, batch)
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(
        losses["loss"], losses["loss_joint"] + sum(losses[f"loss_distance_{name}"] for name in modalities)
    )
    assert_same_gradients(gradients(method.model), gradients(literal))


def test_the_gradient_at_a_feature_by_hand(make):
    method = make(feature_weight=10.0)
    feature = torch.tensor([[3.0, 0.0], [1.0, 1.0]], requires_grad=True)
    method._taught = {"audio": (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), None)}
    output = Output(torch.zeros(2, 3), {}, {"audio": feature}, torch.tensor([0, 1]))
    losses = method.losses(output)
    assert losses["loss_distance_audio"].item() == pytest.approx(10 * (4 + 1) / 4)
    losses["loss_distance_audio"].backward()  # 2 b (f - f_T) / (B d)
    assert feature.grad.tolist() == [[10.0, 0.0], [0.0, 5.0]]


@pytest.mark.parametrize("unimodal_loss", ["none", "split", "heads"])
def test_without_weight_it_is_joint_training_bit_for_bit(make, tiny_model, tiny_batch, make_args, train, unimodal_loss):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(2)]
    neutral = make(feature_weight=0.0, unimodal_loss=unimodal_loss)
    joint = Joint(make_args(unimodal_loss=unimodal_loss), tiny_model())
    joint.model.double()
    for method in (neutral, joint):
        torch.manual_seed(0)
        for heads in [method.model.heads] if method.model.heads else []:
            for p in heads.parameters():
                torch.nn.init.normal_(p)
        train(method, sgd(method.model), epochs)
    states = neutral.model.state_dict(), joint.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_it_is_g2d_without_logits_and_priority(make, tiny_batch):
    batch = tiny_batch(THREE)
    g2d = make(THREE, kind=G2D, modulate_during="all", **G2D_FLAGS)
    assert_same_gradients(one_step(make(THREE), batch), one_step(g2d, batch))


def test_a_term_reaches_its_own_encoder_alone(make, tiny_batch):
    method, batch = make(THREE), tiny_batch(THREE)
    method.model.train()
    losses = method.losses(method.forward(batch))
    for name in THREE:
        method.model.zero_grad()
        losses[f"loss_distance_{name}"].backward(retain_graph=True)
        reached = {key for key, p in method.model.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached and all(key.startswith(f"encoders.{name}.") for key in reached)


def test_a_model_that_is_its_teachers_is_not_pulled(make, tiny_batch):
    method, batch = make(), tiny_batch()
    for name, teacher in method.teachers.items():
        method.model.encoders[name].load_state_dict(teacher.encoders[name].state_dict())
    method.model.train()
    for encoder in method.model.encoders.values():
        encoder.eval()  # the teachers' batch norms use running statistics
    losses = method.losses(method.forward(batch))
    assert losses["loss_distance_audio"].item() == losses["loss_distance_visual"].item() == 0


def test_teachers_are_in_evaluation_mode_and_are_not_trained(make, train, tiny_model, tiny_batch):
    method = make(THREE)
    assert method.model.state_dict().keys() == tiny_model(THREE).state_dict().keys()
    before = {name: copy.deepcopy(teacher.state_dict()) for name, teacher in method.teachers.items()}
    train(method, sgd(method.model), [[tiny_batch(THREE, seed=i) for i in range(3)]])
    assert method.model.training
    for name, teacher in method.teachers.items():
        assert not any(module.training for module in teacher.modules())
        assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
        # The batch statistics stand in the state, too.
        assert all(torch.equal(value, before[name][key]) for key, value in teacher.state_dict().items())


def test_what_a_teacher_says_of_a_sample_does_not_depend_on_its_batch(make, tiny_batch):
    method, batch, other = make(), tiny_batch(), tiny_batch(seed=1)
    mixed = {name: torch.cat([x[:1], other.inputs[name][1:]]) for name, x in batch.inputs.items()}
    said = []
    for inputs in (batch.inputs, mixed):
        step(method, Batch(inputs, batch.target, batch.index))
        said.append({name: feature for name, (feature, _) in method._taught.items()})
    for name in TWO:
        torch.testing.assert_close(said[0][name][0], said[1][name][0], rtol=1e-12, atol=1e-14)
        assert not torch.allclose(said[0][name][1:], said[1][name][1:])


def test_the_order_of_the_teachers_is_of_no_account(make, save_teachers, tiny_batch):
    words, batch = save_teachers(), tiny_batch()
    found = [one_step(make(teachers=given), batch) for given in (words, words[::-1])]
    assert_same_gradients(*found, rtol=0, atol=0)


def test_distances_are_in_full_precision_under_autocast(make, tiny_batch):
    method, batch = make(), tiny_batch()
    for model in (method.model, *method.teachers.values()):
        model.float()
    batch.inputs.update({name: x.float() for name, x in batch.inputs.items()})
    with torch.autocast("cpu", torch.bfloat16):
        output = method.forward(batch)
        losses = method.losses(output)
    for name, (feature, _) in method._taught.items():
        assert output.features[name].dtype == torch.bfloat16
        expected = 10 * F.mse_loss(output.features[name].double(), feature.double())
        torch.testing.assert_close(losses[f"loss_distance_{name}"].double(), expected, rtol=1e-6, atol=0)


def test_what_it_cannot_do_is_refused_in_a_sentence(make, save_teachers):
    with pytest.raises(ValueError, match="^UMT weighs modalities against each other: it needs two or more$"):
        make(("audio",), teachers=["audio=nowhere.pt"])
    with pytest.raises(RunError, match="^--method umt needs --teachers audio=PATH visual=PATH: "):
        make(teachers=save_teachers(THREE))
    with pytest.raises(RunError, match="is a run of --dataset GRID .*: it must be one of --method unimodal"):
        make(teachers=save_teachers(dataset="GRID"))


def test_flags():
    args = parse(["--method", "umt", "--teachers", "audio=a.pt", "visual=v.pt"])
    assert args.feature_weight == 10 and args.tag == "default"  # a path would be no name of a folder
