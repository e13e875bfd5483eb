"""The set-up of a run: the method with its model, the device, the optimizer."""

import os
import sys

import torch

from dataset import DATASETS
from methods import METHODS
from methods.base import Method
from models.multimodal import MultimodalModel, build_model, place
from utils.distributed.gradients import share_gradients
from utils.distributed.norm import synchronise_batch_norm
from utils.errors import CombinationError, RunError


def make_method(args) -> Method:
    """Build the method that `args` names, with its model, both as they are before the first step.

    Raises:
        CombinationError: if the method, the fusion and the modalities do not go together.
    """
    source, method = DATASETS[args.dataset], METHODS[args.method]
    available = source.encoders(args)
    encoders = {name: available[name] for name in method.modalities(args, tuple(available))}
    try:
        return method(args, build_model(encoders, args.fusion, len(source.class_names(args)), args.seed))
    except ValueError as error:
        raise CombinationError(str(error)) from None


def choose_device(args) -> torch.device:
    """The device that --device names, and that this process of several trains on.

    Raises:
        RunError: if CUDA is asked for and there is none.
    """
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if args.device == "cuda" and device.type == "cpu":
        raise RunError("--device cuda: PyTorch finds no CUDA device; use --device cpu or auto")
    if args.precision == "bf16" and device.type == "cpu":
        print("warning: --precision bf16 is slow on a CPU without bf16 instructions", file=sys.stderr)
    return device


def make_ready(args, model: MultimodalModel, device: torch.device) -> None:
    """Make a model that has been built ready to train: on its device, over the processes, with --compile."""
    if args.sync_bn:
        synchronise_batch_norm(model)
    place(model, device)
    share_gradients(model.encoders, model.exchange)
    if args.compile:
        for encoder in model.encoders.values():
            encoder.compile(dynamic=False)


def make_optimizer(args, model: MultimodalModel) -> torch.optim.Optimizer:
    """The optimizer of all parameters; those of the encoders have --encoder_lr_factor times the learning rate."""
    encoders = list(model.encoders.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("encoders.")]
    parameters = [{"params": others}, {"params": encoders, "lr": args.encoder_lr_factor * args.lr}]
    if args.optimizer == "sgd":
        return torch.optim.SGD(parameters, args.lr, args.momentum, weight_decay=args.weight_decay, fused=True)
    return torch.optim.AdamW(parameters, args.lr, weight_decay=args.weight_decay, fused=True)
