"""A regulation in the midst of training, and what it is given."""

import math
from argparse import ArgumentParser

import torch
import torch.nn as nn
import torch.nn.functional as F

from inforeg.regulation import InfoReg
from methods.inforeg import InfoRegMethod

GROWING, CONSTANT = [1.0, 2.0], [2.0, 2.0]  # traces after which the next window is open, and closed


def logits_of(*true_class):
    """(B, 2) logits that give the true class, 0, these probabilities."""
    return torch.tensor([[math.log(p), math.log(1 - p)] for p in true_class], dtype=torch.float64)


# Mean log-probabilities: ln(.4)/2, ln(.5), ln(.1)/2. Sums of probabilities: 1.3, 1.0, 0.7.
EXAMPLE = {"audio": logits_of(0.8, 0.5), "visual": logits_of(0.5, 0.5), "text": logits_of(0.2, 0.5)}
TARGET = torch.zeros(2, dtype=torch.long)


def weights_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def linear_encoders(names=tuple(EXAMPLE)):
    """One linear layer per modality, with a gradient of zero."""
    encoders = nn.ModuleDict({name: nn.Linear(2, 2).double() for name in names})
    for p in encoders.parameters():
        p.grad = torch.zeros_like(p)
    return encoders


def begun(encoders, history=GROWING, **settings):
    """A regulation at the start of epoch 2, after the traces `history` in every modality or by modality."""
    regulation = InfoReg(encoders, **settings)
    by_name = history if isinstance(history, dict) else {name: history for name in encoders}
    regulation.trace.load_state_dict({"history": by_name})
    regulation.start_epoch()
    return regulation


def joint_step(model, batch, optimizer, extra=0.0, regulation=None):
    features = model.encode(batch.inputs)
    optimizer.zero_grad()
    (F.cross_entropy(model.fuse(features), batch.target) + extra).backward()
    if regulation is not None:
        regulation.step({name: z.detach() for name, z in model.unimodal(features).items()}, batch.target)
    optimizer.step()


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=1e-1),
}


def flags_of(variant):
    """The flags that `--method inforeg --variant ...` gives."""
    parser = ArgumentParser()
    InfoRegMethod.add_args(parser)
    chosen = parser.parse_args(["--variant", variant])
    return vars(chosen) | InfoRegMethod.defaults(chosen)
