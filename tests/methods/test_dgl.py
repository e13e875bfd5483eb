"""DGL against the public code's two backward passes, and whom each loss reaches."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import gradients, one_step

from engine.parser import parse
from methods.dgl import DGL
from methods.joint import Joint
from models.fusion import Sum

FLAGS = dict(alpha=4.0, clip_norm=1e9)
NAMES = [("audio", "visual"), ("audio", "visual", "text")]


def literal_step(model, batch, alpha):
    """Gradients by two passes: the unimodal losses, nothing of them left in the head, then the joint loss."""
    model.train().zero_grad()
    features = model.encode(batch.inputs)
    for name in features:
        if isinstance(model.fusion, Sum):  # whose modalities each have a layer
            logits = model.fusion.heads[name](features[name])
        else:
            logits = model.fuse({other: f if other == name else torch.zeros_like(f) for other, f in features.items()})
        (alpha * F.cross_entropy(logits, batch.target)).backward(retain_graph=True)
    for p in model.fusion.parameters():
        p.grad = None
    encoders = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    detached = {name: f.detach() for name, f in features.items()}
    F.cross_entropy(model.fuse(detached), batch.target).backward()
    assert all(torch.equal(p.grad, encoders[name]) for name, p in model.named_parameters() if name in encoders)
    return gradients(model)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("names", NAMES)
def test_gradients_are_those_of_the_two_passes(tiny_model, tiny_batch, make_args, names, fusion):
    model, batch = tiny_model(names, fusion), tiny_batch(names)
    with torch.no_grad():  # a bias of zero would hide who gets it
        for i, p in enumerate(model.fusion.parameters(), 1):
            p += 0.3 * i
            p[0] -= 0.7 * i  # the classes' biases differ, or a softmax would not see whose they are
    wanted = literal_step(copy.deepcopy(model), batch, alpha=4.0)
    found = one_step(DGL(make_args(**FLAGS), model), batch)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-10, atol=1e-13)


def test_a_read_out_by_hand(tiny_model, tiny_batch, make_args):
    """With sum each modality has its own bias; with concat there is one, which every modality is given whole."""
    features = {"audio": torch.tensor([[1.0, 2.0]]), "visual": torch.tensor([[3.0, 0.0, 1.0]])}
    bias = {"sum": ([1.0, 0.0, 0.0], [0.0, 0.0, 5.0]), "concat": ([1.0, 0.0, 5.0],)}
    expected = {"sum": ([4.0, 3.0, 3.0], [4.0, 4.0, 9.0]), "concat": ([4.0, 3.0, 8.0], [5.0, 4.0, 9.0])}
    for fusion, biases in bias.items():
        model = tiny_model(fusion=fusion).float()
        with torch.no_grad():
            for p in model.fusion.parameters():
                p.fill_(1.0)
            shifts = [p for p in model.fusion.parameters() if p.ndim == 1]
            for p, values in zip(shifts, biases, strict=True):
                p.copy_(torch.tensor(values))
        found = DGL(make_args(**FLAGS), model).read_out(features)
        assert [z[0].tolist() for z in found.values()] == list(expected[fusion])


def test_of_a_sum_training_reads_what_evaluation_reads(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model(fusion="sum"), tiny_batch()
    for head in model.fusion.heads.values():
        torch.nn.init.normal_(head.bias)
    features = model.encode(batch.inputs)
    found = DGL(make_args(**FLAGS), model).read_out(features)
    for name, logits in model.unimodal(features).items():
        torch.testing.assert_close(found[name], logits, rtol=1e-12, atol=1e-12)


def touched_by(method, batch, choose):
    method.model.train().zero_grad()
    losses = method.losses(method.forward(batch))
    choose(losses).backward()
    return {name for name, p in method.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize("names", NAMES)
def test_each_loss_reaches_its_own_part_alone(tiny_model, tiny_batch, make_args, names):
    method, batch = DGL(make_args(**FLAGS), tiny_model(names)), tiny_batch(names)
    joint = touched_by(method, batch, lambda losses: losses["loss_joint"])
    assert joint == {f"fusion.{name}" for name, _ in method.model.fusion.named_parameters()}
    for modality in names:
        alone = touched_by(method, batch, lambda losses, modality=modality: losses[f"loss_{modality}"])
        assert alone and all(name.startswith(f"encoders.{modality}.") for name in alone)


def test_alpha_scales_the_encoders_and_leaves_the_head(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model(), tiny_batch()
    one, four = (
        one_step(DGL(make_args(alpha=alpha, clip_norm=1e9), copy.deepcopy(model)), batch) for alpha in (1.0, 4.0)
    )
    for name, grad in one.items():
        if name.startswith("fusion."):
            assert torch.equal(four[name], grad)
        else:
            torch.testing.assert_close(four[name], 4 * grad, rtol=1e-10, atol=1e-14)


def test_with_constant_heads_each_encoder_learns_as_if_alone(tiny_model, tiny_batch, make_args, train):
    batches = [tiny_batch(seed=i) for i in range(4)]
    model = tiny_model()
    alone = {name: copy.deepcopy(encoder).train() for name, encoder in model.encoders.items()}
    blocks = dict(zip(alone, model.fusion.head.weight.detach().clone().split((2, 3), dim=1), strict=True))
    method = DGL(make_args(alpha=1.0, clip_norm=1e9), model)
    train(method, torch.optim.SGD(model.encoders.parameters(), lr=0.3), [batches])
    for name, encoder in alone.items():
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.3)
        for batch in batches:
            optimizer.zero_grad()
            F.cross_entropy(encoder(batch.inputs[name]) @ blocks[name].T, batch.target).backward()
            optimizer.step()
        for p, q in zip(encoder.parameters(), model.encoders[name].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_joint_loss_is_that_of_joint_training_and_all_are_logged(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model().train(), tiny_batch()
    joint = Joint(make_args(), copy.deepcopy(model))
    wanted = joint.losses(joint.forward(batch))["loss"]
    method = DGL(make_args(**FLAGS), model)
    losses = method.losses(method.forward(batch))
    assert torch.equal(losses["loss_joint"], wanted)
    assert set(losses) == {"loss", "loss_joint", "loss_audio", "loss_visual"}
    total = losses["loss_joint"] + 4 * (losses["loss_audio"] + losses["loss_visual"])
    torch.testing.assert_close(losses["loss"], total)


@pytest.mark.parametrize("fusion", ["film", "gated"])
def test_other_fusions_are_refused(tiny_model, make_args, fusion):
    with pytest.raises(ValueError, match="concat or sum"):
        DGL(make_args(**FLAGS), tiny_model(fusion=fusion))


def test_defaults(capsys):
    args = parse(["--method", "dgl"])
    assert (args.alpha, args.clip_norm) == (4.0, 40.0)
    assert parse(["--method", "dgl", "--dataset", "demo"]).alpha == 3.0
    with pytest.raises(SystemExit):
        parse(["--method", "dgl", "--unimodal_loss", "split"])
    assert "--unimodal_loss does not apply" in capsys.readouterr().err
