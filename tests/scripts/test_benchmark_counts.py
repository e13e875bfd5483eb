"""What a step does, counted: every method leaves the host unasked, and InfoReg costs one backward pass and one copy."""

from functools import partial

import pytest
import torch
import torch.nn as nn
from helpers.acting import TAUGHT
from helpers.runs import SMALL, flags, save_teachers
from helpers.steps import host_reads

from dataset.demo import Demo
from engine import train
from methods import METHODS
from methods.inforeg import InfoRegMethod
from methods.joint import Joint
from scripts.benchmarks import runs, step
from scripts.benchmarks.counts import Operations, count, held_bytes
from scripts.benchmarks.naive import NaiveInfoReg
from utils.errors import CombinationError

WAITING = {
    "a number": lambda x: x.sum().item(),
    "a condition": lambda x: bool((x > 0).all()),
    "a number for Python": lambda x: 2.0 * float(x.sum()),
    "a mask as index": lambda x: x[x > 0],
    "a mask to be written": lambda x: x.clone().index_put_((x > 0,), torch.tensor(0.0)),
    "an index of no dimension": lambda x: x[x.argmax()],
    "places of what is not zero": lambda x: torch.where(x > 0),
    "a selection": lambda x: x.masked_select(x > 0),
    "distinct values": lambda x: x.unique(),
    "equality": lambda x: torch.equal(x, x.clone()),
    "as often as it says": lambda x: x.repeat_interleave(torch.ones(6, dtype=torch.long)),
}
GOING_ON = {
    "a largest number": lambda x: x.max() + x.argmax(),
    "numbers as index": lambda x: x[torch.tensor([1, 4])],
    "numbers as index to be written": lambda x: x.clone().index_put_((torch.tensor([1, 4]),), torch.tensor(0.0)),
    "a number of Python as index": lambda x: x[2],
    "what is taken": lambda x: x.take(x.argmax()),
    "a choice": lambda x: torch.where(x > 0, x, 0.0),
    "a whole list": lambda x: torch._foreach_mul([x, x], x.sum()),
}


@pytest.mark.parametrize("what", [*WAITING, *GOING_ON])
def test_what_the_host_waits_for(what):
    x = torch.arange(6.0) - 2
    with Operations() as operations:
        (WAITING | GOING_ON)[what](x)
    assert operations.count > 0 and (operations.host_reads > 0) == (what in WAITING)


def test_the_counts_of_a_step_by_hand():
    encoders = nn.ModuleDict({"a": nn.Sequential(nn.Identity(), nn.Linear(3, 4, bias=False)), "b": nn.Linear(2, 5)})
    x, y = torch.ones(7, 3), torch.ones(6, 2)

    def work():
        (encoders["a"](x).sum() + encoders["a"](x[:2]).sum()).backward()
        with torch.no_grad():
            encoders["b"](y)
        torch.autograd.grad(encoders["a"][1].weight.sum(), encoders["a"][1].weight)

    found = count(work, encoders)
    assert found.forward == {"a": 7 + 2, "b": 6} and found.backward == {"a": 7 + 2, "b": 0}
    assert found.backward_calls == 2 and found.host_reads == 0
    # Two for a multiplication and an addition; the backward pass of a is of its weight alone.
    assert found.flops == 2 * (2 * (7 + 2) * 3 * 4) + 2 * 6 * 2 * 5
    encoders.zero_grad()
    again = count(work, encoders)  # nothing is left of the first count
    assert again == found
    with Operations() as operations:
        work()
    assert found.operations == operations.count


def test_the_bytes_of_the_operands_by_hand():
    x, y = torch.ones(2, 3), torch.ones(4, 3)
    with Operations() as operations:
        product = x @ y.t().view(3, 4)  # looks at memory, which cost nothing
        product.add_(1)
        torch._foreach_mul_([x, y], 2)
    # A product reads 6 and 12 numbers and returns 8; the sum reads and returns 8; the list is read and not returned.
    assert operations.operand_bytes == 4 * ((6 + 12 + 8) + (8 + 8) + (6 + 12))


def test_the_bytes_that_are_held():
    module = nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    assert held_bytes(optimizer) == 400
    module(torch.ones(1, 10)).sum().backward()
    assert held_bytes(optimizer) == 800
    optimizer.step()
    assert held_bytes(optimizer) == 1200
    one = torch.zeros(5)
    assert held_bytes([one, one[:2], {"same": one.view(5, 1)}]) == 20

    def closure():
        return one

    assert held_bytes(closure) == held_bytes(partial(print, closure)) == 20
    assert held_bytes(held_bytes) == 0  # other than what the whole program holds


@pytest.mark.parametrize("name", METHODS)
def test_nobody_waits_for_the_device_in_a_step(demo, tmp_path, monkeypatch, name):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    withheld = ["--held_out", "0.17"]
    own = {"unimodal": ["--modality", "visual"], "gblending": withheld, "relearning": withheld}
    own = (own | {"mslr": ["--modality_lr", "audio=0.5"]}).get(name, [])
    if name in TAUGHT:
        own = ["--teachers", *save_teachers(tmp_path, SMALL)]
    run, method, batches = runs.prepare([*flags(demo, tmp_path), "--method", name, *own])
    totals = train.Totals()
    totals.add(*train.step(run, method, batches[0]))
    reads = host_reads(monkeypatch)
    with Operations() as operations:
        totals.add(*train.step(run, method, batches[1]))
    assert reads == [] and operations.host_reads == 0
    with Operations() as operations:
        totals.glance()
        method.on_epoch_end(run)
    assert reads or operations.host_reads  # the epoch's end does read, so the count counts


@pytest.fixture
def gauged(monkeypatch):
    """gauged(row, depth): of encoders with `depth` blocks, on random inputs; and the model."""

    def gauged(name, depth=2):
        def make(channels):
            encoder = SMALL["audio"].func(channels)
            more = [nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)) for _ in range(depth)]
            encoder.conv = nn.Sequential(encoder.conv, *more)
            return encoder

        monkeypatch.setattr(Demo, "encoders", lambda args: {"audio": partial(make, 1), "visual": partial(make, 3)})
        words = "--frames 1 --batch_size 6 --device cpu --workers 0".split()
        row, found = step.gauged(name, step.flags_of("demo", [name], words, None)[name], synthetic=True)
        return found, row.run.model

    return gauged


def size(module):
    return sum(p.numel() for p in module.parameters())


def more(one, base, model):
    """(operations, bytes by encoder parameter) beyond the bare step's."""
    return one.counts.operations - base.counts.operations, (one.held - base.held) / size(model.encoders)


def test_inforeg_is_one_backward_and_one_copy(gauged):
    (bare, model), (inforeg, _), (split, _) = gauged("bare"), gauged("inforeg"), gauged("inforeg_split")
    for found in (bare, inforeg, split):
        assert found.counts.backward_calls == 1 and found.counts.host_reads == 0
        assert found.counts.forward == found.counts.backward == {"audio": 6, "visual": 6}
    operations, copied = more(inforeg, bare, model)
    assert 0 < operations <= 65 and copied == pytest.approx(4, abs=0.1)
    assert more(split, bare, model)[1] == pytest.approx(4, abs=0.1)
    # However many layers there are: the lists of tensors are each one operation.
    deep, deep_bare = gauged("inforeg", depth=9)[0], gauged("bare", depth=9)[0]
    assert deep.counts.operations - deep_bare.counts.operations == operations


def test_the_naive_step_is_not(gauged):
    (bare, model), (naive, _), (split, _) = gauged("bare"), gauged("naive"), gauged("naive_split")
    # The joint loss and the leader's term; with the unimodal losses, each by itself.
    assert naive.counts.backward_calls == 2 and split.counts.backward_calls == 4
    assert naive.counts.backward == {"audio": 6, "visual": 6} and split.counts.backward == {"audio": 12, "visual": 12}
    assert min(naive.counts.host_reads, split.counts.host_reads) > 2 * 2 * 6  # score and label, sample by sample
    assert more(naive, bare, model)[0] > 5 * 65
    # The model of the epoch before and the gradients of each loss; each unimodal one is of one encoder and the head.
    encoders, head = size(model.encoders), size(model.fusion)
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert naive.held - bare.held == pytest.approx(8 * (encoders + head) + buffers, rel=0.02)
    assert split.held - naive.held == pytest.approx(4 * (encoders + 2 * head), rel=0.02)


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "text")], ids=len)
@pytest.mark.parametrize("unimodal_loss", ["none", "split", "heads"])
def test_the_naive_step_is_inforegs(tiny_model, tiny_run, tiny_batch, make_args, modalities, unimodal_loss):
    batches = [tiny_batch(modalities, seed=seed) for seed in range(3)]
    args = make_args(beta=0.9, start_epoch=0, modulate_during="all", precision="fp32", unimodal_loss=unimodal_loss)
    models, records = {}, {}
    for kind in (InfoRegMethod, Joint):
        models[kind] = tiny_model(modalities)
        method = kind(args, models[kind])
        run = tiny_run(models[kind].double(), args)  # the heads are not double yet
        method.on_fit_start(run)
        method.on_epoch_start(run)
        for batch in batches:
            train.step(run, method, batch)
        records[kind] = method.on_epoch_end(run)
    model = tiny_model(modalities)
    if unimodal_loss == "heads":
        model.add_heads()
        model.double()
    naive = NaiveInfoReg(tiny_run(model, args))
    for batch in batches:
        naive.step(batch)
    ours, joint = (models[kind].state_dict() for kind in (InfoRegMethod, Joint))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, ours[name], rtol=1e-12, atol=1e-12)
    assert max((value - joint[name]).abs().max() for name, value in ours.items() if value.ndim) > 1e-4
    assert sum(records[InfoRegMethod]["regulated"].values()) >= 1
    trace = {name: total / len(batches) for name, total in naive.trace.items()}
    assert trace == pytest.approx(records[InfoRegMethod]["fisher_trace"], rel=1e-12)


@pytest.mark.parametrize("flag, value", [("variant", "official"), ("regulation", "lr")])
def test_what_the_naive_step_is_not_for(tiny_model, tiny_run, make_args, flag, value):
    with pytest.raises(CombinationError, match="leave --variant and --regulation away"):
        NaiveInfoReg(tiny_run(tiny_model(), make_args(**{flag: value})))
