"""The learning rate over the epochs: --schedule and --lr_warmup."""

import math
from argparse import Namespace

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR


def make_schedule(optimizer: Optimizer, args: Namespace) -> LRScheduler:
    """The schedule that `args` names; its `step` is called at the end of every epoch."""
    if args.schedule == "step" and not args.lr_warmup:
        return StepLR(optimizer, args.lr_step, args.lr_gamma)
    return LambdaLR(optimizer, lambda epoch: factor(args, epoch))


def factor(args: Namespace, epoch: int) -> float:
    """What the learning rate is multiplied by in `epoch` (from 0), by the schedule's formula:

        step      lr_gamma ^ floor(epoch / lr_step)
        cosine    (1 + cos(pi epoch / epochs)) / 2, as in SGDR (Loshchilov and Hutter, ICLR 2017) without restarts
        constant  1

    and in the first `lr_warmup` epochs also by (epoch + 1) / (lr_warmup + 1), which rises linearly to 1.
    """
    warm = min(1.0, (epoch + 1) / (args.lr_warmup + 1))
    if args.schedule == "cosine":
        return warm * (1 + math.cos(math.pi * epoch / args.epochs)) / 2
    return warm * (args.lr_gamma ** (epoch // args.lr_step) if args.schedule == "step" else 1.0)
