"""The set-up of a run: the method with its model, the device, the optimizer."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dataset import DATASETS
from dataset.base import Splits, targets_of
from methods import method_of
from methods.base import Method
from models.multimodal import Encoders, build_model, place
from models.weights import load_weights
from utils.distributed.gradients import share_gradients
from utils.distributed.norm import synchronise_batch_norm
from utils.distributed.processes import barrier
from utils.errors import CombinationError, RunError
from utils.runs.checkpoint import load_model
from utils.runs.folder import RunFolder


def make_method(args, classes: int | None = None) -> Method:
    """Build the method that `args` names, with its model, both as they are before the first step.

    `classes` is how many there are, where the data set need not be asked.

    Raises:
        CombinationError: if the method, the fusion and the modalities do not go together.
    """
    source, method = DATASETS[args.dataset], method_of(args.method)
    available = source.encoders(args)
    encoders = {name: available[name] for name in method.modalities(args, tuple(available))}
    classes = classes or len(source.class_names(args))
    try:
        model = build_model(encoders, args.fusion, classes, args.seed)
        start(args, model, tuple(available))
        made = method(args, model)
        model.parts = args.accumulate
        if model.parts > 1 and model.exchange is not None:
            raise ValueError(
                f"--accumulate is not defined for {args.method}: its encoders gate one another by means over the batch"
            )
        return made
    except ValueError as error:
        raise CombinationError(str(error)) from None


def start(args, model: Encoders, available: tuple[str, ...]) -> None:
    """Give encoders the weights of --weights, and freeze those of --freeze, before the method looks at the model.

    What is named of `available`, the modalities of the data set, and not in the model, as that of a unimodal one, does
    nothing; so it is with --modality_lr.

    Raises:
        ValueError: for a modality that the data set does not have, or one whose weights or factor are named twice;
            RunError: for weights that do not fit.
    """
    files: dict[str, Path] = {}
    for name, path in (word.split("=", 1) for word in args.weights or ()):
        if name in files:
            raise ValueError(f"--weights {name} is given twice: {files[name]} and {path}")
        files[name] = Path(path).expanduser()
    factors = lr_factors(args)
    for flag, names in (("weights", files), ("freeze", args.freeze or ()), ("modality_lr", factors)):
        if strange := [name for name in names if name not in available]:
            raise ValueError(f"--{flag} {strange[0]}: {args.dataset} has {', '.join(available)}")
    for name in model.modalities:
        if name in files:
            sha256, left_out = load_weights(model.encoders[name], name, files[name])
            model.started_from[name] = sha256
            without = f", without its classifier ({', '.join(left_out)})" if left_out else ""
            print(f"the encoder of {name} starts from {files[name]}, sha256 {sha256[:16]}...{without}")
    model.freeze(args.freeze or ())


def remake_method(args, state: dict, path: Path, device: torch.device) -> Method:
    """The method of a checkpoint at `path` with its trained model on `device`, where it only predicts.

    `args` are the run's, with other places maybe; `state` is the checkpoint's content.

    Raises:
        RunError: if the weights are those of another model, or the method is not registered.
    """
    if method_of(args.method) is None:
        raise RunError(f"{path} is of --method {args.method}, which is not registered (docs/EXTENDING.md)")
    args.weights = None  # the checkpoint has them all
    for flag in ("modality_lr", "train_list"):  # which runs from before there were these flags do not have
        vars(args).setdefault(flag, None)
    method = make_method(method_of(args.method).to_predict(args), len(state["classes"]))
    load_model(method.model, state, path)
    place(method.model, device)
    return method


def in_folder(method: Method, data: Mapping[str, str | None] | None, train: Callable[[RunFolder], dict]) -> dict:
    """Hold the folder of the method's run while `train(folder)` works in it; what result.json of the run holds.

    A run that is done is not trained again. `data` are the checksums of what it reads.

    Raises:
        RunError: if the folder holds a run that this one cannot go on with; InUseError if another process is at it.
    """
    folder = RunFolder(method.args)
    folder.check_data(data)
    folder.check_weights(method.model.started_from)
    check_longer(method, folder)
    barrier()  # nobody has written yet
    with folder.hold():
        if folder.done:
            print(f"already done: {folder.path}")
            return folder.result
        return train(folder)


def check_longer(method: Method, folder: RunFolder) -> None:
    """See that the folder's run is how a longer one begins, if it is to go on beyond its epochs.

    Raises:
        RunError: if not.
    """
    if folder.shorter and (reason := method.bound_to(folder.shorter)):
        raise RunError(
            f"{folder.path} holds a run of {folder.shorter} epochs, which no longer one goes on from ({reason}): "
            "choose --tag"
        )


def choose_device(args) -> torch.device:
    """The device that --device names, and that this process of several trains on.

    Raises:
        RunError: if CUDA is asked for and there is none.
    """
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if args.device == "cuda" and device.type == "cpu":
        raise RunError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    if args.precision == "bf16" and device.type == "cpu":
        print(
            "warning: --precision bf16 is for GPUs; on a CPU it is slow without bf16 instructions, and gradients of "
            "3-D convolutions (--encoder convnet on frames) may be NaN (docs/PERFORMANCE.md)",
            file=sys.stderr,
        )
    return device


def make_ready(args, model: Encoders, device: torch.device) -> None:
    """Make a model that has been built ready to train: on its device, over the processes, with --compile."""
    if args.sync_bn:
        synchronise_batch_norm(model)
    place(model, device)
    share_gradients(model.encoders, model.exchange)
    if args.compile:
        for encoder in model.encoders.values():
            encoder.compile(dynamic=False)


def balanced_weights(targets: Sequence[int], classes: int) -> Tensor:
    """(C,) N / (C n_c) of a training split of N samples, n_c of class c, as scikit-learn's `balanced`.

    A class without a sample has the weight of one with a single sample; no loss asks for it.
    """
    return len(targets) / (classes * torch.tensor(targets).bincount(minlength=classes).clamp(min=1))


def suit(args, method: Method, splits: Splits, device: torch.device) -> None:
    """Give the method what flags say of the splits: the weights of --class_weights.

    Raises:
        CombinationError: for --patience without a validation split.
    """
    if args.patience and splits.val is None:
        raise CombinationError("--patience needs a validation split, and there is none: add --val_fraction 0.1")
    if getattr(args, "class_weights", None) == "balanced":
        weights = balanced_weights(targets_of(splits.train), len(splits.classes))
        method.class_weights = weights.to(device, next(method.model.parameters()).dtype)


def lr_factors(args) -> dict[str, float]:
    """{modality: factor} of --modality_lr.

    Raises:
        ValueError: for a modality that is named twice.
    """
    pairs = [word.split("=") for word in args.modality_lr or ()]
    factors = {name: float(factor) for name, factor in pairs}
    for name, factor in pairs:
        if factors[name] != float(factor):
            raise ValueError(f"--modality_lr {name} is given twice: {factor} and {factors[name]}")
    return factors


def make_optimizer(args, model: Encoders) -> torch.optim.Optimizer:
    """The optimizer of all parameters that learn.

    An encoder's learning rate is --encoder_lr_factor and its factor of --modality_lr times --lr; encoders with the same
    rate are one group, which follows that of all other parameters.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = [{"params": [p for name, p in trained.items() if not name.startswith("encoders.")]}]
    factors = dict.fromkeys(model.encoders, 1.0) | lr_factors(args)
    for factor in dict.fromkeys(factors[name] for name in model.encoders):
        alike = tuple(f"encoders.{name}." for name in model.encoders if factors[name] == factor)
        encoders = [p for name, p in trained.items() if name.startswith(alike)]
        parameters.append({"params": encoders, "lr": factor * args.encoder_lr_factor * args.lr})
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, args.lr, args.momentum, weight_decay=args.weight_decay, fused=True)
        if args.momentum:
            # It breaks off where parameters get their first gradient later than others of their group.
            for p in trained.values():
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return optimizer
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer]
    return adam(parameters, args.lr, weight_decay=args.weight_decay, fused=True)
