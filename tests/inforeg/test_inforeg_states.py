"""InfoReg goes on from any state, refuses what is not defined, and waits for no device."""

import pytest
import torch
import torch.nn as nn
from helpers.regulated import EXAMPLE, GROWING, OPTIMIZERS, TARGET, begun, joint_step, linear_encoders
from helpers.steps import host_reads

from inforeg.regulation import InfoReg


@pytest.mark.parametrize(
    "settings",
    [dict(start_epoch=1, during="all", regulation=name) for name in ("proximal", "gradient", "lr")]
    + [dict(variant="official")]
    + [dict(window="accumulated", every=2, threshold=0.3, regulation=name) for name in ("proximal", "lr")],
    ids=str,
)
def test_a_state_is_valid_after_any_step(tiny_model, tiny_batch, tmp_path, settings):
    """Three epochs of three steps, left after each step and each epoch; what goes on knows the states alone."""

    def make():
        model = tiny_model()
        optimizer, part = OPTIMIZERS["momentum"](model.parameters()), InfoReg(model.encoders, **settings)
        if part.regulation == "lr":
            part.attach(optimizer)
        return model, optimizer, part

    def go_on(model, optimizer, part, first=0):
        """The epochs' records from a step on; a state is kept after each."""
        records = []
        for place in range(first, 9):
            if place % 3 == 0:
                part.start_epoch()
            joint_step(model, tiny_batch(seed=place), optimizer, regulation=part)
            keep(place, model, optimizer, part)
            if place % 3 == 2:
                records.append(part.end_epoch())
                keep(f"end {place}", model, optimizer, part)
        return records

    def keep(place, *parts):
        path = tmp_path / f"{place}.pt"
        if not path.exists():
            torch.save([part.state_dict() for part in parts], path)

    model, *others = make()
    whole = go_on(model, *others)
    assert any(max(record["regulated"].values()) > 0 for record in whole)
    for place in range(9):
        for file in [f"{place}.pt"] + [f"end {place}.pt"] * (place % 3 == 2):
            parts = make()
            for part, state in zip(parts, torch.load(tmp_path / file, weights_only=True), strict=True):
                part.load_state_dict(state)
            if place % 3 == 2 and not file.startswith("end"):
                assert parts[2].end_epoch() == whole[place // 3]
            records = go_on(*parts, first=place + 1)
            assert records == whole[len(whole) - len(records) :], file
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), parts[0].parameters(), strict=True)), file


def test_a_state_between_epochs_holds_no_weights(tiny_model, tiny_batch):
    model = tiny_model()
    part = InfoReg(model.encoders, start_epoch=0, during="all")
    part.start_epoch()
    within = part.state_dict()["weights"]
    assert within.keys() == {"audio", "visual"}
    for name, weights in within.items():
        assert all(torch.equal(w, p) for w, p in zip(weights, model.encoders[name].parameters(), strict=True))
    joint_step(model, tiny_batch(), OPTIMIZERS["sgd"](model.parameters()), regulation=part)
    other = InfoReg(model.encoders, start_epoch=0, during="all")
    other.load_state_dict(part.state_dict())
    kept = part.state_dict()["weights"]["audio"][0].clone()
    other.end_epoch(), other.start_epoch()  # must not reach into the state that it was given
    assert torch.equal(part.state_dict()["weights"]["audio"][0], kept)
    part.end_epoch()
    assert part.state_dict()["weights"] == {}


def test_what_is_not_defined_raises():
    encoders = linear_encoders()
    with pytest.raises(ValueError, match="attach"):
        begun(encoders, regulation="lr")
    for regulation in ("proximal", "gradient"):
        with pytest.raises(ValueError, match="needs no optimizer"):
            InfoReg(encoders, regulation=regulation).attach(torch.optim.SGD(encoders.parameters()))
    for regulation in ("gradient", "lr"):
        with pytest.raises(ValueError, match="official"):
            InfoReg(encoders, variant="official", regulation=regulation)
    with pytest.raises(ValueError, match="outside an epoch: call start_epoch"):
        InfoReg(encoders).step(EXAMPLE, TARGET)
    with pytest.raises(ValueError, match="no logits of visual, text"):
        begun(encoders).step({"audio": EXAMPLE["audio"]}, TARGET)
    with pytest.raises(ValueError, match="without a step"):
        InfoReg(encoders).end_epoch()
    with pytest.raises(ValueError, match="audio has no parameters"):
        InfoReg({"audio": nn.Identity()})
    for unknown in ({"variant": "papers"}, {"regulation": "prox"}, {"during": "never"}):
        with pytest.raises(ValueError, match=f"'{next(iter(unknown.values()))}' is not one of"):
            InfoReg(encoders, **unknown)


@pytest.mark.parametrize(
    "variant, regulation", [("paper", r) for r in ("proximal", "gradient", "lr")] + [("official",) * 2]
)
def test_step_reads_nothing_back_to_the_host(monkeypatch, variant, regulation):
    encoders = linear_encoders()
    optimizer = torch.optim.SGD(encoders.parameters(), lr=0.1)
    part = InfoReg(encoders, variant=variant, regulation=regulation.replace("official", "proximal"))
    if regulation == "lr":
        part.attach(optimizer)
    part.trace.load_state_dict({"history": {name: GROWING for name in encoders}})
    part.start_epoch()
    reads = host_reads(monkeypatch)
    part.step(EXAMPLE, TARGET)
    assert reads == []
    record = part.end_epoch()
    assert reads  # the epoch's end does read, so the count counts
    assert record["regulated"]["audio"] == 1


def test_traces_of_a_few_steps_are_for_the_accumulated_window():
    with pytest.raises(ValueError, match="accumulated"):
        InfoReg(linear_encoders(), every=5)
