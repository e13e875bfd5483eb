"""G2D against its loss written out sample by sample, and who may learn from a batch."""

import copy
import math
from functools import partial

import pytest
import torch
from helpers.steps import assert_same_gradients, count_samples, gradients, sgd, step

from dataset.cremad import CREMAD
from engine.parser import parse
from methods.g2d import G2D
from methods.joint import Joint
from models.encoders import Transformer
from models.multimodal import MultimodalModel, build_model
from utils.errors import RunError

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
GROWING, CONSTANT = [1.0, 2.0], [2.0, 2.0]  # traces after which the next window is open, and closed
FLAGS = dict(temperature=1.0, logit_weight=1.0, feature_weight=1.0, priority_epochs=4, hold="encoder")
FLAGS |= dict(method="g2d", dataset="CREMAD", data_root="data/CREMAD")


@pytest.fixture
def make(tiny_model, make_args, save_teachers):
    """make(modalities, fusion, seed, **flags): the method on a tiny model with two or three teachers."""

    def make(modalities=TWO, fusion="concat", seed=0, **flags):
        if "teachers" not in flags:
            flags["teachers"] = save_teachers(modalities)
        args = make_args(**FLAGS | flags)
        method = G2D(args, tiny_model(modalities, fusion, seed))
        method.on_fit_start(None)
        return method

    return make


def literal_loss(model, teachers, batch, temperature, logit_weight, feature_weight):
    """CE + sum over modalities of the two terms, one sample and one entry at a time."""
    features = model.encode(batch.inputs)
    logits, size = model.fuse(features), len(batch.target)
    total = sum(-logits[i].log_softmax(0)[y] for i, y in enumerate(batch.target.tolist())) / size
    for name, teacher in teachers.items():
        feature = teacher.encoders[name](batch.inputs[name])
        taught = teacher.fusion.head(feature)
        for i in range(size):
            p, q = (taught[i] / temperature).softmax(0), (logits[i] / temperature).softmax(0)
            total = total + logit_weight * temperature**2 * (p * (p / q).log()).sum() / size
        squares = [(x - t) ** 2 for x, t in zip(features[name].flatten(), feature.flatten(), strict=True)]
        total = total + feature_weight * sum(squares) / len(squares)
    return total


@pytest.mark.parametrize(
    "modalities, fusion", [(TWO, f) for f in ("concat", "sum", "film", "gated")] + [(THREE, "concat")]
)
def test_loss_and_gradients_are_those_of_the_terms_written_out(make, tiny_batch, modalities, fusion):
    weights = dict(temperature=2.0, logit_weight=0.7, feature_weight=1.3)
    method, batch = make(modalities, fusion, priority_epochs=0, **weights), tiny_batch(modalities)
    literal = copy.deepcopy(method.model).train()
    expected = literal_loss(literal, method.teachers, batch, *weights.values())
    expected.backward()
    _, losses = step(method, batch)
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-6, atol=0)
    own = [losses[f"loss_{name}"] for name in modalities]
    torch.testing.assert_close(losses["loss"], losses["loss_joint"] + sum(own))
    assert_same_gradients(gradients(method.model), gradients(literal))


def test_without_distillation_and_priority_it_is_joint_training_bit_for_bit(
    make, tiny_model, tiny_batch, make_args, train
):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(3)]
    joint = Joint(make_args(), tiny_model())
    neutral = make(logit_weight=0.0, feature_weight=0.0, priority_epochs=0)
    for method in (joint, neutral):
        train(method, sgd(method.model), epochs)
    expected = joint.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in neutral.model.state_dict().items())
    assert joint.trace.history == neutral.trace.history


def test_convolutions_cannot_be_held_where_there_are_none(make_args, tmp_path):
    model = build_model({name: partial(Transformer, channels=5, dim=10) for name in TWO}, "concat", 3, 0)
    words = []
    for name, encoder in model.encoders.items():
        teacher, path = MultimodalModel({name: encoder}, "concat", 3), tmp_path / f"{name}.pt"
        args = {"dataset": "CREMAD", "method": "unimodal", "modality": name}
        state = {"model": teacher.state_dict(), "args": args, "epoch": 0, "classes": list(CREMAD.classes)}
        torch.save(state, path)
        words.append(f"{name}={path}")
    G2D(make_args(**FLAGS | {"teachers": words}), model)
    with pytest.raises(ValueError, match="the encoder of audio, visual has none; use --hold encoder"):
        G2D(make_args(**FLAGS | {"teachers": words, "hold": "convolutions"}), model)


def taught(*probabilities):
    """What teachers say who give the true class, 0 of 2, these probabilities in the only sample."""
    said = [torch.tensor([[math.log(p), math.log(1 - p)]], dtype=torch.float64) for p in probabilities]
    return {name: (logits, logits) for name, logits in zip(THREE, said, strict=False)}


def at_epoch(method, epoch, traces=None):
    history = {name: (traces or {}).get(name, [1.0] * epoch) for name in method.model.modalities}
    method.trace.load_state_dict({"history": history})
    return method


def learning(method, probabilities):
    method._taught = taught(*probabilities)
    return [int(factor) for factor in method.learning(torch.tensor([0]))]


def test_the_weakest_learns_first_and_the_others_join_in_one_by_one(make):
    method = make(THREE, priority_epochs=4)
    found = [learning(at_epoch(method, epoch), (0.9, 0.2, 0.5)) for epoch in range(6)]
    assert found == [[0, 1, 0]] * 2 + [[0, 1, 1]] * 2 + [[1, 1, 1]] * 2
    # Decided by the batch: another one turns the order round.
    assert learning(at_epoch(method, 0), (0.2, 0.9, 0.5)) == [1, 0, 0]
    # Of equals none is the surer.
    assert learning(at_epoch(method, 0), (0.9, 0.2, 0.2)) == [0, 1, 1]


def test_of_two_the_surer_one_is_held_until_the_priority_ends(make):
    method = make(priority_epochs=2)
    found = [learning(at_epoch(method, epoch), (0.9, 0.2)) for epoch in range(4)]
    assert found == [[0, 1], [0, 1], [1, 1], [1, 1]]


def surer(method, batch):
    """The modality whose teacher gives the true classes the larger sum of probabilities."""
    sums = {}
    for name, teacher in method.teachers.items():
        logits = teacher.fusion.head(teacher.encoders[name](batch.inputs[name]))
        sums[name] = sum(logits[i].softmax(0)[y].item() for i, y in enumerate(batch.target.tolist()))
    return max(sums, key=sums.get)


@pytest.mark.parametrize("hold", ["encoder", "convolutions"])
def test_the_held_encoder_does_not_move(make, save_teachers, tiny_batch, hold):
    seen = set()
    for seed in range(6):
        teachers = save_teachers(seed=seed)
        held, free = (make(teachers=teachers, hold=hold, priority_epochs=epochs) for epochs in (4, 0))
        batch = tiny_batch(seed=seed)
        before = copy.deepcopy(dict(held.model.named_parameters()))
        name = surer(held, batch)
        seen.add(name)
        for method in (held, free):
            optimizer = torch.optim.SGD(method.model.parameters(), lr=0.3)
            step(method, batch)
            optimizer.step()
        expected = dict(free.model.named_parameters())
        for key, value in held.model.named_parameters():
            stays = key.startswith(f"encoders.{name}.") and (hold == "encoder" or value.ndim == 4)
            assert torch.equal(value, before[key] if stays else expected[key]), key
            assert not torch.equal(expected[key], before[key])
        record, plain = held.on_epoch_end(None), free.on_epoch_end(None)
        assert record["learning"] == {other: float(other != name) for other in TWO}
        assert record["fisher_trace"] == plain["fisher_trace"]  # of the gradient before it is held
    assert seen == set(TWO)  # otherwise the batch has decided nothing


def test_modulate_during_decides_for_each_modality(make):
    traces = {"audio": GROWING, "visual": CONSTANT, "text": CONSTANT}
    # The third is the weakest. Outside, audio's window is open, so it may not be held; inside, only audio may.
    for during, expected in (("all", [0, 0, 1]), ("prime", [0, 1, 1]), ("outside", [1, 0, 1])):
        method = at_epoch(make(THREE, modulate_during=during, priority_epochs=9), 2, traces)
        assert learning(method, (0.9, 0.5, 0.2)) == expected


def test_the_teachers_do_not_learn_and_are_no_part_of_the_model(make, train, tiny_model, tiny_batch):
    method = make(THREE)
    assert method.model.state_dict().keys() == tiny_model(THREE).state_dict().keys()
    before = {name: copy.deepcopy(teacher.state_dict()) for name, teacher in method.teachers.items()}
    train(method, sgd(method.model), [[tiny_batch(THREE, seed=i) for i in range(3)]])
    for name, teacher in method.teachers.items():
        assert not teacher.training and all(p.grad is None for p in teacher.parameters())
        # The batch statistics stand in the state, too.
        assert all(torch.equal(value, before[name][key]) for key, value in teacher.state_dict().items())


def test_the_teachers_are_those_of_the_checkpoints(make, save_teachers):
    words = save_teachers(THREE, seed=5)
    method = make(THREE, teachers=words)
    for name, path in (word.split("=") for word in words):
        expected = torch.load(path, weights_only=True)["model"]
        found = method.teachers[name].state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_each_teacher_is_asked_once_a_step_and_never_in_evaluation(make, tiny_batch):
    method, batch = make(), tiny_batch()
    taught = count_samples({name: teacher.encoders[name] for name, teacher in method.teachers.items()})
    step(method, batch)
    method.model.eval()
    method.forward(batch)
    assert taught == {"audio": [6], "visual": [6]}


def test_teachers_that_are_missing_or_others_are_refused_in_a_sentence(make, save_teachers, tmp_path):
    audio, visual = save_teachers()
    for words in (None, [audio], [audio, audio], [audio, visual, visual], [audio, "visual="], ["visual.pt", audio]):
        with pytest.raises(RunError, match="--teachers audio=PATH visual=PATH"):
            make(teachers=words)
    with pytest.raises(RunError, match="nowhere.pt does not exist"):
        make(teachers=[audio, "visual=nowhere.pt"])
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    with pytest.raises(RunError, match="broken.pt is damaged"):
        make(teachers=[audio, f"visual={tmp_path / 'broken.pt'}"])
    with pytest.raises(RunError, match="--modality audio: it must be one of --method unimodal --modality visual"):
        make(teachers=[audio, f"visual={tmp_path / 'audio.pt'}"])
    for said in ({"method": "joint", "modality": None}, {"dataset": "GRID"}):
        with pytest.raises(RunError, match="is a run of"):
            make(teachers=save_teachers(**said))


def test_teachers_whose_classes_have_other_names_or_numbers_are_refused(make, save_teachers, tmp_path):
    audio, visual = save_teachers()
    path = tmp_path / "visual.pt"
    state = torch.load(path, weights_only=True)
    names = list(CREMAD.classes)
    torch.save(state | {"classes": [*names[1:], names[0]]}, path)
    with pytest.raises(
        RunError, match=f"--teachers visual={path}: its classes have other numbers .* number {len(names)}"
    ):
        make(teachers=[audio, visual])
    torch.save(state | {"classes": [*names[:-1], "boredom"]}, path)
    with pytest.raises(RunError, match=f"visual.pt was trained on other classes .* 1: {names[-1]} .* 1: boredom"):
        make(teachers=[audio, visual])


def test_flags(save_teachers):
    args = parse(["--method", "g2d", "--epochs", "30", "--teachers", "audio=runs/a.pt", "visual=runs/v.pt"])
    assert (args.priority_epochs, args.temperature, args.logit_weight, args.feature_weight) == (15, 1.0, 1.0, 1.0)
    assert args.tag == "epochs=30"  # a path would be no name of a folder
