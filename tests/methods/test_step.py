"""What one training step costs and calls: one forward and one backward, whatever the method and its losses."""

import copy
from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from helpers.results import FUSED

from dataset.loader import make_loader
from engine.evaluate import metrics_of, predict
from engine.setup import make_optimizer
from engine.train import align_gradients, train_epoch
from methods.inforeg import InfoRegMethod
from methods.joint import Joint

PAPER = dict(beta=0.9, start_epoch=0, modulate_during="all")
OFFICIAL = dict(variant="official", beta=1.0, threshold=0.05, window_smoothing=10, start_epoch=0, unimodal_loss="split")
STEPS = 3  # ten samples in batches of four


@pytest.fixture
def calls(monkeypatch):
    """Counts of the ways into autograd's backward pass; torch.Tensor.backward itself goes through torch.autograd."""
    counts = {"backward": 0, "autograd": 0, "grad": 0}

    def count(owner, name, key):
        real = getattr(owner, name)

        def counted(*args, **kwargs):
            counts[key] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(torch.Tensor, "backward", "backward")
    count(torch.autograd, "backward", "autograd")
    count(torch.autograd, "grad", "grad")
    return counts


def count_forwards(model):
    counts = dict.fromkeys((*model.modalities, "fusion"), 0)

    def counter(name):
        def add(*_):
            counts[name] += 1

        return add

    for name, encoder in model.encoders.items():
        encoder.register_forward_hook(counter(name))
    model.fusion.register_forward_hook(counter("fusion"))
    return counts


@pytest.mark.parametrize("unimodal_loss", ["none", "split", "heads"])
@pytest.mark.parametrize("method_class, flags", [(Joint, {}), (InfoRegMethod, PAPER), (InfoRegMethod, OFFICIAL)])
def test_one_forward_and_one_backward_a_step(
    tiny_model, tiny_run, make_args, calls, method_class, flags, unimodal_loss
):
    model, args = tiny_model(), make_args(**flags | {"unimodal_loss": unimodal_loss})
    method = method_class(args, model)
    run = tiny_run(model.double(), args)
    forwards = count_forwards(model)
    method.on_fit_start(run)
    train_epoch(run, method)
    assert forwards == {"audio": STEPS, "visual": STEPS, "fusion": STEPS}
    assert calls == {"backward": STEPS, "autograd": STEPS, "grad": 0}
    record = method.on_epoch_end(run)
    if method_class is InfoRegMethod:
        assert sum(record["regulated"].values()) == pytest.approx(1)  # the regulation was at work in every step


def test_modulation_is_of_training_only(tiny_model, tiny_run, make_args):
    modes = []

    class Watched(Joint):
        def modulate(self, features, batch):
            modes.append(self.model.training)
            return super().modulate(features, batch)

    model, args = tiny_model(), make_args()
    method, run = Watched(args, model), tiny_run(model, args)
    train_epoch(run, method)
    assert modes == [True] * STEPS
    loader = make_loader(run.train, batch_size=4, workers=0)
    figures = metrics_of(predict(model, method.forward, loader, run.device))
    assert modes == [True] * STEPS
    assert set(figures) == FUSED | {"audio", "visual"}
    assert figures["majority"] == pytest.approx(0.4)  # ten samples of the classes 0 1 2 0 1 2 0 1 2 0
    assert model.training


@pytest.mark.parametrize("unimodal_loss", ["none", "split", "heads"])
def test_losses(tiny_model, tiny_batch, make_args, unimodal_loss):
    model, batch = tiny_model(), tiny_batch()
    method = Joint(make_args(unimodal_loss=unimodal_loss), model)
    model.double()
    output = method.forward(batch)
    losses = method.losses(output)
    joint = F.cross_entropy(model.fuse(output.features), batch.target)
    torch.testing.assert_close(losses["loss_joint"], joint)
    if unimodal_loss == "none":
        assert set(losses) == {"loss", "loss_joint"}
        torch.testing.assert_close(losses["loss"], joint)
        return
    read_out = {
        "split": lambda name: model.fusion.unimodal(output.features)[name],
        "heads": lambda name: model.heads[name](output.features[name]),
    }[unimodal_loss]
    audio, visual = (F.cross_entropy(read_out(name), batch.target) for name in ("audio", "visual"))
    assert set(losses) == {"loss", "loss_joint", "loss_audio", "loss_visual"}
    torch.testing.assert_close(losses["loss_audio"], audio)
    torch.testing.assert_close(losses["loss_visual"], visual)
    torch.testing.assert_close(losses["loss"], joint + audio + visual)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimizer_applies_a_gradient_of_any_layout_to_the_weights_it_belongs_to(optimizer):
    """A fused optimizer by itself pairs them by their place in memory."""
    args = Namespace(optimizer=optimizer, lr=0.1, momentum=0.9, weight_decay=0.01, encoder_lr_factor=1.0)
    args.modality_lr = None
    draws = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(8, 4, 3, 3, generator=draws) for _ in range(2))
    found = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        model = torch.nn.Module()
        model.encoders = torch.nn.ModuleDict({"audio": torch.nn.Conv2d(4, 8, 3, bias=False)})
        p = model.encoders["audio"].weight
        p.data = weight.clone().to(memory_format=layout)
        updates = make_optimizer(args, model)
        assert all(group["fused"] for group in updates.param_groups)
        for _ in range(3):
            p.grad = gradient.clone()
            align_gradients(model)
            updates.step()
        found[layout] = p.detach()
    torch.testing.assert_close(found[torch.channels_last], found[torch.contiguous_format])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_parameters_may_get_their_first_gradient_later_than_others(tiny_model, momentum):
    """The second layer after two steps, as with the optimizer that is not fused; weight decay waits for it, too."""
    args = Namespace(optimizer="sgd", lr=0.1, momentum=momentum, weight_decay=0.01, encoder_lr_factor=1.0)
    args.modality_lr = None
    model = tiny_model(fusion="sum")
    plain = copy.deepcopy(model)
    ours = make_optimizer(args, model)
    theirs = torch.optim.SGD(plain.parameters(), 0.1, momentum, weight_decay=0.01, fused=False)
    start = model.fusion.heads["visual"].weight.clone()
    for number in range(4):
        for one, optimizer in ((model, ours), (plain, theirs)):
            for name, head in one.fusion.heads.items():
                draws = torch.Generator().manual_seed(number)
                for p in head.parameters() if number > 1 or name == "audio" else ():
                    p.grad = torch.randn(p.shape, generator=draws, dtype=p.dtype)
            optimizer.step()
        assert torch.equal(model.fusion.heads["visual"].weight, start) == (number < 2)
    found, expected = model.state_dict(), plain.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-14, atol=1e-16)
