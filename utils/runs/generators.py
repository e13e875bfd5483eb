"""The state of every global random generator, in plain values and tensors."""

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed every global generator. The data order and the augmentation do not use them (dataset/loader.py)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed would note for every kind of device that is not there from where it was called: a millisecond.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def random_states() -> dict:
    """The states of every global generator, in plain values and tensors, which load without executing anything."""
    name, keys, *position = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *position],
        "python": [version, torch.tensor(internal), gauss],
    }


def restore_random_states(states: dict) -> None:
    """Set every global generator to what `random_states` gave; those of CUDA only where as many devices are there."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *position = states["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *position))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(np.asarray(internal).tolist()), gauss))
