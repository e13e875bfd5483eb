"""The memory of a step: what is counted without any is what the allocator gives out, and what fits does fit."""

import copy

import pytest
import torch
from helpers.runs import SMALL, flags
from helpers.written import table_of
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from dataset.base import Batch
from dataset.demo import Demo
from engine.train import step
from inforeg.movement import Movement
from scripts import benchmark
from scripts.benchmarks import memory
from scripts.benchmarks.counts import held_bytes
from scripts.benchmarks.runs import prepare

SHAPES = {"audio": (1, 40, 40), "visual": (2, 3, 48, 48)}
SIZE = 16


@pytest.fixture
def ready(demo, tmp_path, monkeypatch):
    """ready(method): a run and its method before a step."""
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)

    def ready(name):
        run, method, _ = prepare([*flags(demo, tmp_path), "--method", name], synthetic=True)
        return run, method

    return ready


def given_out(work):
    """[bytes in use beyond those at the start, after each block that the allocator gives out or takes back]."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    found, events = [], list(profiled.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.typed[1].alloc_size))
    return torch.tensor([size for _, size in sorted(found)]).cumsum(0).tolist()


@pytest.mark.parametrize("name", ["joint", "inforeg", "agm"])
def test_counted_is_what_the_allocator_gives_out(ready, name):
    run, method = ready(name)
    held, peak = memory.count(run, method, SHAPES, SIZE)
    movement = Movement(run.model.encoders, run.optimizer)
    movement.start_epoch()
    numbers = torch.arange(SIZE) % 2
    batch = Batch({name: torch.randn(SIZE, *shape) for name, shape in SHAPES.items()}, numbers, numbers.clone())
    before = held_bytes([run, method, movement, batch])
    real = given_out(lambda: [step(run, method, batch, movement) for _ in range(2)])
    # Convolutions of a CPU take work space beside the tensors.
    assert peak <= before + max(real) <= 1.1 * peak
    assert held_bytes([run, method, movement]) == pytest.approx(held, rel=1e-3)


def test_counting_leaves_the_run_as_it_is(ready):
    run, method = ready("inforeg")
    before = copy.deepcopy(run.model.state_dict())
    memory.count(run, method, SHAPES, SIZE)
    torch.testing.assert_close(dict(run.model.state_dict()), dict(before), rtol=0, atol=0)
    assert all(p.grad is None for p in run.model.parameters()) and not method.trace.sums


@pytest.mark.parametrize("precision", memory.PRECISIONS)
def test_what_fits_fits_and_one_sample_more_does_not(ready, precision):
    run, method = ready("inforeg")
    peak = memory.peak_of(run, method, precision, SHAPES, SIZE)
    assert peak.fits(peak.peak) == SIZE and peak.fits(peak.held) == 0
    room = 5 * peak.peak
    most = peak.fits(room)
    counted = [memory.count(run, method, SHAPES, size)[1] for size in (most - 1, most + 2)]
    assert most > 2 * SIZE and counted[0] <= room < counted[1]


def test_memory_that_is_shared_or_given_back():
    x = torch.zeros(10)
    with memory.Alive([x, x[:3]]) as alive:
        y = torch.ones(20)
        z = (x + y[:10]).view(5, 2)
        assert alive.now == alive.most == 4 * (10 + 20 + 10)
        del y, z
        x.add_(1)
        assert alive.now == 40 and alive.most == 160


def test_the_table(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    words = flags(demo, tmp_path, "--batch_size", "12")[2:]
    joint, inforeg = table_of(benchmark.main(["memory", "--dataset", "demo", "--methods", "joint", "inforeg", *words]))
    assert (joint["method"], inforeg["method"]) == ("joint", "inforeg")
    for row in (joint, inforeg):
        full, half = (
            [int(size) for size in row[f"batch in 8 / 24 / 80 GB, {precision}"].split(" / ")]
            for precision in memory.PRECISIONS
        )
        assert 0 < full[0] < full[1] < full[2] and all(a < b for a, b in zip(full, half, strict=True))
    with pytest.raises(SystemExit):
        benchmark.main(["memory", "--dataset", "demo", "--precision", "bf16"])
    assert "--precision: both are counted" in capsys.readouterr().err
