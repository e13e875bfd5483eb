"""One step of a method by hand, and what can be asked of any method's steps."""

import copy

import torch

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")


def step(method, batch):
    """The loop's calls up to the optimizer's step; returns the output and the losses."""
    method.model.train()
    output = method.forward(batch)
    losses = method.losses(output)
    method.model.zero_grad()
    method.backward(losses)
    method.after_backward(output)
    return output, losses


def one_step(method, batch):
    """The gradients that the optimizer would see."""
    step(method, batch)
    return gradients(method.model)


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_same_gradients(found, expected, rtol=1e-9, atol=1e-12):
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def assert_resumes_exactly(make, train, epochs):
    """`make()` gives a new method with its model; a stop after each epoch must change nothing."""
    straight, parts = make(), make()
    train(straight, sgd(straight.model), epochs)
    states = None
    for epoch in epochs:
        parts = make()
        optimizer = sgd(parts.model)
        if states:
            parts.model.load_state_dict(states[0])
            parts.load_state_dict(states[1])
            optimizer.load_state_dict(states[2])
        train(parts, optimizer, [epoch])
        states = copy.deepcopy((parts.model.state_dict(), parts.state_dict(), optimizer.state_dict()))
    assert all(torch.equal(value, states[0][name]) for name, value in straight.model.state_dict().items())
    assert straight.trace.history == parts.trace.history


def same_state(one, other):
    """Whether two states are the same bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_state, one, other))
    return one == other


def assert_evaluates_as_the_model(method, batch):
    """In evaluation the method is the model and leaves it, and itself, as they are."""
    before = copy.deepcopy((method.model.state_dict(), method.state_dict()))
    method.model.eval()
    with torch.no_grad():
        output = method.forward(batch)
        features = method.model.encode(batch.inputs)
        expected = {"joint": method.model.fuse(features)} | method.model.unimodal(features)
    found = {"joint": output.logits} | output.unimodal
    assert all(torch.equal(found[name], logits) for name, logits in expected.items())
    assert not method.model.training
    assert same_state((method.model.state_dict(), method.state_dict()), before)


def host_reads(monkeypatch):
    """A list that grows with every read of a tensor by the host."""
    reads = []
    for name in READS:
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *a, _real=real, _name=name, **k: reads.append(_name) or _real(self, *a, **k),
        )
    return reads


def count_samples(encoders):
    """{modality: [batch size of each forward]} from now on."""
    sizes = {name: [] for name in encoders}
    for name, encoder in encoders.items():
        encoder.register_forward_hook(lambda module, args, output, name=name: sizes[name].append(len(args[0])))
    return sizes


def count_backwards(monkeypatch):
    """Counts of the calls into autograd's engine; torch.Tensor.backward goes through `backward`."""
    counts = {"backward": 0, "grad": 0}
    for name in counts:
        real = getattr(torch.autograd, name)

        def counted(*args, _real=real, _name=name, **kwargs):
            counts[_name] += 1
            return _real(*args, **kwargs)

        monkeypatch.setattr(torch.autograd, name, counted)
    return counts


def follow_gradients(encoders):
    """{modality: how often a gradient has come back to one of its forwards} from now on."""
    counts = dict.fromkeys(encoders, 0)

    def count(name):
        counts[name] += 1

    def watch(name):
        def hook(module, args, output):
            if output.requires_grad:
                output.register_hook(lambda grad: count(name))

        return hook

    for name, encoder in encoders.items():
        encoder.register_forward_hook(watch(name))
    return counts
