"""An encoder's weights from a file: a state dict of torchvision's ResNets, or a checkpoint of this repository."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from utils.errors import DamageError, RunError
from utils.runs.checkpoint import is_checkpoint, read_tensors

CLASSIFIER = "fc."  # what torchvision's ResNets call theirs
COLOURS = 3  # channels of the pictures that public weights are for
OURS = "the torchvision state dict of a ResNet, or a last.pt or best.pt"


def load_weights(encoder: nn.Module, modality: str, path: Path) -> tuple[str, list[str]]:
    """Put the weights in `path` (.pth, .pt or .safetensors) into the encoder of `modality`.

    A classifier is left out. A first convolution for the three colours of a picture is made one for the encoder's own
    channels (`for_channels`); everything else must match, name by name and shape by shape.

    Returns:
        The sha256 of the file, and the names of the classifier's tensors.

    Raises:
        RunError: if the file is missing, damaged, no weights, or the weights of another encoder; the encoder is then
            as it was.
    """
    what = f"--weights {modality}={path}"
    try:
        content, sha256 = read_tensors(path, "")
    except DamageError as error:
        raise RunError(f"{what} cannot be read ({error.reason}): give {OURS}") from None
    except RunError as error:
        raise RunError(f"--weights {modality}: {error}") from None
    weights = of_encoder(content, modality, what)
    left_out = [name for name in weights if name.startswith(CLASSIFIER)]
    weights = {name: tensor for name, tensor in weights.items() if name not in left_out}
    wanted = encoder.state_dict()
    first = next((f"{name}.weight" for name, m in encoder.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), "")
    if first in weights and first in wanted and weights[first].ndim == wanted[first].ndim:
        weights[first] = for_channels(weights[first], wanted[first].shape[1])
    # torchvision's older files do not count the batches that a running mean is of, and nothing here depends on it.
    weights = {n: torch.zeros_like(t) for n, t in wanted.items() if n.endswith("num_batches_tracked")} | weights
    if fault := mismatch(wanted, weights):
        raise RunError(f"{what} is not of the encoder of {modality}: {fault}; choose --encoder, or another file")
    encoder.load_state_dict(weights)
    return sha256, left_out


def of_encoder(content: object, modality: str, what: str) -> dict[str, Tensor]:
    """The tensors by name that a file's content has for the encoder of `modality`; `what` names the file in errors.

    Raises:
        RunError: if it holds no tensors by name, or is a checkpoint without that modality.
    """
    if is_checkpoint(content):
        encoders = {name.split(".", 2)[1] for name in content["model"] if name.startswith("encoders.")}
        if modality not in encoders:
            raise RunError(f"{what} has encoders of {', '.join(sorted(encoders))}, not of {modality}")
        prefix = f"encoders.{modality}."
        return {name.removeprefix(prefix): t for name, t in content["model"].items() if name.startswith(prefix)}
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise RunError(f"{what} holds no tensors by name: give {OURS}")
    return dict(content)


def for_channels(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weight (out, 3, ...) for the three colours of a picture as (out, channels, ...), else as it is.

    Every channel gets the sum over the colours divided by the number of channels: for one (sound) their sum, for two
    (optical flow) their mean times 3/2. An input that is the same in all channels gives what a grey picture gave.
    """
    if weight.shape[1] != COLOURS or channels == COLOURS:
        return weight
    grey = weight.sum(dim=1, keepdim=True) / channels
    return grey.expand(-1, channels, *[-1] * (weight.ndim - 2)).clone()


def mismatch(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first difference in names and shapes, or a tensor that is not finite, in words; None if there is none."""
    for name in [*wanted, *found]:
        if name not in found:
            return f"{name} is missing"
        if name not in wanted:
            return f"it has {name}, which the encoder has not"
        if found[name].shape != wanted[name].shape:
            return f"{name} is {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
        if not found[name].isfinite().all():
            return f"{name} has numbers that are not finite"
    return None
