"""InfoReg against hand-computed numbers and against autograd."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.regulated import (
    CONSTANT,
    EXAMPLE,
    GROWING,
    OPTIMIZERS,
    TARGET,
    begun,
    joint_step,
    linear_encoders,
    logits_of,
    weights_of,
)

from inforeg.regulation import InfoReg, leads, scores
from methods.inforeg import InfoRegMethod
from methods.joint import Joint

ALPHA = {"audio": 1.4770684, "visual": 1.4706644}  # exp(0.9 tanh(lead)) of the leads below


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
