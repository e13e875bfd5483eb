"""The precision of a forward pass, by --precision."""

import torch


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context, or a decorator of a function, in which `bf16` computes in bfloat16 and `fp32` as the weights are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
