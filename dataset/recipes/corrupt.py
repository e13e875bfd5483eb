"""Noise of a fixed level on the inputs, written MODALITY:KIND:LEVEL[@SHARE]; SHARE of the samples are hit.

A data set says in `forms` what its modalities are; the form decides which kinds of noise there are:

    sound      snr:DB                white noise DB decibels below the clip's own power
               gaussian:1..5         white noise on the wave in [-1, 1]
    picture    gaussian, shot, impulse, contrast, brightness, pixelate, jpeg :1..5
               saltpepper:0..10      in LEVEL tenths of the pictures every 20th pixel black, every 20th white
               gaussian_qmf:0..10    of standard deviation 10 LEVEL grey levels, the same in all channels
    values     gaussian_feat:SD      white noise in the units of the values (series of features, optical flow)
    words      drop:P                every word is left out with probability P

The severities 1 to 5 of a picture are those of ImageNet-C (Hendrycks and Dietterich, ICLR 2019), which READ (Yang et
al., ICLR 2024) takes for audio-visual data, with Gaussian noise of the same deviations for the sound; saltpepper and
gaussian_qmf are those of PDF (Cao et al., ICML 2024) and QMF (Zhang et al., ICML 2023), which hit half of the samples:
@0.5. `any` stands for every modality. Level 0 changes nothing, except that of snr.

What is drawn depends on a seed, the sample's name, the modality and the kind alone: every method and seed of a run sees
the same noise, with any number of workers and in any order, and two levels of one kind draw the same.
"""

import argparse
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchaudio.functional import add_noise

from dataset.recipes.text import PADDING
from utils.errors import RunError
from utils.numbers import not_negative, number, probability, severity, up_to_ten

RECORDED = 0  # the seed of the noise that belongs to the data; those of evaluations are above

Array = np.ndarray
Generator = np.random.Generator
Corrupt = Callable[[Array], Array]


def unchanged(x: Array) -> Array:
    """The noise on an input that is left as it is."""
    return x


def snr(wave: Array, level: float, random: Generator) -> Array:
    """White noise at `level` dB below the power of this wave (its mean square); silence stays silence."""
    noise = torch.from_numpy(normal(wave, random))
    return add_noise(torch.from_numpy(wave), noise, torch.tensor(level)).numpy()


def gaussian(x: Array, deviation: float, random: Generator) -> Array:
    """Normal noise of this standard deviation is added to every value."""
    return x + np.float32(deviation) * normal(x, random)


def shot(picture: Array, photons: float, random: Generator) -> Array:
    """Poisson noise: `photons` arrive where the picture is white."""
    return random.poisson(picture * photons) / photons


def impulse(picture: Array, share: float, random: Generator) -> Array:
    """Half of a share of the values become 0, the others 1, each channel for itself."""
    drawn = random.random(picture.shape)
    return np.where(drawn < share, drawn < share / 2, picture)


def contrast(picture: Array, factor: float, random: Generator) -> Array:
    """The distance of every value from its channel's mean, times `factor`."""
    mean = picture.mean(axis=(1, 2), keepdims=True)
    return (picture - mean) * factor + mean


def brightness(picture: Array, more: float, random: Generator) -> Array:
    """The value of hue, saturation and value (a pixel's largest channel) is raised; black becomes grey."""
    value = picture.max(axis=0, keepdims=True)
    raised = np.minimum(value + more, 1)
    return np.where(value > 0, picture * raised / np.maximum(value, 1e-12), raised)


def pixelate(picture: Array, share: float, random: Generator) -> Array:
    """Means over boxes: as if the picture had `share` of its width and height, enlarged without smoothing."""
    small = tuple(max(1, int(side * share)) for side in picture.shape[:0:-1])
    return pixels(image(picture).resize(small, Image.Resampling.BOX).resize(picture.shape[:0:-1], Image.Resampling.BOX))


def jpeg(picture: Array, quality: int, random: Generator) -> Array:
    """The picture after it has been written as a JPEG of this quality (1 to 95) and read again."""
    file = io.BytesIO()
    image(picture).save(file, "JPEG", quality=quality)
    return pixels(Image.open(file))


def saltpepper(picture: Array, level: float, random: Generator) -> Array:
    """PDF's noise: with probability level / 10 a tenth of the pixels become black or white, in all channels at once."""
    if random.random() >= level / 10:
        return picture
    drawn = random.random(picture.shape[1:])
    return np.where(drawn < 0.1, drawn < 0.05, picture)


def gaussian_qmf(picture: Array, level: float, random: Generator) -> Array:
    """QMF's noise: normal of deviation 10 `level` grey levels of 255, the same in all channels."""
    return picture + 10 * level / 255 * normal(picture[:1], random)


def drop(words: Array, share: float, random: Generator) -> Array:
    """The words that stay move up; the text is padded to its length."""
    kept = words[(words != PADDING) & (random.random(words.shape) >= share)]
    return np.pad(kept, (0, len(words) - len(kept)), constant_values=PADDING)


def normal(like: Array, random: Generator) -> Array:
    """Standard normal draws, as many as `like` has values."""
    return random.standard_normal(like.shape, dtype=np.float32)


def image(picture: Array) -> Image.Image:
    """(3, H, W) in [0, 1] as a picture of 8 bits."""
    return Image.fromarray(np.rint(picture * 255).astype(np.uint8).transpose(1, 2, 0))


def pixels(picture: Image.Image) -> Array:
    """A picture of 8 bits as (3, H, W) in [0, 1]."""
    return np.asarray(picture).transpose(2, 0, 1) / np.float32(255)


@dataclass(frozen=True)
class Kind:
    """A kind of noise: `apply(input, level, generator)`.

    `read` makes a level of a word; `clean` is the one that changes nothing, `sweep` has those of a table of robustness.
    With `scale`, `apply` is given scale[level - 1]. Pictures are clipped to [0, 1] after it.
    """

    apply: Callable[[Array, float, Generator], Array]
    scale: Sequence[float] = ()
    read: Callable[[str], float] = severity
    clean: float | None = 0.0
    sweep: Sequence[float] = (1, 2, 3, 4, 5)


DEVIATIONS = (0.08, 0.12, 0.18, 0.26, 0.38)
KINDS: dict[str, dict[str, Kind]] = {
    "sound": {
        "snr": Kind(snr, read=number, clean=None, sweep=(20, 10, 0, -5)),
        "gaussian": Kind(gaussian, DEVIATIONS),
    },
    "picture": {
        "gaussian": Kind(gaussian, DEVIATIONS),
        "shot": Kind(shot, (60, 25, 12, 5, 3)),
        "impulse": Kind(impulse, (0.03, 0.06, 0.09, 0.17, 0.27)),
        "contrast": Kind(contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
        "brightness": Kind(brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
        "pixelate": Kind(pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
        "jpeg": Kind(jpeg, (25, 18, 15, 10, 7)),
        "saltpepper": Kind(saltpepper, read=up_to_ten, sweep=()),
        "gaussian_qmf": Kind(gaussian_qmf, read=up_to_ten, sweep=()),
    },
    "values": {"gaussian_feat": Kind(gaussian, read=not_negative, sweep=(0.25, 0.5, 1, 2))},
    "words": {"drop": Kind(drop, read=probability, sweep=(0.1, 0.3, 0.5, 0.7, 0.9))},
}


@dataclass(frozen=True)
class Corruption:
    """One noise of one modality, as --train_noise states it; a `share` below 1 is of the clips that it hits."""

    modality: str
    kind: str
    level: float
    share: float = 1.0

    def __str__(self) -> str:
        share = f"@{self.share:.15g}" if self.share < 1 else ""
        return f"{self.modality}:{self.kind}:{self.level:.15g}{share}"


class EveryName(dict):
    """Forms of modalities whose names only the data tell: that of `any`, whatever the name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return self["any"]


def read(text: str, forms: Mapping[str, str]) -> Corruption:
    """A corruption of one of the modalities {name: form}, or of `any`.

    Raises:
        ArgumentTypeError: naming what there is, if it is not one of these.
    """
    what, at, share = text.partition("@")
    if what.count(":") != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODALITY:KIND:LEVEL[@SHARE]")
    modality, kind, level = what.split(":")
    if not forms or (modality not in forms and modality != "any"):
        names = f"the modalities are {', '.join(forms)}" if forms else "noise is not defined for this data set"
        raise argparse.ArgumentTypeError(f"{text!r}: {names}")
    for name in forms if modality == "any" else [modality]:
        kinds = KINDS[forms[name]]
        if kind not in kinds:
            raise argparse.ArgumentTypeError(f"{text!r}: the kinds of {name} are {', '.join(kinds)}")
    return Corruption(modality, kind, kinds[kind].read(level), probability(share) if at else 1.0)


def kinds_of(forms: Mapping[str, str]) -> str:
    """Every modality with the kinds of noise that it has, for --help."""
    return "; ".join(f"{name}: {', '.join(KINDS[form])}" for name, form in forms.items()) or "none for this data set"


class Noise:
    """The corruptions of a data set of the modalities {name: form}, one after the other.

    Raises:
        RunError: if a modality has the same kind twice: both would draw the same.
    """

    def __init__(self, forms: Mapping[str, str], corruptions: Iterable[str] = (), seed: int = RECORDED):
        self.forms = forms
        self.steps: list[tuple[Corruption, int]] = []  # with the seed of each
        for text in corruptions:
            corruption = read(text, forms)
            for name in forms if corruption.modality == "any" else [corruption.modality]:
                self.steps.append((Corruption(name, corruption.kind, corruption.level, corruption.share), seed))
        named = [f"{c.modality}:{c.kind}" for c, _ in self.steps]
        if twice := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
            raise RunError(f"noise {', '.join(twice)} is asked for more than once: give one level")

    @classmethod
    def of(cls, args: argparse.Namespace, forms: Mapping[str, str]) -> "Noise":
        """The noise of --train_noise."""
        return cls(forms, args.train_noise or ())

    def then(self, corruptions: Iterable[str], seed: int) -> "Noise":
        """This noise and, upon it, other noise drawn by `seed`."""
        both = Noise(self.forms, corruptions, seed)
        both.steps = self.steps + both.steps
        return both

    def touches(self, modality: str) -> bool:
        """Whether any of the noise is on this modality."""
        return any(corruption.modality == modality for corruption, _ in self.steps)

    def on(self, modality: str, name: str, frames: Sequence[int] | None = None) -> Corrupt:
        """The noise on an input of the sample called `name`, a function that returns what is not hit as it is.

        With `frames` the input is a stack of the recording's frames of these numbers, each with noise of its own. It is
        `unchanged` where none of the noise is on this modality.
        """
        if not self.touches(modality):
            return unchanged

        def corrupt(x: Array) -> Array:
            for corruption, seed in self.steps:
                if corruption.modality != modality:
                    continue
                kind = KINDS[self.forms[modality]][corruption.kind]
                random = generator(seed, corruption, name)
                if corruption.level == kind.clean or random.random() >= corruption.share:
                    continue
                level = kind.scale[int(corruption.level) - 1] if kind.scale else corruption.level
                if frames is None:
                    x = kind.apply(x, level, random)
                else:
                    own = (generator(seed, corruption, f"{name}/{number}") for number in frames)
                    x = np.stack([kind.apply(frame, level, draws) for frame, draws in zip(x, own, strict=True)])
                if self.forms[modality] == "picture":
                    x = np.clip(x, 0, 1).astype(np.float32)
            return x

        return corrupt


def generator(seed: int, corruption: Corruption, name: str) -> Generator:
    """The draws of a corruption on the clip `name`: neither its level nor other clips change them."""
    return np.random.default_rng([seed, *f"{corruption.modality}:{corruption.kind}:{name}".encode()])
