"""InfoReg against hand-computed numbers, against autograd, and against a literal copy of the public code's rules."""

import copy
import math
from argparse import ArgumentParser

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers.steps import host_reads

from inforeg.regulation import InfoReg, leads, scores
from methods.inforeg import InfoRegMethod
from methods.joint import Joint

GROWING, CONSTANT = [1.0, 2.0], [2.0, 2.0]  # traces after which the next window is open, and closed


def logits_of(*true_class):
    """(B, 2) logits that give the true class, 0, these probabilities."""
    return torch.tensor([[math.log(p), math.log(1 - p)] for p in true_class], dtype=torch.float64)


# Mean log-probabilities: ln(.4)/2, ln(.5), ln(.1)/2. Sums of probabilities: 1.3, 1.0, 0.7.
EXAMPLE = {"audio": logits_of(0.8, 0.5), "visual": logits_of(0.5, 0.5), "text": logits_of(0.2, 0.5)}
TARGET = torch.zeros(2, dtype=torch.long)
ALPHA = {"audio": 1.4770684, "visual": 1.4706644}  # exp(0.9 tanh(lead)) of the leads below


def weights_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def linear_encoders(names=tuple(EXAMPLE)):
    """One linear layer per modality, with a gradient of zero."""
    encoders = nn.ModuleDict({name: nn.Linear(2, 2).double() for name in names})
    for p in encoders.parameters():
        p.grad = torch.zeros_like(p)
    return encoders


def begun(encoders, history=GROWING, **settings):
    """A regulation at the start of epoch 2, after the traces `history` in every modality or by modality."""
    regulation = InfoReg(encoders, **settings)
    by_name = history if isinstance(history, dict) else {name: history for name in encoders}
    regulation.trace.load_state_dict({"history": by_name})
    regulation.start_epoch()
    return regulation


def test_scores_and_leads_of_three_modalities():
    score = scores(EXAMPLE, TARGET)
    assert score.tolist() == pytest.approx([-0.4581454, -0.6931472, -1.1512925], abs=1e-6)
    # C = 2, 1, 0: audio leads by (0.2350018 + 0.6931472) / 2, visual by 0.4581454 over text alone.
    assert leads(score).tolist() == pytest.approx([0.4640745, 0.4581454, 0.0], abs=1e-6)
    assert scores(EXAMPLE, TARGET, "official").tolist() == pytest.approx([1.3, 1.0, 0.7], abs=1e-6)


def test_score_reads_each_samples_own_class():
    logits = {"audio": logits_of(0.9, 0.3)}
    assert scores(logits, torch.tensor([0, 1])).item() == pytest.approx((math.log(0.9) + math.log(0.7)) / 2)
    assert scores(logits, torch.tensor([1, 0]), "official").item() == pytest.approx(0.1 + 0.3)


def test_a_tie_is_no_lead():
    assert leads(torch.tensor([1.0, 1.0, 0.0])).tolist() == [1.0, 1.0, 0.0]
    assert leads(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]


def mean_alpha(repeats, variant):
    encoders = linear_encoders()
    regulation = begun(encoders, variant=variant)
    regulation.step({name: logits.repeat(repeats, 1) for name, logits in EXAMPLE.items()}, TARGET.repeat(repeats))
    return regulation.end_epoch()["alpha"]


def test_alpha_depends_on_the_batch_size_in_the_official_variant_only():
    assert mean_alpha(1, "paper") == pytest.approx({**ALPHA, "text": None})
    assert mean_alpha(8, "paper") == pytest.approx({**ALPHA, "text": None})
    # Leads 0.45 and 0.3 at two samples, eight times that at sixteen.
    for repeats in (1, 8):
        expected = {
            "audio": 0.95 * math.exp(math.tanh(0.45 * repeats)),
            "visual": 0.1 * math.exp(math.tanh(0.3 * repeats)),
        }
        assert mean_alpha(repeats, "official") == pytest.approx({**expected, "text": None}, rel=1e-5)


def test_only_those_ahead_are_pulled_back():
    encoders = linear_encoders()
    regulation = begun(encoders)
    for p in encoders.parameters():
        p.data += 0.5
        p.grad = torch.full_like(p, 7.0)
    regulation.step(EXAMPLE, TARGET)
    for name, alpha in {**ALPHA, "text": 0.0}.items():
        for p in encoders[name].parameters():
            torch.testing.assert_close(p.grad, torch.full_like(p, 7.0 + 0.5 * alpha), rtol=1e-6, atol=0)


def test_only_those_in_their_window_are_pulled_back():
    encoders = linear_encoders()
    regulation = begun(encoders, {"audio": CONSTANT, "visual": GROWING, "text": GROWING})
    for p in encoders.parameters():
        p.data += 0.5
    regulation.step(EXAMPLE, TARGET)
    assert [bool(encoders[name].weight.grad.any()) for name in EXAMPLE] == [False, True, False]


@pytest.mark.parametrize(
    "settings", [{"variant": "official"}, {"during": "all"}, {"during": "all", "regulation": "gradient"}]
)
def test_frozen_encoder_that_leads_is_left_alone(settings):
    # A frozen encoder's own window never opens, but another modality's, or the choice of epochs, may still admit it.
    encoders = linear_encoders()
    encoders["audio"].requires_grad_(False)
    for p in encoders["audio"].parameters():
        p.grad = None
    begun(encoders, **settings).step(EXAMPLE, TARGET)
    assert all(p.grad is None for p in encoders["audio"].parameters())


def test_record_of_an_epoch():
    encoders = linear_encoders()
    regulation = begun(encoders, {"audio": GROWING, "visual": GROWING, "text": CONSTANT})
    swapped = {"audio": EXAMPLE["text"], "visual": EXAMPLE["visual"], "text": EXAMPLE["audio"]}
    for logits in (EXAMPLE, EXAMPLE, swapped):
        regulation.step(logits, TARGET)
    record = regulation.end_epoch()
    assert record["regulated"] == pytest.approx({"audio": 2 / 3, "visual": 1.0, "text": 0.0})
    behind_one = math.exp(0.9 * math.tanh(0.4581454))
    assert record["alpha"] == pytest.approx({"audio": ALPHA["audio"], "visual": behind_one, "text": None}, rel=1e-6)
    assert record["lead"] == pytest.approx({"audio": 2 / 3 * 0.4640745, "visual": 0.4581454, "text": 0.4640745 / 3})
    assert record["score"]["audio"] == pytest.approx((2 * -0.4581454 - 1.1512925) / 3)
    assert record["prime_window"] == {"audio": True, "visual": True, "text": False}
    assert record["relative_change"] == {"audio": 0.5, "visual": 0.5, "text": 0.0}
    assert record["fisher_trace"] == {"audio": 0.0, "visual": 0.0, "text": 0.0}
    # The next epoch starts from nothing.
    regulation.start_epoch()
    regulation.step(swapped, TARGET)
    record = regulation.end_epoch()
    assert record["alpha"] == {"audio": None, "visual": None, "text": None}
    assert record["lead"] == pytest.approx({"audio": 0.0, "visual": 0.4581454, "text": 0.4640745})


@pytest.mark.parametrize("during", ["prime", "all", "outside"])
def test_nothing_is_regulated_before_the_start_epoch(during):
    # Algorithm 1: epochs 0 and 1 only record; a window that is not open yet is not one that has closed.
    regulation, regulated = InfoReg(linear_encoders(), during=during), []
    for _ in range(4):
        regulation.start_epoch()
        regulation.step(EXAMPLE, TARGET)
        regulated.append(regulation.end_epoch()["regulated"]["audio"])
    # No gradient, no trace: the windows are closed throughout.
    assert regulated == [0, 0] + [{"prime": 0, "all": 1, "outside": 1}[during]] * 2


def joint_step(model, batch, optimizer, extra=0.0, regulation=None):
    features = model.encode(batch.inputs)
    optimizer.zero_grad()
    (F.cross_entropy(model.fuse(features), batch.target) + extra).backward()
    if regulation is not None:
        regulation.step({name: z.detach() for name, z in model.unimodal(features).items()}, batch.target)
    optimizer.step()


def literal_alpha(model, batch):
    """(name of the leader, alpha) of a two-modality model on the batch, from Eq. 8-15 sample by sample."""
    with torch.no_grad():
        read_out = model.unimodal(model.encode(batch.inputs))
    score = {
        name: sum(math.log(z[i].softmax(0)[y]) for i, y in enumerate(batch.target)) / len(batch)
        for name, z in read_out.items()
    }
    leader = max(score, key=score.get)
    return leader, math.exp(0.9 * math.tanh(max(score.values()) - min(score.values())))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_proximal_step_is_that_of_the_loss_with_the_penalty_in_it(tiny_model, tiny_batch, seed):
    model, batches = tiny_model(seed=seed), [tiny_batch(seed=10 * seed + i) for i in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    start = {name: [p.detach().clone() for p in e.parameters()] for name, e in model.encoders.items()}
    regulation = begun(model.encoders)
    for batch in batches:
        joint, penalised = copy.deepcopy(model), copy.deepcopy(model)
        leader, alpha = literal_alpha(copy.deepcopy(model), batch)
        pairs = zip(penalised.encoders[leader].parameters(), start[leader], strict=True)
        penalty = alpha / 2 * sum(((p - w) ** 2).sum() for p, w in pairs)
        joint_step(joint, batch, torch.optim.SGD(joint.parameters(), lr=0.3))
        joint_step(penalised, batch, torch.optim.SGD(penalised.parameters(), lr=0.3), extra=penalty)
        joint_step(model, batch, optimizer, regulation=regulation)
        for name in model.modalities:
            torch.testing.assert_close(
                weights_of(model.encoders[name]), weights_of(penalised.encoders[name]), rtol=1e-10, atol=1e-12
            )
        weaker = "visual" if leader == "audio" else "audio"
        assert torch.equal(weights_of(model.encoders[weaker]), weights_of(joint.encoders[weaker]))
        assert torch.equal(weights_of(model.fusion), weights_of(joint.fusion))
    assert (weights_of(model.encoders[leader]) - weights_of(joint.encoders[leader])).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"regulation": "gradient"}, {"regulation": "lr"}, {"unimodal_loss": "split"}])
def test_closed_window_is_joint_training_bit_for_bit(tiny_model, tiny_batch, make_args, train, settings):
    epochs = [[tiny_batch(seed=10 * epoch + i) for i in range(3)] for epoch in range(4)]
    finals = []
    for method_class, flags in ((Joint, {}), (InfoRegMethod, {"modulate_during": "prime", "threshold": 1.0})):
        model = tiny_model()
        method = method_class(make_args(**settings, **flags), model)
        train(method, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-4), epochs)
        finals.append((model.state_dict(), method.trace.history))
    (joint, joint_traces), (inforeg, traces) = finals
    assert all(torch.equal(joint[name], inforeg[name]) for name in joint)
    assert joint_traces == traces


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=1e-1),
}


@pytest.mark.parametrize(
    "regulation, optimizer", [("gradient", "sgd"), ("lr", "sgd"), ("lr", "momentum"), ("lr", "adamw")]
)
def test_leader_moves_by_one_alphath_of_the_unregulated_step(tiny_model, tiny_batch, regulation, optimizer):
    model = tiny_model()
    regulated = OPTIMIZERS[optimizer](model.parameters())
    part = InfoReg(model.encoders, regulation=regulation)
    if regulation == "lr":
        part.attach(regulated)
    part.trace.load_state_dict({"history": {name: GROWING for name in model.modalities}})
    part.start_epoch()
    for seed in range(4):
        batch = tiny_batch(seed=seed)
        leader, alpha = literal_alpha(copy.deepcopy(model), batch)
        before, free = weights_of(model.encoders[leader]), copy.deepcopy(model)
        unregulated = OPTIMIZERS[optimizer](free.parameters())
        unregulated.load_state_dict(copy.deepcopy(regulated.state_dict()))
        joint_step(free, batch, unregulated)
        joint_step(model, batch, regulated, regulation=part)
        moved, free_step = weights_of(model.encoders[leader]) - before, weights_of(free.encoders[leader]) - before
        assert alpha > 1.001
        torch.testing.assert_close(moved, free_step / alpha, rtol=1e-10, atol=1e-13)
        weaker = "visual" if leader == "audio" else "audio"
        assert torch.equal(weights_of(model.encoders[weaker]), weights_of(free.encoders[weaker]))
        assert torch.equal(weights_of(model.fusion), weights_of(free.fusion))


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


def flags_of(variant):
    """The flags that `--method inforeg --variant ...` gives."""
    parser = ArgumentParser()
    InfoRegMethod.add_args(parser)
    chosen = parser.parse_args(["--variant", variant])
    return vars(chosen) | InfoRegMethod.defaults(chosen)


def test_constants_of_the_variants():
    # The paper's Fig. 7, Fig. 8 and Algorithm 1; the literals of the public code.
    common = dict(regulation="proximal", modulate_during="prime")
    assert flags_of("paper") == common | dict(variant="paper", beta=0.9, window="paper", unimodal_loss="none")
    assert flags_of("official") == common | dict(variant="official", beta=1.0, window="official", unimodal_loss="split")
    # The part by itself takes the same constants, and those of another window with it.
    for said, expected in (
        (dict(variant="paper"), (0.9, 0.04, 1, 2)),
        (dict(variant="official"), (1.0, 0.05, 10, 0)),
        (dict(variant="official", window="accumulated"), (1.0, 0.1, 1, 1)),
        (dict(window="accumulated", threshold=0.3), (0.9, 0.3, 1, 1)),
    ):
        part = InfoReg(linear_encoders(), **said)
        window = part.window
        assert (part.beta, window.threshold, window.smoothing, window.start_epoch) == expected


def literal_official(model, epochs, lr, momentum, decay, regulate=True):
    """PAPER's table of what the public code does, line by line, SGD by hand; returns (changes k, leaders)."""
    audio, visual, head = model.encoders["audio"], model.encoders["visual"], model.fusion.head
    audio_list, changes, leaders, buffers = [0.0] * 10, [], set(), {}
    for epoch, batches in enumerate(epochs):
        newest, before = sum(audio_list[-10:]) / 10, sum(audio_list[-11:-1]) / 10
        k = 1.0 if epoch == 0 else (newest - before) / newest
        changes.append(k)
        old = {name: p.detach().clone() for name, p in model.named_parameters()}
        layers = [layer.weight for layer in audio.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        squares = [torch.zeros_like(weight) for weight in layers]
        for batch in batches:
            a, v = audio(batch.inputs["audio"]), visual(batch.inputs["visual"])
            out = torch.cat([a, v], dim=1) @ head.weight.T + head.bias
            out_a = a @ head.weight[:, : a.shape[1]].T + head.bias / 2
            out_v = v @ head.weight[:, a.shape[1] :].T + head.bias / 2
            model.zero_grad()
            F.cross_entropy(out, batch.target).backward(retain_graph=True)
            F.cross_entropy(out_v, batch.target).backward(retain_graph=True)
            F.cross_entropy(out_a, batch.target).backward()
            score_a = sum(out_a[i].softmax(0)[y].item() for i, y in enumerate(batch.target))
            score_v = sum(out_v[i].softmax(0)[y].item() for i, y in enumerate(batch.target))
            if score_a > score_v:
                stronger, beta = "encoders.audio.", 0.95 * math.exp(math.tanh(score_a - score_v))
            else:
                stronger, beta = "encoders.visual.", 0.1 * math.exp(math.tanh(score_v - score_a))
            if k > 0.05 and regulate:
                leaders.add(stronger)
                for name, p in model.named_parameters():
                    if name.startswith(stronger):
                        p.grad += beta * (p.detach() - old[name])
            squares = [total + weight.grad**2 for total, weight in zip(squares, layers, strict=True)]
            for name, p in model.named_parameters():
                direction = p.grad + decay * p.detach()
                buffers[name] = momentum * buffers[name] + direction if name in buffers else direction
                p.data -= lr * buffers[name]
        audio_list.append(sum(float(total.mean()) for total in squares))
    return changes, leaders


# Steps in each of three epochs. A step after many adds next to nothing to the trace: the window closes in epoch 2.
@pytest.mark.parametrize("steps, last_window", [((4, 4, 4), True), ((40, 1, 4), False)])
@pytest.mark.parametrize("louder", ["audio", "visual"])
def test_official_variant_is_the_public_codes_rules(
    tiny_model, tiny_batch, make_args, train, steps, last_window, louder
):
    epochs = [[tiny_batch(seed=i % 3) for i in range(count)] for count in steps]
    recipe = dict(lr=0.05, momentum=0.9, weight_decay=1e-4)

    def fresh():
        model = tiny_model()
        with torch.no_grad():
            model.encoders[louder].linear.weight *= 4  # the louder modality learns first
        return model.train()

    model, literal, unregulated = fresh(), fresh(), fresh()
    method = InfoRegMethod(make_args(**flags_of("official"), threshold=0.05, window_smoothing=10, start_epoch=0), model)
    records = train(method, torch.optim.SGD(model.parameters(), **recipe), epochs)
    changes, leaders = literal_official(literal, epochs, *recipe.values())
    literal_official(unregulated, epochs, *recipe.values(), regulate=False)

    assert [k > 0.05 for k in changes] == [True, True, last_window]
    assert f"encoders.{louder}." in leaders
    for record, k in zip(records, changes, strict=True):
        assert record["relative_change"]["audio"] == pytest.approx(k, rel=1e-9)
        assert set(record["prime_window"].values()) == {k > 0.05}
    assert (weights_of(model) - weights_of(literal)).abs().max() < 1e-10
    torch.testing.assert_close(dict(model.named_buffers()), dict(literal.named_buffers()), rtol=1e-9, atol=1e-10)
    # Without the pull the same rules lead elsewhere, by far more than the tolerance.
    assert (weights_of(unregulated) - weights_of(literal)).abs().max() > 1e-3


def test_a_window_of_steps_opens_and_closes_within_an_epoch(tiny_model, tiny_batch):
    """The anchor stays the epoch's first weights, and each step is regulated by the traces of the periods before."""
    model, slow = tiny_model(), tiny_model()
    part = InfoReg(model.encoders, beta=0.9, threshold=0.3, window="accumulated", every=2)
    optimizer, by_hand = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, slow))
    batches = [tiny_batch(seed=seed) for seed in range(7)]
    traces, period = {name: [] for name in model.modalities}, {name: [] for name in model.modalities}
    opened = dict.fromkeys(model.modalities, 0)
    anchors = {name: [p.detach().clone() for p in e.parameters()] for name, e in slow.encoders.items()}
    part.start_epoch()
    for number, batch in enumerate(batches):
        for m, opt in ((model, optimizer), (slow, by_hand)):
            features = m.encode(batch.inputs)
            unimodal = m.unimodal(features)
            opt.zero_grad()
            F.cross_entropy(m.fuse(features), batch.target).backward()
            if m is model:
                part.step(unimodal, batch.target)
                opt.step()
        score = {n: F.log_softmax(z.detach(), 1)[range(len(z)), batch.target].mean() for n, z in unimodal.items()}
        for name, encoder in slow.encoders.items():
            if number and number % 2 == 0:
                traces[name].append(sum(period[name]) / 2)
                period[name] = []
            period[name].append(sum(float((p.grad**2).sum()) for p in encoder.parameters()))
            is_open = bool(traces[name]) and traces[name][-1] / sum(traces[name]) > 0.3
            lead = sum(max(float(score[name] - other), 0) for other in score.values())
            if is_open and lead > 0:
                opened[name] += 1
                alpha = math.exp(0.9 * math.tanh(lead))
                for p, anchor in zip(encoder.parameters(), anchors[name], strict=True):
                    p.grad += alpha * (p.detach() - anchor)
        by_hand.step()
    for ours, expected in zip(model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
    record = part.end_epoch()
    assert sum(opened.values()) >= 2 and record["regulated"] == {n: opened[n] / 7 for n in opened}


def test_traces_of_a_few_steps_are_for_the_accumulated_window():
    with pytest.raises(ValueError, match="accumulated"):
        InfoReg(linear_encoders(), every=5)
