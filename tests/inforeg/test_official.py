"""The official variant against a literal copy of the public code's rules."""

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers.regulated import (
    flags_of,
    linear_encoders,
    weights_of,
)

from inforeg.regulation import InfoReg
from methods.inforeg import InfoRegMethod


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
