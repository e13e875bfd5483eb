"""Sums over two processes, in buckets, against each process's gradients computed by itself and added up."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn

from utils.distributed.gradients import SIZE, Buckets


class Net(nn.Module):
    """Every kind of parameter that can come in the way of a view: channels_last, two with one gradient, one unused."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.one, self.other = (nn.Parameter(torch.randn(4)) for _ in range(2))  # their sum hands one gradient to both
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(4))
        self.out = nn.Linear(4, 2)
        self.double()

    def forward(self, x):
        return self.out(self.conv(x).mean((2, 3)) * (self.one + self.other) + self.frozen).square().sum()


def batch(number, step=0):
    generator = torch.Generator().manual_seed(10 * step + number)
    return torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)


def wanted(step=0):
    """{name: the sum of both processes' gradients}"""
    net = Net()
    sum(net(batch(number, step)) for number in range(2)).backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def close(found, expected):
    assert found.keys() == expected.keys() and len(found) == 6
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def grads(net):
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def works(rank, place, size):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    net, calls, all_reduce = Net(), [], dist.all_reduce
    dist.all_reduce = lambda *args, **more: calls.append(args) or all_reduce(*args, **more)
    untouched = copy.deepcopy(net)
    Buckets(net.parameters(), size)

    net(batch(rank)).backward()
    close(grads(net), wanted())
    assert all(p.grad.stride() == p.stride() for p in net.parameters() if p.grad is not None)
    assert len(calls) == (1 if size == SIZE else 6)
    assert len({grad.untyped_storage().data_ptr() for grad in grads(net).values()}) == len(calls)  # nothing was copied

    held = grads(net)
    net(batch(rank, step=1)).backward()  # onto what is there, in place
    both = {name: value + wanted(1)[name] for name, value in wanted().items()}
    close(grads(net), both)
    close(held, both)

    net.zero_grad(set_to_none=False)
    net(batch(rank)).backward()
    close(grads(net), wanted())

    net.zero_grad()
    names = [name for name in wanted() if name != "out.bias"]
    asked = [net.get_parameter(name) for name in names]
    loss = net(batch(rank))
    for _ in range(2):  # a second pass does not change what the first one gave
        found = torch.autograd.grad(loss, asked, retain_graph=True)
        for name, grad in zip(names, found, strict=True):
            torch.testing.assert_close(grad, wanted()[name], rtol=1e-12, atol=1e-12)
    assert not grads(net)
    loss.backward()
    close(grads(net), wanted())

    net.zero_grad()
    kept = {}  # whoever holds a gradient makes autograd copy it
    net.conv.weight.register_hook(lambda grad: kept.update(weight=grad))
    net(batch(rank)).backward()
    close(grads(net), wanted())

    untouched(batch(rank)).backward()
    with pytest.raises(AssertionError):
        close(grads(untouched), wanted())
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [SIZE, 8])
def test_gradients_are_sums_however_they_are_asked_for(tmp_path, size):
    mp.start_processes(works, (str(tmp_path / "meet"), size), nprocs=2, start_method="fork")
