"""MMCosine against cosines taken one by one, and what a cosine does not see."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.steps import assert_same_gradients, gradients, step

from engine.parser import parse
from methods.mmcosine import Cosine, MMCosine, weights_of

TWO, THREE = ("audio", "visual"), ("audio", "visual", "text")
SETTINGS = [(names, fusion) for names in (TWO, THREE) for fusion in ("concat", "sum")]


@pytest.fixture
def make(tiny_model, make_args):
    def make(modalities=TWO, fusion="concat", scale=10.0, variant="paper"):
        method = MMCosine(make_args(scale=scale, variant=variant), tiny_model(modalities, fusion))
        method.model.double()
        return method

    return make


def random_features(model, count=6, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return {n: torch.randn(count, d, generator=draws, dtype=torch.float64) for n, d in model.dims.items()}


def slow(features, weights, scale):
    """{modality: (B, C)} of scaled cosines, one entry at a time."""
    return {
        name: torch.stack(
            [
                torch.stack([scale * (f @ w) / ((f @ f).sqrt() * (w @ w).sqrt()) for w in weights[name]])
                for f in features[name]
            ]
        )
        for name in weights
    }


@pytest.mark.parametrize("modalities, fusion", SETTINGS)
def test_logits_and_gradients_are_those_of_cosines_taken_one_by_one(make, tiny_batch, modalities, fusion):
    method, batch = make(modalities, fusion, scale=3.0), tiny_batch(modalities)
    literal = copy.deepcopy(method.model).train()
    features = literal.encode(batch.inputs)
    unimodal = slow(features, literal.fusion.weights, 3.0)
    logits = sum(unimodal.values())
    F.cross_entropy(logits, batch.target).backward()
    output, losses = step(method, batch)
    torch.testing.assert_close(output.logits, logits)
    assert torch.equal(output.logits, torch.stack(list(output.unimodal.values())).sum(dim=0))
    for name, z in unimodal.items():
        torch.testing.assert_close(output.unimodal[name], z)
    assert_same_gradients(gradients(method.model), gradients(literal))
    assert all(grad is not None for grad in gradients(method.model).values())


def test_a_logit_by_hand(make):
    method = make(scale=10.0)
    with torch.no_grad():
        method.model.fusion.weights["audio"].copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0], [-5.0, 0.0]]))
    features = {"audio": torch.tensor([[2.0, 0.0]]).double(), "visual": torch.zeros(1, 3).double()}
    assert method.model.unimodal(features)["audio"][0].tolist() == pytest.approx([6.0, 0.0, -10.0])
    # A modality of zeros adds nothing, and neither does one that is orthogonal to every class.
    assert torch.equal(method.model.fuse(features), method.model.unimodal(features)["audio"])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_it_starts_from_the_weights_of_the_fusion_that_it_replaces(make, tiny_model, fusion):
    plain, method = tiny_model(fusion=fusion), make(fusion=fusion)
    for name, weight in weights_of(plain.fusion).items():
        assert torch.equal(method.model.fusion.weights[name], weight)
    held = method.model.state_dict()
    assert not any("bias" in name for name in held if name.startswith("fusion."))
    with pytest.raises(RuntimeError):
        method.model.load_state_dict(plain.state_dict())


def test_directions_of_length_one_make_it_the_sum_without_biases(make, tiny_model):
    method, plain = make(fusion="sum", scale=1.0), tiny_model(fusion="sum")
    features = {name: F.normalize(f) for name, f in random_features(plain).items()}
    with torch.no_grad():
        for name, weight in weights_of(plain.fusion).items():
            weight.copy_(F.normalize(weight))
            method.model.fusion.weights[name].copy_(weight)
    torch.testing.assert_close(method.model.fuse(features), plain.fuse(features), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_only_directions_count(make, modalities):
    model = make(modalities).model
    features, fusion = random_features(model), model.fusion
    sizes = torch.logspace(-3, 3, 6, dtype=torch.float64).unsqueeze(1)
    before = fusion(features)
    assert all(z.abs().max() <= 10 for z in fusion.unimodal(features).values())
    torch.testing.assert_close(fusion(features | {"visual": sizes * features["visual"]}), before)
    turned = fusion.unimodal({name: -f for name, f in features.items()})
    for name, z in fusion.unimodal(features).items():
        torch.testing.assert_close(turned[name], -z)
    with torch.no_grad():
        fusion.weights["audio"][1] *= 100
    torch.testing.assert_close(fusion(features), before)


def test_gradients_are_orthogonal_to_what_they_turn(make):
    fusion, target = make().model.fusion, torch.tensor([0, 1, 2, 0, 1, 2])
    features = {name: f.requires_grad_() for name, f in random_features(make().model).items()}
    F.cross_entropy(fusion(features), target).backward()
    for name, weight in fusion.weights.items():
        for x in (features[name], weight):
            assert x.grad.abs().max() > 1e-3
            assert (x.grad * x).sum(dim=1).abs().max() < 1e-14
    # The gradient of a feature falls as its length grows.
    longer = {name: (10 * f.detach()).requires_grad_() for name, f in features.items()}
    F.cross_entropy(fusion(longer), target).backward()
    for name, f in longer.items():
        torch.testing.assert_close(10 * f.grad, features[name].grad)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_best_balanced_loss_is_that_of_the_simplex(scale):
    """Classes at the corners of a simplex, features on them: cosines 1 and -1/(C - 1)."""
    classes = 4
    corners = torch.eye(classes, dtype=torch.float64) - 1 / classes
    fusion = Cosine({"audio": corners, "visual": corners}, scale)
    loss = F.cross_entropy(fusion({"audio": 7 * corners, "visual": corners}), torch.arange(classes))
    bound = math.log(1 + (classes - 1) * math.exp(-scale * 2 * classes / (classes - 1)))
    assert loss.item() == pytest.approx(bound, rel=1e-9)


def test_a_feature_of_zeros_is_neutral_and_has_a_finite_gradient(make):
    fusion = make().model.fusion.float()
    features = {"audio": torch.zeros(2, 2, requires_grad=True), "visual": torch.zeros(2, 3, requires_grad=True)}
    logits = fusion(features)
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert not logits.any()
    assert all(x.grad.isfinite().all() for x in (*features.values(), *fusion.weights.values()))


def test_the_official_variant_is_evaluated_by_the_linear_head(make, tiny_batch):
    paper, official, batch = make(), make(variant="official"), tiny_batch()
    assert_same_gradients(gradients_of(paper, batch), gradients_of(official, batch), rtol=0, atol=0)
    paper.model.eval()
    official.model.eval()
    with torch.no_grad():
        expected, found = paper.forward(batch), official.forward(batch)
    linear = sum(f @ official.model.fusion.weights[name].T for name, f in found.features.items())
    torch.testing.assert_close(found.logits, linear)
    assert not torch.allclose(found.logits, expected.logits)
    assert all(torch.equal(found.unimodal[name], z) for name, z in expected.unimodal.items())
    cosines = torch.stack(list(expected.unimodal.values())).sum(dim=0)
    assert torch.equal(expected.logits, cosines)  # the paper's is evaluated by what is trained


def gradients_of(method, batch):
    step(method, batch)
    return gradients(method.model)


@pytest.mark.parametrize("fusion", ["film", "gated"])
def test_other_fusions_are_refused(make, fusion):
    with pytest.raises(ValueError, match="^MMCosine is defined for additive fusions: use --fusion concat or sum$"):
        make(fusion=fusion)


def test_flags():
    assert parse(["--method", "mmcosine"]).scale == 10
    for wrong in ("0", "-1", "inf"):
        with pytest.raises(SystemExit):
            parse(["--method", "mmcosine", "--scale", wrong])


def test_cosines_are_in_full_precision_under_autocast(make, tiny_batch):
    fusion = make().model.fusion.float()
    features = {name: (300 * f).bfloat16() for name, f in random_features(make().model).items()}
    with torch.autocast("cpu", torch.bfloat16):
        assert fusion(features).abs().max() <= 2 * 10 * 1.01
