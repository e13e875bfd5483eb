"""What every method keeps: the passes that it states, exact resumption, the gate, its flags, evaluation by the model.

A registered method without an entry below is tested as one forward and one backward pass a step.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.contract import BATCH, EPOCHS, STEPS, THREE, TWO, WITHHELD, N, epoch_of
from helpers.steps import (
    assert_evaluates_as_the_model,
    count_backwards,
    count_samples,
    follow_gradients,
    host_reads,
    step,
)

from engine.parser import parse
from methods import METHODS

# Of a step: batch sizes of an encoder's forwards, its backwards (or by modality), forwards of the fusion, calls into
# autograd.
ONE = dict(forwards=[BATCH], backwards=1, fusion=1, calls={"backward": 1, "grad": 0})
PASSES = {
    "agm": lambda m: dict(forwards=[BATCH, BATCH, 1], backwards=3, fusion=2**m - 1),
    "mmpareto": lambda m: dict(backwards=2, calls={"backward": 0, "grad": 2}),
    "dgl": lambda m: dict(fusion=1 + m),
    "cml": lambda m: dict(fusion=1 + m),
    "aug": lambda m: dict(fusion=0),  # its parts are asked for one by one
    "mla": lambda m: dict(calls={"backward": 0, "grad": m}),
    # In an epoch that trains the second modality.
    "reconboost": lambda m: dict(backwards={name: int(name == TWO[1]) for name in THREE[:m]}),
}
# Before an epoch: samples through each encoder, calls into autograd.
BEFORE = {
    # Looked at by the model, by the fused copy and by the encoder's own; trained in the two copies.
    "gblending": lambda m: (3 * (N + WITHHELD) + 2 * N, dict(backward=(1 + m) * STEPS)),
    "pmr": lambda m: (N // 2, {}),
    "valuation": lambda m: (N, {}),
    "relearning": lambda m: (N + WITHHELD, {}),
    "lfm": lambda m: (2 * WITHHELD, dict(grad=2 * -(-WITHHELD // BATCH))),
}


# Without what is not the model's in a method's prediction.
PREDICTING = {"mla": dict(test_fusion="mean")}


def set_traces(method, traces):
    """As though epochs of these traces lay behind it."""
    history = {name: list(traces) for name in method.model.modalities}
    method.load_state_dict(method.state_dict() | {"trace": {"history": history}})


def to_first_step(method, run, epoch):
    """The loop's calls before the first step of `epoch`."""
    set_traces(method, [1.0] * epoch)
    run.epoch = epoch
    method.on_epoch_start(run)
    method.train_data(run)


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
@pytest.mark.parametrize("name", METHODS)
def test_passes_of_an_epoch(begin, tiny_batch, monkeypatch, name, modalities):
    method, run = begin(name, modalities)
    # An encoder's passes are those of its first layer, since its stages may be called one by one.
    first = {encoder: layers.conv for encoder, layers in run.model.encoders.items()}
    forwards, fused = count_samples(first), count_samples({"fusion": run.model.fusion})["fusion"]
    backwards, calls = follow_gradients(first), count_backwards(monkeypatch)
    to_first_step(method, run, epoch=2)
    samples, engine = BEFORE.get(name, lambda m: (0, {}))(len(modalities))
    assert {encoder: sum(sizes) for encoder, sizes in forwards.items()} == dict.fromkeys(forwards, samples)
    assert calls == {"backward": 0, "grad": 0} | engine

    for counts in (*forwards.values(), fused):
        counts.clear()
    backwards.update(dict.fromkeys(backwards, 0))
    calls.update(backward=0, grad=0)
    step(method, tiny_batch(run.model.modalities, BATCH))
    expected = ONE | PASSES.get(name, lambda m: {})(len(modalities))
    assert forwards == dict.fromkeys(forwards, expected["forwards"])
    passes = expected["backwards"]
    assert backwards == (passes if isinstance(passes, dict) else dict.fromkeys(forwards, passes))
    assert len(fused) == expected["fusion"] and calls == expected["calls"]


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
@pytest.mark.parametrize("name", METHODS)
def test_a_stop_after_any_epoch_changes_nothing(begin, tmp_path, name, modalities):
    method, run = begin(name, modalities)
    torch.manual_seed(0)
    records = [epoch_of(method, run, epoch) for epoch in range(EPOCHS)]
    for epoch in range(EPOCHS):
        again, resumed = begin(name, modalities)
        torch.manual_seed(0)
        if epoch:
            state = torch.load(tmp_path / "state.pt", weights_only=True)
            resumed.model.load_state_dict(state["model"])
            again.load_state_dict(state["method"])
            resumed.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
        assert epoch_of(again, resumed, epoch) == records[epoch]
        state = {"model": resumed.model.state_dict(), "method": again.state_dict()}
        state |= {"optimizer": resumed.optimizer.state_dict(), "random": torch.get_rng_state()}
        torch.save(state, tmp_path / "state.pt")
    expected = run.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_it_evaluates_as_the_model_and_a_step_waits_for_nothing(begin, tiny_batch, monkeypatch, name):
    method, run = begin(name, **PREDICTING.get(name, {}))
    batch = tiny_batch(run.model.modalities, BATCH)
    to_first_step(method, run, epoch=2)
    step(method, batch)
    run.optimizer.step()  # so that no bias is zero any more
    if name != "greedy":  # which predicts by the mean of its branches
        assert_evaluates_as_the_model(method, batch)
    reads = host_reads(monkeypatch)
    step(method, batch)
    assert reads == []
    method.on_epoch_end(run)
    assert reads  # the epoch's end does read, so the count counts


@pytest.mark.parametrize("kind", ["split", "heads"])
@pytest.mark.parametrize("name", METHODS)
def test_unimodal_losses_come_beside_its_own_or_are_refused(begin, tiny_batch, name, kind):
    if not METHODS[name].takes_unimodal_loss:
        with pytest.raises(SystemExit):
            parse(["--method", name, "--unimodal_loss", kind])
        return
    method, run = begin(name, unimodal_loss=kind)
    to_first_step(method, run, epoch=2)
    output, losses = step(method, tiny_batch(size=BATCH))
    own = {m: F.cross_entropy(logits, output.target) for m, logits in output.unimodal.items()}
    assert all(torch.equal(losses[f"loss_{m}"], loss) for m, loss in own.items())
    method.args = copy.copy(method.args)
    method.args.unimodal_loss = "none"
    torch.testing.assert_close(losses["loss"], method.losses(output)["loss"] + sum(own.values()))


# Without what acts in every epoch, and what it is then: joint training, or a network of its own.
ACTING = {
    "g2d": dict(logit_weight=0.0, feature_weight=0.0, priority_epochs=9),
    "opm": dict(p_exe=1.0),
    "arl": dict(gamma=0.0),
    "greedy": dict(epsilon=0.0),
}
UNGATED = {"greedy": dict(curation="none"), "cggm": dict(coefficients="none", direction="none")}
UNGATED["amco"] = dict(mask_end=0.0)
MODULATING = [name for name, method in METHODS.items() if method.modulates]


@pytest.mark.parametrize("during, threshold", [("prime", 1e9), ("outside", -1e9), ("all", 0.0)])
@pytest.mark.parametrize("name", MODULATING)
def test_a_closed_gate_makes_it_joint_training_bit_for_bit(begin, name, during, threshold):
    finals = []
    reference = (name, UNGATED[name]) if name in UNGATED else ("joint", {})
    for chosen, flags in (reference, (name, ACTING.get(name, {}))):
        flags = flags | dict(modulate_during=during, threshold=threshold)
        method, run = begin(chosen, **flags)
        set_traces(method, [1.0, 2.0])
        for epoch in (2, 3):
            epoch_of(method, run, epoch)
        finals.append(run.model.state_dict())
    same = all(torch.equal(finals[0][key], value) for key, value in finals[1].items())
    assert same == (during != "all")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in MODULATING])
def test_the_gate_is_refused_where_there_is_nothing_to_gate(name):
    with pytest.raises(SystemExit):
        parse(["--method", name, "--modulate_during", "prime"])
