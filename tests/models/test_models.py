"""Encoders, fusions and their unimodal read-outs against their formulas; where a model's weights come from."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torchvision
from helpers.tiny import CLASSES, TinyEncoder

from methods.joint import Joint
from models.encoders import RESNETS, ConvNet, ResNet18, Transformer, initialise
from models.fusion import FUSIONS
from models.multimodal import build_model, place
from models.weights import load_weights

PAIR = ("audio", "visual")
TRIPLE = ("audio", "visual", "text")


def head_and_features(fusion, modalities=PAIR, size=4):
    """A fusion with biases that are not zero, and features of 2, 3, ... values, or of 3 each."""
    torch.manual_seed(0)
    dims = {name: 3 if fusion == "shared" else dim for dim, name in enumerate(modalities, 2)}
    head = FUSIONS[fusion](dims, CLASSES).double()
    for p in head.parameters():
        nn.init.normal_(p)
    return head, {name: torch.randn(size, dim, dtype=torch.float64) for name, dim in dims.items()}


def affine(layer, x):
    """One sample's W x + b, entry by entry."""
    rows = [sum(w * v for w, v in zip(row, x.tolist(), strict=True)) for row in layer.weight.tolist()]
    return torch.tensor([r + b for r, b in zip(rows, layer.bias.tolist(), strict=True)], dtype=torch.float64)


def slow_fusion(fusion, head, features, i):
    """Sample i's fused logits from the formulas in the papers."""
    f = {name: x[i] for name, x in features.items()}
    if fusion == "concat":
        return affine(head.head, torch.cat(list(f.values())))
    if fusion == "sum":
        return sum(affine(head.heads[name], x) for name, x in f.items())
    if fusion == "shared":
        return sum(affine(head.head, x) for x in f.values()) / len(f)
    if fusion == "boosted":
        return sum(affine(head.head, affine(head.layers[name][0], x).relu()) for name, x in f.items()) / len(f)
    if fusion == "film":
        conditioned = affine(head.film, f["audio"])
        scale, shift = conditioned[:3], conditioned[3:]
        return affine(head.head, scale * f["visual"] + shift)
    gate = 1 / (1 + torch.exp(-affine(head.gate, f["audio"])))
    return affine(head.head, gate * affine(head.value, f["visual"]))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fused_logits(fusion):
    head, features = head_and_features(fusion)
    for i, logits in enumerate(head(features)):
        same(logits, slow_fusion(fusion, head, features, i))


def test_concat_reads_a_modality_by_its_block_and_its_share_of_the_bias():
    head, features = head_and_features("concat", TRIPLE)
    read_out, start = head.unimodal(features), 0
    assert tuple(read_out) == TRIPLE
    for name, x in features.items():
        block = head.head.weight[:, start : start + x.shape[1]]
        start += x.shape[1]
        for i in range(len(x)):
            same(read_out[name][i], block.mv(x[i]) + head.head.bias / 3)


def test_sum_reads_a_modality_by_its_own_layer():
    head, features = head_and_features("sum", TRIPLE)
    read_out = head.unimodal(features)
    assert tuple(read_out) == TRIPLE
    for name, x in features.items():
        for i in range(len(x)):
            same(read_out[name][i], affine(head.heads[name], x[i]))


@pytest.mark.parametrize("modalities", [PAIR, TRIPLE])
def test_one_shared_layer_reads_every_modality(modalities):
    head, features = head_and_features("shared", modalities)
    read_out = head.unimodal(features)
    assert tuple(read_out) == modalities and sum(p.numel() for p in head.parameters()) == 3 * CLASSES + CLASSES
    for name, x in features.items():
        for i in range(len(x)):
            same(read_out[name][i], affine(head.head, x[i]))
    same(sum(read_out.values()) / len(modalities), head(features))


def test_a_shared_layer_refuses_features_of_two_widths():
    with pytest.raises(
        ValueError, match="^--fusion shared is one layer for features of one width, not a 2, b 3: choose"
    ):
        FUSIONS["shared"]({"a": 2, "b": 3}, CLASSES)


@pytest.mark.parametrize("modalities", [PAIR, TRIPLE])
def test_boosted_classifiers_are_summed_and_share_their_last_layer(modalities):
    head, features = head_and_features("boosted", modalities)
    head.reserve(4)
    head.double()
    used = [1 + number % 3 for number in range(1, 1 + len(modalities))]  # 2, 3 and 1
    for number, count in enumerate(used):
        for _ in range(count - 1):
            head.use_another(number)
    assert head.used == head.count.tolist() == used
    for (name, z), count in zip(head.unimodal(features).items(), used, strict=True):
        members = head.classify(features)[name]
        assert members.shape == (count, 4, CLASSES)
        hidden = [layer(features[name]).relu() for layer in head.layers[name][:count]]
        for member, h in zip(members, hidden, strict=True):
            same(member[0], affine(head.head, h[0]))
        same(z, sum(hidden) @ head.head.weight.T + count * head.head.bias)
    same(head(features), sum(head.unimodal(features).values()) / len(modalities))


@pytest.mark.parametrize("fusion", ["film", "gated"])
def test_film_and_gated_read_a_modality_with_the_other_set_to_zero(fusion):
    head, features = head_and_features(fusion)
    read_out = head.unimodal(features)
    assert tuple(read_out) == PAIR
    for name in PAIR:
        alone = {other: x if other == name else torch.zeros_like(x) for other, x in features.items()}
        for i in range(4):
            same(read_out[name][i], slow_fusion(fusion, head, alone, i))
    assert not torch.allclose(read_out["audio"] + read_out["visual"], head(features))


@pytest.mark.parametrize("modalities", [PAIR, TRIPLE])
@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_split_logits_sum_to_the_fused_ones(fusion, modalities):
    head, features = head_and_features(fusion, modalities)
    same(sum(head.unimodal(features).values()), head(features))


@pytest.mark.parametrize("fusion", ["film", "gated"])
def test_two_modality_fusions_refuse_three(fusion, tiny_model):
    with pytest.raises(ValueError, match=f"{fusion} is defined for two modalities, not for 3 .*use concat or sum"):
        tiny_model(TRIPLE, fusion)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_three_modalities(fusion, tiny_model, tiny_batch, make_args):
    method, batch = Joint(make_args(), tiny_model(TRIPLE, fusion)), tiny_batch(TRIPLE, size=5)
    output = method.forward(batch)
    assert method.model.modalities == TRIPLE
    assert output.logits.shape == (5, CLASSES)
    assert {name: tuple(z.shape) for name, z in output.unimodal.items()} == dict.fromkeys(TRIPLE, (5, CLASSES))
    assert [x.shape[1] for x in output.features.values()] == [2, 3, 4]


def test_resnet18_is_torchvisions_but_for_its_ends():
    ours, theirs = ResNet18(channels=1), torchvision.models.resnet18()
    kept = {name: value for name, value in theirs.state_dict().items() if not name.startswith(("conv1", "fc"))}
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in kept.items()} | {"conv1.weight": (64, 1, 7, 7)}
    # The same weights give the same features, so the layers are also joined in the same way.
    theirs.load_state_dict(ours.state_dict() | {"conv1.weight": theirs.conv1.weight}, strict=False)
    theirs.conv1, theirs.fc = ours.conv1, nn.Identity()
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        features = ours.eval()(image)
        assert torch.equal(features, theirs.eval()(image))
    assert features.shape == (2, ResNet18.dim)


def test_frames_are_averaged():
    torch.manual_seed(0)
    encoder = ResNet18(channels=3).eval()
    clips = torch.randn(2, 3, 3, 24, 24)
    with torch.no_grad():
        folded = encoder(clips)
        by_frame = [sum(encoder(frame.unsqueeze(0))[0] for frame in clip) / 3 for clip in clips]
    torch.testing.assert_close(folded, torch.stack(by_frame), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(folded[0], folded[1], rtol=1e-2)


def test_initialisation_of_the_resnet():
    torch.manual_seed(0)
    for name, layer in ResNet18(channels=3).named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            expected = math.sqrt(2 / fan_out)
            # Four standard errors of a normal sample's standard deviation.
            error = 4 / math.sqrt(2 * layer.weight.numel())
            assert layer.weight.std().item() == pytest.approx(expected, rel=error), name
            assert abs(layer.weight.mean().item()) < 4 * expected / math.sqrt(layer.weight.numel()), name
        elif isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


@pytest.mark.parametrize("frames", [False, True])
def test_convnet_is_its_four_convolutions(frames):
    encoder = ConvNet(3, frames).eval()
    x = torch.randn(2, 4, 3, 20, 24) if frames else torch.randn(2, 3, 20, 24)
    feature = encoder(x)
    assert feature.shape == (2, ConvNet.dim)
    y = x.transpose(1, 2) if frames else x
    convolve = nn.functional.conv3d if frames else nn.functional.conv2d
    for number, (convolution, norm, _) in enumerate(encoder.stages):
        stride = 2 if number else (1, 2, 2) if frames else 1
        y = convolve(y, convolution.weight, stride=stride, padding=1)
        y = (y / math.sqrt(1 + norm.eps)).relu()  # running statistics as they start, mean 0 and variance 1
    torch.testing.assert_close(feature, y.flatten(2).mean(dim=2), rtol=1e-5, atol=1e-6)
    if frames:  # the order of the frames matters to it, as it does not to ResNet-18
        assert not torch.allclose(encoder(x.flip(1)), feature, atol=1e-3)


def test_convnet_starts_as_kaiming_says():
    torch.manual_seed(0)
    for encoder in (ConvNet(1), ConvNet(3, frames=True)):
        for convolution, norm, _ in encoder.stages:
            weight, kernel = convolution.weight, convolution.weight[0, 0].numel()
            expected = math.sqrt(2 / (convolution.out_channels * kernel))
            assert weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * weight.numel()))
            assert norm.weight.eq(1).all() and norm.bias.eq(0).all()


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_larger_resnets_are_torchvisions_and_state_their_widths(name, tmp_path):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().eval()
    torch.save(theirs.state_dict(), tmp_path / "r.pth")
    ours = RESNETS[name](channels=3).eval()
    load_weights(ours, "visual", tmp_path / "r.pth")
    theirs.fc, frames = nn.Identity(), torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        maps, widths = frames.flatten(0, 1), []
        torch.testing.assert_close(ours(frames)[0], theirs(maps).mean(dim=0), rtol=1e-4, atol=1e-4)
        for stage in ours.stages:
            maps = stage(maps)
            widths.append(maps.shape[1])
    assert tuple(widths) == ours.widths and ours.dim == widths[-1]


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_larger_resnets_gate_one_another(name):
    """The units of MMTM stand between the stages of any encoders that are equally many."""
    makers = {"audio": lambda: RESNETS[name](1), "visual": lambda: RESNETS["resnet18"](3), "depth": lambda: ConvNet(2)}
    model = build_model(makers, "sum", CLASSES, seed=0)
    model.add_exchange()
    features = model.encode({m: torch.randn(2, c, 64, 64) for m, c in (("audio", 1), ("visual", 3), ("depth", 2))})
    assert {m: f.shape for m, f in features.items()} == {m: (2, model.dims[m]) for m in makers}


def attend(layer, x):
    """One encoder layer of PyTorch on one series (T, dim), from its formulas, without dropout."""
    heads = layer.self_attn.num_heads
    q, k, v = (x @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, dim=1)
    mixed = []
    for part in torch.arange(x.shape[1]).chunk(heads):
        weights = (q[:, part] @ k[:, part].T / math.sqrt(len(part))).softmax(dim=1)
        mixed.append(weights @ v[:, part])
    x = layer.norm1(x + layer.self_attn.out_proj(torch.cat(mixed, dim=1)))
    return layer.norm2(x + layer.linear2(layer.linear1(x).relu()))


@pytest.mark.parametrize("steps", [1, 6])
def test_the_transformer_is_its_formulas(steps):
    torch.manual_seed(0)
    encoder = Transformer(channels=3, dim=10).double().eval()
    for p in encoder.parameters():  # so that no bias and no scale is 0 or 1, and no two layers are the same
        nn.init.normal_(p, std=0.3)
    x = torch.randn(4, steps, 3, dtype=torch.float64)
    found = encoder(x)
    assert found.shape == (4, encoder.dim) and len(encoder.transform.layers) == 5
    for i, series in enumerate(x):
        steps_of = series @ encoder.project.weight[:, :, 0].T
        for layer in encoder.transform.layers:
            steps_of = attend(layer, steps_of)
        same(found[i], steps_of[-1])
    with torch.no_grad():
        same(encoder(x), found)  # PyTorch has a way of its own for it


def test_the_transformer_drops_out_in_training_only_and_knows_no_order_but_the_last_step():
    torch.manual_seed(0)
    encoder, x = Transformer(channels=3, dim=10).double(), torch.randn(4, 6, 3, dtype=torch.float64)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))
    same(encoder(x), encoder(x[:, [2, 0, 4, 3, 1, 5]]))
    assert not torch.allclose(encoder(x), encoder(x.flip(1)))


def test_the_transformers_heads_share_its_width():
    with pytest.raises(ValueError, match="5 heads.*not 12"):
        Transformer(channels=3, dim=12)


def test_placing_a_model_changes_its_layout_not_its_weights():
    makers = {"audio": lambda: ConvNet(1), "visual": lambda: ConvNet(3, frames=True)}
    model, placed = (build_model(makers, "concat", CLASSES, seed=0) for _ in range(2))
    place(placed, torch.device("cpu"))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), placed.parameters(), strict=True))
    layers = [placed.encoders["audio"].stages[1][0]] + [nn.Conv2d(3, 4, 3, device="meta") for _ in range(2)]
    place(layers[1], torch.device("meta"))  # any device but the CPU
    place(layers[2], layers[1].weight)
    strides = [layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers]
    assert strides == [False, True, True]


def test_batch_normalisation_on_a_cpu_is_as_exact_as_single_precision():
    """In channels_last the output is wrong by 1e-3, the running variance by 2e-4 (PyTorch 2.11)."""
    torch.manual_seed(0)
    exact = nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8)).double()
    nn.init.ones_(exact[0].weight)
    nn.init.ones_(exact[0].bias)
    single = copy.deepcopy(exact).float()
    place(single, torch.device("cpu"))
    x = torch.randn(192, 1, 112, 112)
    expected, output = exact(x.double()), single(x)
    assert (output - expected).abs().max() < 1e-5
    gap = (single[1].running_var - exact[1].running_var).abs() / exact[1].running_var
    assert gap.max() < 1e-6


def test_initialisation_of_linear_layers():
    torch.manual_seed(0)
    layer = nn.Linear(400, 100)
    layer.apply(initialise)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 500), rel=4 / math.sqrt(2 * 40000))
    assert not layer.bias.any()
    for name, fusion in FUSIONS.items():
        head = fusion({"audio": 200, "visual": 200 if name == "shared" else 300}, 100)
        for linear in (module for module in head.modules() if isinstance(module, nn.Linear)):
            expected = math.sqrt(2 / (linear.in_features + linear.out_features))
            error = 4 / math.sqrt(2 * linear.weight.numel())
            assert linear.weight.std().item() == pytest.approx(expected, rel=error)
            assert not linear.bias.any()


def equal_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_an_encoder_starts_the_same_whatever_stands_beside_it():
    makers = {"audio": lambda: TinyEncoder(4), "visual": lambda: TinyEncoder(4)}
    both = build_model(makers, "concat", CLASSES, seed=3)
    turned = build_model(dict(reversed(makers.items())), "sum", CLASSES, seed=3)
    for name, make in makers.items():
        torch.rand(7)  # what was drawn before does not matter
        alone = build_model({name: make}, "concat", CLASSES, seed=3)
        assert equal_weights(alone.encoders[name], both.encoders[name])
        assert equal_weights(turned.encoders[name], both.encoders[name])
        other = build_model({name: make}, "concat", CLASSES, seed=4)
        assert not equal_weights(alone.encoders[name], other.encoders[name])
    assert not equal_weights(both.encoders["audio"], both.encoders["visual"])
    assert not equal_weights(both.fusion, build_model(makers, "concat", CLASSES, seed=4).fusion)
    # Nor does the head's start depend on what the encoders drew.
    assert equal_weights(both.fusion, build_model(dict(reversed(makers.items())), "concat", CLASSES, seed=3).fusion)


@pytest.mark.parametrize("unimodal_loss", ["none", "split", "heads"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_parameter_without_a_gradient(tiny_model, tiny_batch, make_args, fusion, unimodal_loss):
    model = tiny_model(fusion=fusion)
    method = Joint(make_args(unimodal_loss=unimodal_loss), model)
    model.double()
    method.backward(method.losses(method.forward(tiny_batch())))
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_heads_are_the_read_out_when_they_exist(tiny_model, tiny_batch, make_args):
    model, batch = tiny_model(), tiny_batch()
    split = Joint(make_args(unimodal_loss="split"), model).forward(batch).unimodal
    assert model.heads is None
    method = Joint(make_args(unimodal_loss="heads"), model)
    model.double()
    output = method.forward(batch)
    for name in PAIR:
        nn.init.normal_(model.heads[name].bias)
        assert not torch.allclose(output.unimodal[name], split[name])
    output = method.forward(batch)
    for name in PAIR:
        for i in range(len(batch)):
            same(output.unimodal[name][i], affine(model.heads[name], output.features[name][i]))
