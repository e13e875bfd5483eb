"""The public code's OGM coefficients, written out."""

import copy
import math

import torch


def score(*values):
    return torch.tensor(values, dtype=torch.float64)


def literal_coefficients(model, batch, alpha):
    """k of two modalities from the public code's rule, sample by sample."""
    with torch.no_grad():
        read_out = copy.deepcopy(model).unimodal(copy.deepcopy(model).train().encode(batch.inputs))
    sums = {name: sum(z[i].softmax(0)[y].item() for i, y in enumerate(batch.target)) for name, z in read_out.items()}
    leader, other = sorted(sums, key=sums.get, reverse=True)
    assert sums[leader] > sums[other]
    return {leader: 1 - math.tanh(alpha * sums[leader] / sums[other]), other: 1.0}
