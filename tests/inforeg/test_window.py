"""The Fisher trace against autograd, layer by layer, and the prime window on traces made for the purpose."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from inforeg.regulation import InfoReg
from inforeg.window import FisherTrace, PrimeWindow

K = 0.04


def batches_of(tiny_batch, count=3):
    return [tiny_batch(seed=seed) for seed in range(count)]


def accumulate(model, trace, batches):
    """One epoch of joint gradients at fixed weights, as the training loop shows them to the trace."""
    for batch in batches:
        model.zero_grad()
        F.cross_entropy(model.fuse(model.encode(batch.inputs)), batch.target).backward()
        trace.update()


def slow_gradients(model, name, batch):
    """{parameter name: gradient} of the joint loss, one autograd call per parameter."""
    return {
        parameter: torch.autograd.grad(F.cross_entropy(model.fuse(model.encode(batch.inputs)), batch.target), weight)[0]
        for parameter, weight in model.encoders[name].named_parameters()
    }


def test_paper_trace_is_the_mean_over_steps_of_the_squared_gradient_norm(tiny_model, tiny_batch):
    model, batches = tiny_model(), batches_of(tiny_batch)
    trace = FisherTrace(model.encoders)
    accumulate(model, trace, batches)
    measured = trace.end_epoch()
    for name in model.modalities:
        norms = [sum(float((g**2).sum()) for g in slow_gradients(model, name, batch).values()) for batch in batches]
        assert min(norms) > 0
        assert measured[name] == pytest.approx(sum(norms) / 3, rel=1e-12)
    assert trace.history == {name: [value] for name, value in measured.items()}


def test_official_trace_sums_steps_averages_elements_and_knows_weights_only(tiny_model, tiny_batch):
    model, batches = tiny_model(), batches_of(tiny_batch)
    trace = FisherTrace(model.encoders, "official")
    accumulate(model, trace, batches)
    measured = trace.end_epoch()
    for name in model.modalities:
        expected = 0.0
        for weight in ("conv.weight", "linear.weight"):
            squares = sum(slow_gradients(model, name, batch)[weight] ** 2 for batch in batches)
            expected += float(squares.mean())
        assert measured[name] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "variant, traced", [("paper", None), ("official", {"conv.weight", "linear.weight"})], ids=["paper", "official"]
)
def test_gradient_norm_is_the_mean_over_steps_of_the_norm_over_the_traced_parameters(
    tiny_model, tiny_batch, variant, traced
):
    model, batches = tiny_model(), batches_of(tiny_batch)
    trace = FisherTrace(model.encoders, variant)
    for _ in range(2):  # the second epoch starts from zero
        accumulate(model, trace, batches)
        trace.end_epoch()
    for name in model.modalities:
        norms = [
            torch.cat(
                [g.flatten() for key, g in slow_gradients(model, name, batch).items() if not traced or key in traced]
            )
            .norm()
            .item()
            for batch in batches
        ]
        assert len(set(norms)) == 3  # so their mean is not the root of the mean square
        assert trace.gradient_norm[name] == pytest.approx(sum(norms) / 3, rel=1e-12)
    model.requires_grad_(False)
    for weight in model.encoders["visual"].parameters():
        weight.grad = None
    trace.update()
    trace.end_epoch()
    assert trace.gradient_norm["visual"] == 0 < trace.gradient_norm["audio"]


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_each_epoch_starts_from_zero(tiny_model, tiny_batch, variant):
    model, batches = tiny_model(), batches_of(tiny_batch)
    trace = FisherTrace(model.encoders, variant)
    accumulate(model, trace, batches)
    first = trace.end_epoch()
    accumulate(model, trace, batches)
    second = trace.end_epoch()
    assert second == pytest.approx(first, rel=1e-12)
    assert trace.history["audio"] == [first["audio"], second["audio"]]


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_frozen_encoder_acquires_nothing(tiny_model, tiny_batch, variant):
    model = tiny_model()
    model.encoders["visual"].requires_grad_(False)
    trace = FisherTrace(model.encoders, variant)
    accumulate(model, trace, batches_of(tiny_batch))
    measured = trace.end_epoch()
    assert measured["visual"] == 0
    assert measured["audio"] > 0


def test_epoch_without_a_step_raises(tiny_model, tiny_batch):
    model = tiny_model()
    trace = FisherTrace(model.encoders)
    with pytest.raises(ValueError, match="without a step"):
        trace.end_epoch()
    accumulate(model, trace, batches_of(tiny_batch))
    trace.end_epoch()
    with pytest.raises(ValueError, match="without a step"):
        trace.end_epoch()


def first_epoch(model, batches, **settings):
    """(traces, final audio weights) of one epoch of joint training under the regulation."""
    regulation = InfoReg(model.encoders, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    regulation.start_epoch()
    for batch in batches:
        features = model.encode(batch.inputs)
        optimizer.zero_grad()
        F.cross_entropy(model.fuse(features), batch.target).backward()
        regulation.step(model.unimodal(features), batch.target)
        optimizer.step()
    return regulation.end_epoch()["fisher_trace"], torch.cat([w.flatten() for w in model.encoders.parameters()])


def test_trace_of_the_first_epoch_does_not_change_with_beta(tiny_model, tiny_batch):
    batches = batches_of(tiny_batch, 4)
    (low, weights), (high, same) = (first_epoch(tiny_model(), batches, beta=beta) for beta in (0.1, 5.0))
    assert low == high
    assert torch.equal(weights, same)


def test_trace_is_of_the_loss_alone_even_while_the_encoder_is_regulated(tiny_model, tiny_batch):
    # In the first step of an epoch the pull is zero, so the second is the first that sees it; its gradient is still
    # taken at the same weights whatever beta is. The official trace, measured after the pull, must tell them apart.
    batches = batches_of(tiny_batch, 2)
    open_window = dict(start_epoch=0, during="all")
    (low, weights), (high, other) = (first_epoch(tiny_model(), batches, beta=b, **open_window) for b in (0.1, 5.0))
    assert low == high
    assert not torch.allclose(weights, other)
    (low, _), (high, _) = (first_epoch(tiny_model(), batches, beta=b, variant="official") for b in (0.1, 5.0))
    assert low != high


def open_at_every_epoch(traces, **settings):
    """Whether the window is open in epochs 0, 1, ..., len(traces), each decided from the traces before it."""
    history = {"audio": []}
    window = PrimeWindow(history, **settings)
    states = [window.is_open("audio")]
    for trace in traces:
        history["audio"].append(trace)
        states.append(window.is_open("audio"))
    return states


@pytest.mark.parametrize("smoothing", [1, 10])
def test_constant_trace_closes_the_window_and_growth_opens_it(smoothing):
    assert not any(open_at_every_epoch([2.0] * 25, threshold=K, smoothing=smoothing))
    growing = open_at_every_epoch([1.5**t for t in range(25)], threshold=K, smoothing=smoothing)
    assert growing == [False, False] + [True] * 24
    assert not any(open_at_every_epoch([0.5**t for t in range(25)], threshold=K, smoothing=smoothing))


def test_threshold_without_smoothing():
    # (1 - old) / 1 = K where old = 1 - K: the change is relative to the newer trace.
    assert open_at_every_epoch([1 - K - 1e-9, 1.0], threshold=K)[-1]
    assert not open_at_every_epoch([1 - K + 1e-9, 1.0], threshold=K)[-1]
    assert PrimeWindow({"audio": [3.0, 4.0]}).change("audio") == 0.25
    assert PrimeWindow({"audio": [4.0, 2.0]}).change("audio") == -1.0
    assert not PrimeWindow({"audio": [3.0, 4.0]}, threshold=0.25).is_open("audio")  # strictly above


def test_threshold_with_smoothing():
    # Ten ones and then x: the means are 1 and (9 + x) / 10, so that the change is K for x = (1 + 9K) / (1 - K).
    x = (1 + 9 * K) / (1 - K)
    assert open_at_every_epoch([1.0] * 10 + [x + 1e-9], threshold=K, smoothing=10)[-1]
    assert not open_at_every_epoch([1.0] * 10 + [x - 1e-9], threshold=K, smoothing=10)[-1]
    # An older trace has left both means.
    assert open_at_every_epoch([99.0] + [1.0] * 10 + [x + 1e-9], threshold=K, smoothing=10)[-1]


def test_start_epoch():
    growing = [2.0**t for t in range(6)]
    assert open_at_every_epoch(growing, start_epoch=4) == [False] * 4 + [True] * 3
    # Two traces are needed however early the start.
    assert open_at_every_epoch(growing, start_epoch=0) == [False] * 2 + [True] * 5


def test_zero_trace():
    assert PrimeWindow({"audio": [0.0, 0.0]}).change("audio") == 0.0
    assert PrimeWindow({"audio": [1.0, 0.0]}).change("audio") == 0.0
    assert PrimeWindow({"audio": [0.0, 1.0]}).change("audio") == 1.0
    assert not any(open_at_every_epoch([0.0] * 5))
    assert PrimeWindow({"audio": [0.0]}, rule="official").change("audio") == 0.0


def test_paper_window_is_of_the_modality_itself():
    for audio in ([1.0, 2.0], [2.0, 1.0]):
        for visual in ([1.0, 2.0], [2.0, 1.0]):
            window = PrimeWindow({"audio": audio, "visual": visual})
            assert window.is_open("audio") == (audio == [1.0, 2.0])
            assert window.is_open("visual") == (visual == [1.0, 2.0])


OFFICIAL = dict(rule="official", smoothing=10, threshold=0.05, start_epoch=0)


def test_official_padding_keeps_a_constant_trace_open_for_eleven_epochs():
    assert open_at_every_epoch([3.0] * 20, **OFFICIAL) == [True] * 11 + [False] * 10
    window = PrimeWindow({"audio": [3.0] * 4}, **OFFICIAL)
    assert window.change("audio") == pytest.approx(1 / 4)
    assert PrimeWindow({"audio": []}, **OFFICIAL).change("audio") == 1


def test_official_change_is_that_of_a_list_begun_with_ten_zeros():
    traces = torch.rand(25, generator=torch.Generator().manual_seed(0)).tolist()
    padded, history = [0.0] * 10, {"audio": [], "visual": []}
    window = PrimeWindow(history, **OFFICIAL)
    for epoch, trace in enumerate(traces):
        if epoch == 0:
            expected = 1.0
        else:
            newest, before = sum(padded[-10:]) / 10, sum(padded[-11:-1]) / 10
            expected = (newest - before) / newest
        assert window.change("audio") == pytest.approx(expected, rel=1e-12)
        assert window.change("visual") == window.change("audio")
        padded.append(trace)
        history["audio"].append(trace)
        history["visual"].append(trace**2)


def test_padding_does_not_enter_the_paper_variant():
    settings = OFFICIAL | {"rule": "paper"}
    assert not any(open_at_every_epoch([3.0] * 20, **settings))
    window = PrimeWindow({"audio": [1.0, 2.0]}, **settings)
    assert window.change("audio") == pytest.approx((1.5 - 1.0) / 1.5)
    assert PrimeWindow({"audio": [1.0]}, **settings).change("audio") is None
    assert PrimeWindow({"audio": []}, **settings).change("audio") is None


def test_first_modality_decides_for_all_in_the_official_variant():
    grows, falls = [1.0] * 10 + [9.0], [1.0] * 10 + [0.1]
    window = PrimeWindow({"audio": grows, "visual": falls, "text": falls}, **OFFICIAL)
    assert all(window.is_open(name) for name in ("audio", "visual", "text"))
    window = PrimeWindow({"audio": falls, "visual": grows, "text": grows}, **OFFICIAL)
    assert not any(window.is_open(name) for name in ("audio", "visual", "text"))


ACCUMULATED = dict(rule="accumulated", threshold=0.05)


def closes(states):
    """The first epoch after the window's opening in which it is closed; it must not open again."""
    opened, closed = states.index(True), states.index(False, 1)
    assert not any(states[closed:])
    return opened, closed


def test_an_accumulated_window_closes_after_one_over_k_epochs_of_a_constant_trace():
    # Open while 1/t > K: from epoch 1, before which no trace is known, to the last t below 1/K.
    assert closes(open_at_every_epoch([3.0] * 40, **ACCUMULATED)) == (1, 20)
    assert closes(open_at_every_epoch([7.0] * 40, rule="accumulated")) == (1, 10)  # K 0.1


def test_an_accumulated_window_closes_sooner_where_the_trace_falls_and_later_where_it_rises():
    # A trace r^t: r^(t-1) (1 - r) / (1 - r^t) falls below K; one that doubles adds more than half for ever.
    falling = closes(open_at_every_epoch([0.8**t for t in range(40)], **ACCUMULATED))
    shares = [0.8 ** (t - 1) * 0.2 / (1 - 0.8**t) for t in range(1, 41)]
    assert falling == (1, 1 + next(i for i, share in enumerate(shares) if share <= 0.05)) == (1, 9)
    assert open_at_every_epoch([2.0**t for t in range(40)], **ACCUMULATED) == [False] + [True] * 40
    rising = closes(open_at_every_epoch([1.0 + t for t in range(60)], **ACCUMULATED))
    assert rising == (1, 39)  # t / (t (t + 1) / 2) = 2 / (t + 1) > 0.05 up to t = 38


def test_noise_moves_the_end_of_an_accumulated_window_little_and_the_papers_window_at_random():
    noise = torch.rand(60, generator=torch.Generator().manual_seed(0)).tolist()
    noisy = [3.0 + 2 * x for x in noise]
    accumulated = open_at_every_epoch(noisy, **ACCUMULATED)
    assert abs(sum(accumulated) - 19) <= 4 and not any(accumulated[25:])
    assert sum(open_at_every_epoch(noisy, threshold=0.04)[25:]) > 10


def test_an_accumulated_window_is_the_public_codes_for_ten_epochs_of_the_first_modality():
    traces = torch.rand(25, generator=torch.Generator().manual_seed(0)).tolist()
    ours, public = {"audio": []}, {"audio": [], "visual": []}
    accumulated, official = PrimeWindow(ours, **ACCUMULATED), PrimeWindow(public, **OFFICIAL)
    differ = []
    for epoch, trace in enumerate(traces):
        for history in (ours, public):
            for values in history.values():
                values.append(trace)
        same = accumulated.change("audio") == pytest.approx(official.change("audio"), rel=1e-12)
        differ += [] if same else [epoch + 1]
    assert differ and min(differ) == 11


def test_an_accumulated_window_is_of_the_modality_itself_and_of_any_number_of_them():
    history = {"audio": [1.0] * 12, "visual": [1.0] * 11 + [9.0], "text": [0.0] * 12}
    window = PrimeWindow(history, rule="accumulated")
    assert [window.is_open(name) for name in history] == [False, True, False]
    assert window.change("visual") == pytest.approx(9 / 20)
    assert window.change("text") == 0.0


def test_an_accumulated_window_takes_no_smoothing_and_no_unknown_rule():
    with pytest.raises(ValueError, match="no smoothing"):
        PrimeWindow({"audio": []}, rule="accumulated", smoothing=3)
    with pytest.raises(ValueError, match="accumulate"):
        PrimeWindow({"audio": []}, rule="sum")


def test_traces_of_a_few_steps_are_means_over_them_and_the_epochs_trace_is_what_it_was(tiny_model, tiny_batch):
    model, batches = tiny_model(), batches_of(tiny_batch, 5)
    whole, parts = FisherTrace(model.encoders), FisherTrace(model.encoders, every=2)
    window = PrimeWindow(parts.periods, 0.3, rule="accumulated")
    for _ in range(2):
        accumulate(model, whole, batches)
        accumulate(model, parts, batches)
        record = window.record(parts.first_period)
        assert parts.end_epoch() == pytest.approx(whole.end_epoch(), rel=1e-12)
        assert parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-12)
    squares = [sum(float((g**2).sum()) for g in slow_gradients(model, "audio", b).values()) for b in batches]
    periods = [(squares[0] + squares[1]) / 2, (squares[2] + squares[3]) / 2, squares[4]] * 2
    assert parts.periods["audio"] == pytest.approx(periods, rel=1e-12)
    # The record's share is that of the second epoch's three decisions, before steps 0, 2 and 4.
    shares = [periods[t - 1] / sum(periods[:t]) for t in (3, 4, 5)]
    assert record["prime_window"]["audio"] == sum(share > 0.3 for share in shares) / 3
    assert record["relative_change"]["audio"] == pytest.approx(shares[-1], rel=1e-12)


def test_admits_and_record():
    window = PrimeWindow({"audio": [1.0, 2.0], "visual": [2.0, 1.0]})
    admitted = {
        during: [window.admits(m, during) for m in ("audio", "visual")] for during in ("prime", "all", "outside")
    }
    assert admitted == {"prime": [True, False], "all": [True, True], "outside": [False, True]}
    assert window.record() == {
        "relative_change": {"audio": 0.5, "visual": -1.0},
        "prime_window": {"audio": True, "visual": False},
    }


def test_state_round_trip_reaches_a_window_made_before():
    encoders = {"audio": nn.Linear(1, 1), "visual": nn.Linear(1, 1)}
    saved = FisherTrace(encoders)
    saved.history["audio"] += [1.0, 2.0]
    saved.history["visual"] += [2.0, 1.0]
    state = saved.state_dict()
    saved.history["audio"].append(9.0)  # a state is a copy: what follows must not change it
    trace = FisherTrace(encoders)
    window = PrimeWindow(trace.history)
    trace.load_state_dict(state)
    assert trace.history == {"audio": [1.0, 2.0], "visual": [2.0, 1.0]}
    assert (window.epoch, window.is_open("audio"), window.is_open("visual")) == (2, True, False)
    trace.update()
    trace.end_epoch()
    assert window.epoch == 3
    assert state["history"]["audio"] == [1.0, 2.0]
