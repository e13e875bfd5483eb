"""Noise of a fixed level on the inputs, written MODALITY:KIND:LEVEL[@SHARE]; SHARE of the samples are hit, 1 is all.

A data set says in `forms` what its modalities are (a sound, ...); the form decides which kinds of noise there are. What
is drawn depends on a seed, the sample's name, the modality and the kind alone: every method and seed of a run sees the
same noise, with any number of workers and in any order, and two levels of one kind draw the same.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchaudio.functional import add_noise

from utils.errors import RunError
from utils.numbers import number, probability

RECORDED = 0  # the seed of the noise that belongs to the data; that of an evaluation is above


def snr(wave: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    """White noise at `level` dB below the power of this wave (its mean square); silence stays silence."""
    noise = random.standard_normal(wave.shape, dtype=np.float32)
    return add_noise(torch.from_numpy(wave), torch.from_numpy(noise), torch.tensor(level)).numpy()


@dataclass(frozen=True)
class Kind:
    """`apply(input, level, generator)` returns another array of the same shape; `level` reads a level or refuses it."""

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    level: Callable[[str], float]


KINDS = {
    "sound": {"snr": Kind(snr, number)},
}


@dataclass(frozen=True)
class Corruption:
    modality: str
    kind: str
    level: float
    share: float = 1.0

    def __str__(self) -> str:
        share = f"@{self.share:.15g}" if self.share < 1 else ""
        return f"{self.modality}:{self.kind}:{self.level:.15g}{share}"


def read(text: str, forms: Mapping[str, str]) -> Corruption:
    """A corruption of one of the modalities {name: form}.

    Raises:
        ArgumentTypeError: naming what there is, if it is not one of these.
    """
    what, _, share = text.partition("@")
    if what.count(":") != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODALITY:KIND:LEVEL[@SHARE]")
    modality, kind, level = what.split(":")
    if modality not in forms:
        raise argparse.ArgumentTypeError(f"{text!r}: noise is defined for {', '.join(forms) or 'nothing'} of this data")
    kinds = KINDS[forms[modality]]
    if kind not in kinds:
        raise argparse.ArgumentTypeError(f"{text!r}: the kinds of {modality} are {', '.join(kinds)}")
    return Corruption(modality, kind, kinds[kind].level(level), probability(share) if share else 1.0)


class Noise:
    """The corruptions of a data set whose modalities are {name: form}, in their order; {modality: form} as in `read`.

    Raises:
        RunError: if a modality has the same kind twice: both would draw the same.
    """

    def __init__(self, forms: Mapping[str, str], texts: Sequence[str] = (), seed: int = RECORDED):
        self.seed = seed
        self.corruptions = [read(text, forms) for text in texts]
        self.kinds = {c: KINDS[forms[c.modality]][c.kind] for c in self.corruptions}
        named = [f"{c.modality}:{c.kind}" for c in self.corruptions]
        if twice := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
            raise RunError(f"noise {', '.join(twice)} is asked for more than once: give one level")

    @classmethod
    def of(cls, args: argparse.Namespace, forms: Mapping[str, str]) -> "Noise":
        """The noise of --train_noise; a checkpoint that is older than the flag has none."""
        return cls(forms, getattr(args, "train_noise", None) or ())

    def on(self, modality: str, name: str) -> Callable[[np.ndarray], np.ndarray]:
        """What is done to an input of the sample called `name`; an input that is not hit comes back as it is."""

        def corrupt(x: np.ndarray) -> np.ndarray:
            for corruption, kind in self.kinds.items():
                if corruption.modality == modality:
                    drawn_by = f"{modality}:{corruption.kind}:{name}".encode()
                    random = np.random.default_rng([self.seed, *drawn_by])
                    if random.random() < corruption.share:
                        x = kind.apply(x, corruption.level, random)
            return x

        return corrupt
