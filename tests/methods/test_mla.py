"""MLA against turns taken one after the other, and what a projected step leaves as it is."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, one_step, sgd, step

from engine.parser import parse
from methods.mla import MLA, away_from, entropy_weights
from methods.unimodal import Unimodal
from models.multimodal import MultimodalModel

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
FLAGS = dict(projection="others", alpha=0.1, turns="sequential", test_fusion="entropy")


@pytest.fixture
def make(tiny_model, make_args):
    """make(modalities, **flags): the method on a tiny model, ready to train, with its optimizer."""

    def make(modalities=TWO, seed=0, **flags):
        method = MLA(make_args(**FLAGS | flags), tiny_model(modalities, "shared", seed))
        method.optimizer = sgd(method.model)
        return method

    return make


class Literal:
    """Every modality's turn with a step of the optimizer of its own, features before any of them."""

    def __init__(self, model, projection, alpha):
        self.model, self.alpha, self.projection = model.train(), alpha, projection
        self.optimizer, self.means, self.all = sgd(model), {}, None

    def step(self, batch):
        features = self.model.encode(batch.inputs)
        head = self.model.fusion.head
        for name in self.model.modalities:
            self.optimizer.zero_grad()
            F.cross_entropy(head(features[name]), batch.target).backward()
            with torch.no_grad():
                head.weight.grad = head.weight.grad @ self.projector(name, features[name].mean(dim=0))
            self.optimizer.step()

    def projector(self, name, mean):
        """P from the closed form (I + sum h h' / alpha)^-1."""
        if self.projection == "none":
            return torch.eye(len(mean), dtype=mean.dtype)
        if self.projection == "others":
            rows = [h for other, h in self.means.items() if other != name]
            self.means[name] = mean
        else:
            rows = self.all = [] if self.all is None else [*self.all, mean]
        total = torch.eye(len(mean), dtype=mean.dtype)
        return torch.linalg.inv(sum((torch.outer(h, h) / self.alpha for h in rows), start=total))


@pytest.mark.parametrize("projection", ["others", "recursive", "none"])
@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_it_is_a_step_of_the_optimizer_in_every_turn(make, tiny_batch, modalities, projection):
    method = make(modalities, projection=projection)
    literal = Literal(copy.deepcopy(method.model), projection, 0.1)
    for seed in range(4):
        batch = tiny_batch(modalities, seed=seed)
        literal.step(batch)
        step(method, batch)
        method.optimizer.step()
    expected = literal.model.state_dict()
    for name, value in method.model.state_dict().items():
        if projection == "none":
            assert torch.equal(value, expected[name]), name
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_together_and_without_projection_it_is_the_sum_of_the_losses(make, tiny_batch, modalities):
    method, batch = make(modalities, turns="together", projection="none"), tiny_batch(modalities)
    plain = copy.deepcopy(method.model).train()
    sum(F.cross_entropy(z, batch.target) for z in plain.unimodal(plain.encode(batch.inputs)).values()).backward()
    found, expected = one_step(method, batch), gradients(plain)
    exactly = dict(rtol=0, atol=0) if modalities == TWO else {}  # three gradients are added in another order
    assert_same_gradients(found, expected, **exactly)


def test_every_step_of_the_head_is_clipped(make, tiny_batch):
    method = make(clip_norm=1e-3)
    method.optimizer = torch.optim.SGD(method.model.parameters(), lr=1.0)
    before = copy.deepcopy(method.model.state_dict())
    step(method, tiny_batch())  # the first of two turns has made its step, the second waits for the loop
    moved = {name: (value - before[name]).norm().item() for name, value in method.model.named_parameters()}
    assert math.hypot(*moved.values()) == pytest.approx(1e-3, rel=1e-4)
    assert {name for name, way in moved.items() if way} == {"fusion.head.weight", "fusion.head.bias"}


def test_nothing_is_projected_away_at_an_alpha_without_bound(make, tiny_batch):
    plain, vast = (
        one_step(make(turns="together", **flags), tiny_batch())
        for flags in (dict(projection="none"), dict(alpha=1e300))
    )
    assert_same_gradients(plain, vast, rtol=0, atol=0)


@pytest.mark.parametrize("projection", ["others", "none"])
def test_one_modality_is_the_unimodal_method_bit_for_bit(make, tiny_batch, make_args, train, projection):
    method = make(("audio",), projection=projection)
    model = MultimodalModel(copy.deepcopy(dict(method.model.encoders.items())), "concat", 3).double()
    model.fusion.load_state_dict(method.model.fusion.state_dict())
    alone = Unimodal(make_args(), model)
    epochs = [[tiny_batch(("audio",), seed=10 * epoch + i) for i in range(3)] for epoch in range(2)]
    for each in (method, alone):
        train(each, sgd(each.model), epochs)
    states = method.model.state_dict(), alone.model.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("projection", ["others", "recursive", "none"])
def test_an_encoder_learns_from_its_own_loss_alone(make, tiny_batch, projection):
    """Whatever the projection; of the first turn, at which the head is still the one of the batch's start."""
    method, batch = make(THREE, projection=projection), tiny_batch(THREE)
    plain = copy.deepcopy(method.model).train()
    F.cross_entropy(plain.unimodal(plain.encode(batch.inputs))["audio"], batch.target).backward()
    found = one_step(method, batch)
    expected = {name: grad for name, grad in gradients(plain).items() if name.startswith("encoders.audio.")}
    assert_same_gradients({name: found[name] for name in expected}, expected, rtol=0, atol=0)
    assert all(p.grad is None for name in THREE[1:] for p in plain.encoders[name].parameters())
    together = make(THREE, projection=projection, turns="together")
    plain = copy.deepcopy(together.model).train()
    sum(F.cross_entropy(z, batch.target) for z in plain.unimodal(plain.encode(batch.inputs)).values()).backward()
    found = one_step(together, batch)
    encoders = {name: grad for name, grad in gradients(plain).items() if name.startswith("encoders.")}
    assert_same_gradients({name: found[name] for name in encoders}, encoders)


# The projection


def test_a_projected_gradient_by_hand():
    grad, mean = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 0.0]])
    assert away_from(mean, grad, 1.0).tolist() == [[1.0, 3.0]]
    assert away_from(mean, grad, 3.0).tolist() == [[1.5, 3.0]]


def test_the_projection_acts(make, tiny_batch):
    """Training with it is another training, and what it keeps of the gradient is recorded."""
    ended = {}
    for projection in ("others", "recursive", "none"):
        method = make(projection=projection)
        for seed in range(3):
            step(method, tiny_batch(seed=seed))
            method.optimizer.step()
        ended[projection] = method.model.fusion.head.weight.detach()
        kept = method.on_epoch_end(None)["kept"]
        assert all(0 < share < 0.999 for share in kept.values()) == (projection != "none")
        assert projection != "none" or set(kept.values()) == {1.0}
    assert not torch.allclose(ended["others"], ended["none"], rtol=1e-3)
    assert not torch.allclose(ended["others"], ended["recursive"], rtol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_is_a_projection(count):
    """As alpha goes to 0: onto what is orthogonal to the means, once as twice; and bounded for any alpha."""
    draws = torch.Generator().manual_seed(count)
    means = torch.randn(count, 12, dtype=torch.float64, generator=draws)
    grad = torch.randn(4, 12, dtype=torch.float64, generator=draws)
    sharp = away_from(means, grad, 1e-12)
    assert (sharp @ means.T).abs().max() < 1e-9
    torch.testing.assert_close(away_from(means, sharp, 1e-12), sharp, rtol=1e-8, atol=1e-8)
    matrix = away_from(means, torch.eye(12, dtype=torch.float64), 1e-12)
    assert matrix.trace().item() == pytest.approx(12 - count, abs=1e-6)
    for alpha in (0.01, 1.0, 100.0):
        p = away_from(means, torch.eye(12, dtype=torch.float64), alpha)
        torch.testing.assert_close(p, p.T)
        values = torch.linalg.eigvalsh(p)
        assert 0 < values.min() and values.max() < 1 + 1e-12
        assert ((p @ means.T).norm(dim=0) <= math.sqrt(alpha)).all()
        assert ((means @ p) * means).sum(dim=1).max() <= alpha


def test_the_recursion_remembers_every_mean_and_freezes_the_head(make):
    alpha = 0.05
    method = make(projection="recursive", alpha=alpha)
    draws, means, traces = torch.Generator().manual_seed(0), [], []
    before = torch.eye(3, dtype=torch.float64)
    for turn in range(40):
        mean = torch.randn(3, dtype=torch.float64, generator=draws)
        grad = torch.randn(2, 3, dtype=torch.float64, generator=draws)
        projected = method.project(grad, turn % 2, mean)
        p = method.projector
        torch.testing.assert_close(projected, grad @ p)
        if turn:
            means.append(mean)
            shrunk = alpha / (alpha + mean @ before @ mean)
            torch.testing.assert_close(p @ mean, shrunk * (before @ mean))
        else:
            assert torch.equal(p, before)  # the first turn has nobody to spare
        assert all(h @ p @ h <= alpha and (p @ h).norm() <= math.sqrt(alpha) for h in means)
        before = p
        traces.append(p.trace().item())
    assert traces == sorted(traces, reverse=True) and traces[-1] < 0.02 * traces[0]


def test_a_turn_spares_what_the_others_were_told(make, tiny_batch):
    """The head's step in audio's turn hardly moves its logits of visual's mean feature, and does without projection."""
    moved = {}
    for projection in ("others", "none"):
        method = make(projection=projection, alpha=1e-9)
        step(method, tiny_batch())
        grad = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        mean = method.means[1].clone() if projection == "others" else moved["mean"]
        moved["mean"] = mean
        moved[projection] = (method.project(grad, 0, mean + 1) @ mean).abs().max().item()
    assert moved["others"] < 1e-6 < 0.05 < moved["none"]


def test_means_are_those_of_the_last_turns(make, tiny_batch):
    method, batches = make(THREE), [tiny_batch(THREE, seed=seed) for seed in range(2)]
    seen, project = [], method.project
    method.project = lambda grad, turn, mean: (seen.append((method.means.clone(), mean)), project(grad, turn, mean))[1]
    for batch in batches:
        step(method, batch)
        method.optimizer.step()
    assert not seen[0][0].any()  # nobody has had a turn
    for turn in range(1, 6):
        means = seen[turn][0]
        for past in range(turn):
            if past >= turn - 3:
                assert torch.equal(means[past % 3], seen[past][1])


# The prediction


def test_the_weights_of_the_prediction():
    classes = 5
    equal = torch.randn(4, classes, dtype=torch.float64)
    torch.testing.assert_close(entropy_weights(dict.fromkeys(THREE, equal)), torch.full((3, 4), 1 / 3).double())
    sure, flat = 1e4 * F.one_hot(torch.arange(4), classes).double(), torch.zeros(4, classes).double()
    weights = entropy_weights({"audio": sure, "visual": flat})
    bound = classes / (1 + classes)  # log C apart, no more
    torch.testing.assert_close(weights, torch.tensor([[bound] * 4, [1 - bound] * 4]).double())
    some = {name: 3 * torch.randn(50, classes, dtype=torch.float64) for name in TWO}
    found = entropy_weights(some)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(50).double())
    assert found.min() >= 1 - bound and found.max() <= bound
    for i in range(3):  # as the paper writes it
        e = [-(p * p.log()).sum() for p in (z[i].softmax(0) for z in some.values())]
        raw = [torch.exp(max(e) - x) for x in e]
        torch.testing.assert_close(found[:, i], torch.stack([x / sum(raw) for x in raw]))


def test_a_samples_prediction_does_not_depend_on_its_batch(make, tiny_batch):
    method, batch, other = make(), tiny_batch(), tiny_batch(seed=1)
    mixed = copy.copy(batch)
    mixed.inputs = {name: torch.cat([x[:1], other.inputs[name][1:]]) for name, x in batch.inputs.items()}
    method.model.eval()
    with torch.no_grad():
        one, two = method.forward(batch), method.forward(mixed)
        expected = (entropy_weights(one.unimodal).unsqueeze(2) * torch.stack(list(one.unimodal.values()))).sum(dim=0)
        mean = make(test_fusion="mean")
        mean.model.eval()
        plain = mean.forward(batch).logits
    torch.testing.assert_close(one.logits[0], two.logits[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one.logits, expected)
    torch.testing.assert_close(plain, (one.unimodal["audio"] + one.unimodal["visual"]) / 2)
    assert not torch.allclose(one.logits, plain, rtol=1e-6)


# What is refused


def test_what_it_is_not_defined_for_is_refused_in_a_sentence(make, tiny_model, make_args):
    for fusion in ("concat", "sum", "film", "gated"):
        with pytest.raises(
            ValueError, match="^MLA trains one head for all modalities: leave --fusion away, or use shared$"
        ):
            MLA(make_args(**FLAGS), tiny_model(fusion=fusion))
    with pytest.raises(ValueError, match="^--fusion shared is .* not audio 2, visual 3: choose encoders of one width$"):
        MultimodalModel(tiny_model().encoders, "shared", 3)


def test_flags():
    args = parse(["--method", "mla"])
    assert (args.fusion, args.projection, args.alpha) == ("shared", "others", 0.1)
    assert parse(["--method", "mla", "--variant", "official"]).projection == "none"
    assert parse(["--method", "mla", "--variant", "official", "--projection", "recursive"]).projection == "recursive"
