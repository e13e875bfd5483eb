"""Numbers that are not finite stop a run at their step, and data that are poor do not make such numbers."""

import csv
import json
import math
import shutil
from functools import partial

import pytest
import torch
import torch.nn as nn
from helpers.acting import acting
from helpers.runs import STEPS, SmallEncoder, checkpoint, rows_of, train
from helpers.steps import host_reads
from torch.utils.data import BatchSampler, RandomSampler

from dataset.demo import Demo
from dataset.loader import Batches, make_loader, mix, sizes_of
from engine import watch
from engine.watch import NotFinite, Watch, vital
from methods import METHODS
from utils.errors import DataError, RunError

CHOSEN = ("joint", "inforeg", "mmpareto")
MORE = {
    "unimodal": ["--modality", "audio"],
    "gblending": ["--held_out", "0.34"],
    "relearning": ["--held_out", "0.34"],
    "pmr": ["--prototype_share", "1"],
}


def stopped(demo, out, method, *more):
    """The message of a run that has to stop in its second epoch, and its not_finite.json."""
    steps, after = [], METHODS[method].after_backward
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError) as error:
        patch.setattr(METHODS[method], "after_backward", lambda *args: (after(*args), steps.append(1)))
        train(demo, out, "--method", method, "--epochs", "3", *more)
    message, folder = str(error.value), out / "demo" / method / "test" / "seed0"
    assert "\n" not in message and "--lr" in message and "not_finite.json" in message
    assert checkpoint(folder)["epoch"] == 0 and len(rows_of(folder)) == 1
    assert all(value.isfinite().all() for value in checkpoint(folder)["model"].values())
    found = json.loads((folder / "not_finite.json").read_text())
    assert len(steps) == STEPS + found["step"] + 1 and found["epoch"] == 1  # at that step, and not a step later
    assert f"became NaN or infinite in epoch 2, step {found['step'] + 1}:" in message
    return message, found


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", CHOSEN)
def test_in_an_input(demo, tmp_path, monkeypatch, method, value):
    get, reads = Demo.__getitem__, []

    def rotten(self, position):
        inputs, target, index = get(self, position)
        if self.train and position == 7:
            reads.append(position)
            if len(reads) == 2:
                inputs["visual"] = inputs["visual"].clone()
                inputs["visual"].view(-1)[5] = value
        return inputs, target, index

    monkeypatch.setattr(Demo, "__getitem__", rotten)
    message, found = stopped(demo, tmp_path, method)
    assert message.startswith("features of visual became")
    assert 7 in found["indices"] and len(found["indices"]) == 16
    assert "features of visual" in found["what"] and "features of audio" not in found["what"]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("method", CHOSEN)
def test_in_the_gradient_of_an_encoder(demo, tmp_path, monkeypatch, method, value):
    backward, calls = METHODS[method].backward, []

    def rotten(self, losses):
        backward(self, losses)
        calls.append(losses)
        if len(calls) == STEPS + 2:
            self.model.encoders["visual"].conv.weight.grad[0, 0, 0, 0] = value

    monkeypatch.setattr(METHODS[method], "backward", rotten)
    message, found = stopped(demo, tmp_path, method)
    assert message.startswith("gradient of visual became")
    assert found["step"] == 1 and found["what"] == ["gradient of visual", "final gradient of visual"]


@pytest.mark.parametrize("name", ["loss", "loss_joint"])
@pytest.mark.parametrize("method", CHOSEN)
def test_in_a_loss(demo, tmp_path, monkeypatch, method, name):
    losses, calls = METHODS[method].losses, []

    def rotten(self, output):
        calls.append(output)
        found = losses(self, output)
        return found | {name: found[name] * math.nan} if len(calls) == STEPS + 3 else found

    monkeypatch.setattr(METHODS[method], "losses", rotten)
    message, found = stopped(demo, tmp_path, method)
    assert message.startswith(f"train {name} became") and found["step"] == 2
    assert not any(what.startswith("features") for what in found["what"])


@pytest.mark.parametrize("part", ["fusion", "audio"])
def test_in_what_a_method_makes_of_the_gradients(demo, tmp_path, monkeypatch, part):
    after, calls = METHODS["joint"].after_backward, []

    def rotten(self, output):
        after(self, output)
        calls.append(output)
        module = self.model.fusion if part == "fusion" else self.model.encoders[part]
        if len(calls) == STEPS + 1:
            next(module.parameters()).grad.view(-1)[-1] = math.inf

    monkeypatch.setattr(METHODS["joint"], "after_backward", rotten)
    message, found = stopped(demo, tmp_path, "joint")
    assert message.startswith(f"final gradient of {part} became") and found["what"] == [f"final gradient of {part}"]


def test_a_run_that_is_mended_ends_as_if_nothing_had_been(demo, tmp_path, monkeypatch):
    whole = train(demo, tmp_path / "whole", "--method", "joint", "--epochs", "3")
    losses, calls = METHODS["joint"].losses, []

    def rotten(self, output):
        calls.append(output)
        found = losses(self, output)
        return found | {"loss": found["loss"] / 0} if len(calls) == STEPS + 1 else found

    monkeypatch.setattr(METHODS["joint"], "losses", rotten)
    stopped(demo, tmp_path, "joint")
    folder = train(demo, tmp_path, "--method", "joint", "--epochs", "3", "--resume")
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert not (folder / "not_finite.json").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_entry_anywhere_is_seen_and_large_numbers_are_not(tiny_model, tiny_batch, make_args, value):
    method = METHODS["joint"](make_args(), tiny_model(("audio", "visual", "text")))
    method.model.encoders["text"].requires_grad_(False)

    def look(spoil):
        output = method.forward(tiny_batch(method.model.modalities))
        losses = method.losses(output)
        method.model.zero_grad()
        method.backward(losses)
        method.after_backward(output)
        spoil(output, losses)
        seen = Watch(epoch=0, behind=False)
        seen.add(0, torch.arange(6), vital(method, losses, output))
        try:
            seen.look()
        except NotFinite as error:
            return error.found["what"]
        finally:
            method.trace._sums = {}

    assert look(lambda output, losses: None) is None
    assert look(lambda output, losses: output.features["audio"].data.fill_(3e37)) is None
    places = torch.Generator().manual_seed(0)
    for name in method.model.modalities:
        for _ in range(3):
            place = int(torch.randint(12, (), generator=places))
            assert look(partial(spoil_feature, name, place, value)) == [f"features of {name}"]
    for name, parameter in method.model.named_parameters():
        part = name.removeprefix("encoders.").split(".")[0]
        if part != "text":
            assert look(partial(spoil_gradient, parameter, value)) == [f"final gradient of {part}"]
    assert look(lambda output, losses: losses["loss_joint"].data.fill_(value)) == ["train loss", "train loss_joint"]


def spoil_feature(name, place, value, output, losses):
    output.features[name].data.view(-1)[place] = value


def spoil_gradient(parameter, value, output, losses):
    parameter.grad.view(-1)[-1] = value


class Event:
    """Of a device that is `late` looks behind the host."""

    late = 3

    def record(self):
        self.looks = 0

    def query(self):
        self.looks += 1
        return self.looks >= self.late


def see(seen, step, **values):
    seen.add(step, torch.tensor([10 * step, 10 * step + 1]), {n: [torch.tensor(v)] for n, v in values.items()})


def test_behind_the_steps_the_first_bad_one_is_named(monkeypatch):
    monkeypatch.setattr(watch.torch.cuda, "Event", Event)
    seen = Watch(epoch=4, behind=True)
    reads = host_reads(monkeypatch)
    raised = None
    for step in range(20):
        see(seen, step, loss=math.nan if step >= 7 else 1.0, trace=math.inf if step in (5, 6) else 1.0)
        before = len(reads)
        try:
            seen.look()
        except NotFinite as error:
            raised = error.found
            break
        assert len(reads) - before <= 1  # of a copy on the host, when it has arrived
    # Copied after the steps 0, 3, 6, 9, each read three steps later.
    assert step == 9 and raised == {"epoch": 4, "step": 5, "indices": [50, 51], "what": ["trace"]}
    assert len(reads) - before < 5 and before == 2 and set(reads[:2]) == {"tolist"}


def test_the_end_of_an_epoch_does_not_wait_for_copies(monkeypatch):
    monkeypatch.setattr(watch.torch.cuda, "Event", Event)
    seen = Watch(epoch=0, behind=True)
    see(seen, 0, loss=1.0)
    seen.look()
    see(seen, 1, loss=math.nan)
    seen.look()
    with pytest.raises(NotFinite) as error:
        seen.close()
    assert error.value.found["step"] == 1 and error.value.found["indices"] == [10, 11]
    Watch(epoch=0, behind=True).close()  # without a step


def test_quantities_that_change_between_steps_and_batches_that_are_forgotten():
    seen = Watch(epoch=0, behind=True, remembered=2)
    see(seen, 0, loss=math.nan)
    with pytest.raises(NotFinite, match="loss became .* epoch 1, step 1:"):
        see(seen, 1, loss=1.0, other=1.0)
    seen = Watch(epoch=0, behind=True, remembered=2)
    for step in range(4):
        see(seen, step, loss=math.nan)
    with pytest.raises(NotFinite) as error:
        seen.close()
    assert error.value.found == {"epoch": 0, "step": 0, "indices": None, "what": ["loss"]}


# --- Poor data


def check(folder, epochs):
    """A finished run, all of whose numbers are finite."""
    assert (folder / "done").exists()

    def finite(value):
        if isinstance(value, dict):
            return all(finite(part) for part in value.values())
        return value is None or math.isfinite(value)

    rows = rows_of(folder)
    assert len(rows) == epochs and all(finite(row) for row in rows)
    assert all(trace is not None for row in rows for trace in row["fisher_trace"].values())
    assert all(value.isfinite().all() for value in checkpoint(folder)["model"].values())


def restrict(demo, root, **splits):
    """The demo with the clips of these classes only."""
    root = shutil.copytree(demo, root)
    for split, classes in splits.items():
        with (root / f"{split}.csv").open(newline="") as file:
            rows = [row for row in csv.reader(file) if int(row[1].removeprefix("class")) in classes]
        (root / f"{split}.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    return root


@pytest.mark.parametrize("method", METHODS)
def test_a_modality_that_is_always_zero_and_classes_that_are_in_one_split_alone(demo, tmp_path, monkeypatch, method):
    get = Demo.__getitem__

    def dead(self, position):
        inputs, target, index = get(self, position)
        return inputs | {"audio": torch.zeros_like(inputs["audio"])}, target, index

    monkeypatch.setattr(Demo, "__getitem__", dead)
    root = restrict(demo, tmp_path / "data", train=range(1, 8), test=range(7))
    check(train(root, tmp_path, *acting(method, *MORE.get(method, [])), "--epochs", "2"), epochs=2)


@pytest.mark.parametrize("method", METHODS)
def test_one_class_only(demo, tmp_path, method):
    root = restrict(demo, tmp_path / "data", train=[3], test=[3])
    argv = [*acting(method, *MORE.get(method, [])), "--epochs", "2", "--batch_size", "7"]  # 6 samples of one class
    if method == "relearning":
        with pytest.raises(DataError, match="^3 samples are withheld, fewer than the 8 classes, .*: raise --held_out$"):
            train(root, tmp_path, *argv)
    else:
        check(train(root, tmp_path, *argv), epochs=2)


def test_a_batch_of_one_sample_joins_the_one_before():
    assert sizes_of(9, 4, training=True) == [4, 5] and sizes_of(9, 4, training=False) == [4, 4, 1]
    assert sizes_of(10, 4, training=True) == [4, 4, 2] and sizes_of(8, 4, training=True) == [4, 4]
    assert sizes_of(3, 1, training=True) == [1, 1, 1] and sizes_of(1, 4, training=True) == [1]
    assert sizes_of(0, 4, training=True) == []
    for count in range(1, 30):
        for size in range(1, 9):
            assert sum(sizes_of(count, size, training=True)) == sum(sizes_of(count, size, training=False)) == count


@pytest.mark.parametrize("count, size", [(10, 4), (8, 4), (9, 4), (3, 5)])
def test_batches_are_those_of_torch_but_for_a_last_one_of_one(count, size):
    def drawn():
        return RandomSampler(range(count), generator=torch.Generator().manual_seed(3))

    ours, theirs = list(Batches(drawn(), sizes_of(count, size, True))), list(BatchSampler(drawn(), size, False))
    if len(theirs[-1]) == 1:
        theirs[-2:] = [theirs[-2] + theirs[-1]]
    assert ours == theirs and len(Batches(drawn(), sizes_of(count, size, True))) == len(theirs)


def test_the_order_of_an_epoch_is_what_it_was(tiny_run, tiny_model, make_args):
    """Two words of the generator go to the loader before the order is drawn; results of earlier versions hold."""
    data = tiny_run(tiny_model(), make_args()).train
    order = torch.Generator().manual_seed(mix(5, 2, -1))
    torch.empty((), dtype=torch.int64).random_(generator=order)
    expected = torch.randperm(len(data), generator=order).tolist()
    found = [batch.index for batch in make_loader(data, 4, 0, seed=5, epoch=2, shuffle=True)]
    assert torch.cat(found).tolist() == expected and [len(index) for index in found] == [4, 4, 2]


class Pooled(SmallEncoder):
    """Normalises features as ResNet-18 does on small pictures, whose last maps are 1 x 1."""

    def __init__(self, channels):
        super().__init__(channels)
        self.last = nn.BatchNorm1d(self.dim)

    def pool(self, maps, batch):
        return self.last(super().pool(maps, batch))


def test_a_split_that_leaves_one_sample_trains(demo, tmp_path):
    more = ["--method", "joint", "--epochs", "1"]
    encoders = {"audio": partial(Pooled, 1), "visual": partial(Pooled, 3)}
    check(train(demo, tmp_path, *more, "--batch_size", "47", encoders=encoders), epochs=1)
    with pytest.raises(RunError, match="^batch normalisation needs more than one sample: choose another --batch_size$"):
        train(demo, tmp_path / "ones", *more, "--batch_size", "1", encoders=encoders)
