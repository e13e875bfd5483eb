"""scenes: generated frames of coloured shapes, each category with a timbre of its own, for a CPU."""

import colorsys
from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from dataset.recipes.frames import from_levels
from localisation.data import PARTS, Clips, Localisation, Object
from utils.numbers import count, positive

SAMPLE_RATE = 8000  # Hz; clips last a second
N_FFT, HOP, MELS = 512, 170, 32
FRAMES = 1 + SAMPLE_RATE // HOP  # 48
DETAIL = 3  # a shape is drawn with this many times as many pixels a side, then averaged
TESTED = 4  # a test part has a quarter as many clips as the training part
WHOLE, QUARTER = (0.4, 0.75), (0.55, 0.9)  # an object's side in shares of its frame: of a solo scene's, of a mosaic's


class Category(NamedTuple):
    """How the objects of a category look and sound."""

    name: str
    hue: float  # in turns
    pitch: float  # Hz
    formant: float  # Hz, around which the harmonics are loudest
    beat: float  # Hz, of the loudness


CATEGORIES = (
    Category("red disc", 0.00, 110, 330, 3.0),
    Category("yellow square", 0.15, 147, 620, 5.0),
    Category("green triangle", 0.35, 185, 1000, 0.0),
    Category("cyan cross", 0.50, 233, 1500, 8.0),
    Category("blue ring", 0.64, 294, 2200, 2.0),
    Category("magenta star", 0.83, 370, 3100, 0.0),
)


class Scenes(Localisation):
    """Six categories of shapes: a solo scene has one, which sounds; a mixed scene four, of which two sound.

    A frame has a smooth background of random colours under pixel noise; an object of random place, size and turn, its
    hue within 9 degrees of its category's. A mixed scene is a mosaic of two by two frames of half the size, each with
    an object of another category: two sound, two are silent, as in MUSIC-Synthetic. Neither where an object is nor how
    it looks says whether it sounds: only the sound does. Objects of solo scenes have sides of 26 to 48 pixels of 64,
    about as large in the frame as MUSIC's instruments, those of mosaics 18 to 29.

    A sound has harmonics that are loudest around the category's formant, with a pitch that is off by up to half a
    semitone and wavers, a random loudness and noise 20 dB below it; a mixture is the sum of two, each up to 6 dB louder
    or softer. It is read as log10 of the power in 32 mel bands plus 0.0001, 48 x 32.

    Everything depends on --scenes_seed, the part and the clip's number alone; training and test have no clip in common.
    """

    protocol = "ours"
    defaults = dict(data_root=None, image_size=48, encoder="convnet", clusters=len(CATEGORIES))
    recipes = {"solo": dict(rounds=6, passes=2, lr=1e-3), "mixture": dict(epochs=5, lr=3e-4)}

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--scenes_solo", type=positive, default=800, help="solo scenes of training; a quarter: test")
        group.add_argument("--scenes_mixed", type=positive, default=600, help="mixed scenes, likewise")
        group.add_argument("--scenes_seed", type=count, default=0, help="of everything that is generated")

    @classmethod
    def refusal(cls, args: Namespace) -> str | None:
        if args.image_size % 2 or args.image_size < 32:
            return f"--image_size {args.image_size}: a mosaic of scenes needs an even number of pixels, 32 or more"
        return None

    @classmethod
    def categories(cls, args: Namespace) -> Sequence[str]:
        return [category.name for category in CATEGORIES]

    @classmethod
    def solo(cls, args: Namespace, part: str) -> "Generated":
        return Generated([solo_scene(args.image_size, random) for random in draws(args, part, 0)], 0.1, part)

    @classmethod
    def mixed(cls, args: Namespace, part: str) -> "Generated":
        return Generated([mixed_scene(args.image_size, random) for random in draws(args, part, 1)], 0.5, part)


class Scene(NamedTuple):
    """A generated clip: (3, H, W) uint8, the samples of a second, and what is in the frame."""

    frame: np.ndarray
    wave: np.ndarray
    objects: tuple[Object, ...]


class Generated(Clips):
    """Scenes in memory; each is a video of its own."""

    def __init__(self, scenes: Sequence[Scene], ratio: float, part: str):
        alone = all(len(scene.objects) == 1 for scene in scenes)
        labels = [scene.objects[0].category for scene in scenes] if alone else None
        super().__init__(np.arange(len(scenes)), labels, ratio, part == "train")
        self.frames = torch.from_numpy(np.stack([scene.frame for scene in scenes]))
        self.sounds = log_mel(torch.from_numpy(np.stack([scene.wave for scene in scenes])))
        self.shown = [scene.objects if part == "test" else () for scene in scenes]

    def sound(self, position: int) -> Tensor:
        return self.sounds[position]

    def frame(self, position: int) -> Tensor:
        return from_levels(self.frames[position])

    def objects(self, position: int) -> tuple[Object, ...]:
        return self.shown[position]


def draws(args: Namespace, part: str, kind: int) -> list[np.random.Generator]:
    """A generator for every clip of a part; kind: 0 for solo scenes, 1 for mixed ones."""
    size = (args.scenes_solo, args.scenes_mixed)[kind]
    size = size if part == "train" else max(1, size // TESTED)
    return [np.random.default_rng([args.scenes_seed, kind, PARTS.index(part), number]) for number in range(size)]


def solo_scene(size: int, random: np.random.Generator) -> Scene:
    """One object, which sounds."""
    category = int(random.integers(len(CATEGORIES)))
    frame, box = picture(category, size, WHOLE, random)
    return Scene(frame, tone(category, random), (Object(category, box, True),))


def mixed_scene(size: int, random: np.random.Generator) -> Scene:
    """Four objects of different categories, one in each quarter of the frame; two of them sound."""
    chosen = random.permutation(len(CATEGORIES))[:4].tolist()
    sounding = random.permutation(4)[:2].tolist()
    parts = [picture(category, size // 2, QUARTER, random) for category in chosen]
    rows = [np.concatenate([parts[row][0], parts[row + 1][0]], axis=2) for row in (0, 2)]
    objects = tuple(
        Object(category, ((place % 2 + left) / 2, (place // 2 + top) / 2, width / 2, height / 2), place in sounding)
        for place, (category, (_, (left, top, width, height))) in enumerate(zip(chosen, parts, strict=True))
    )
    wave = sum(10 ** (random.uniform(-6, 6) / 20) * tone(chosen[place], random) for place in sounding)
    return Scene(np.concatenate(rows, axis=1), wave, objects)


def picture(
    category: int, size: int, sides: tuple[float, float], random: np.random.Generator
) -> tuple[np.ndarray, tuple[float, ...]]:
    """A frame (3, size, size) uint8 with one object, of a side between these shares of it, and the object's box."""
    background = cv2.resize(random.uniform(50, 190, (4, 4, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
    side = random.uniform(*sides) * size
    left, top = random.uniform(0, size - side, 2)
    mask = drawn(category, size, (left + side / 2, top + side / 2), side / 2, random.uniform(-0.4, 0.4))
    hue = (CATEGORIES[category].hue + random.uniform(-0.025, 0.025)) % 1
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, random.uniform(0.75, 1), random.uniform(0.75, 1)))
    frame = background + mask[:, :, None] * (colour - background) + random.normal(0, 12, (size, size, 3))
    return frame.clip(0, 255).astype(np.uint8).transpose(2, 0, 1), box_of(mask >= 0.5)


def drawn(category: int, size: int, centre: tuple[float, float], radius: float, turn: float) -> np.ndarray:
    """(size, size): how much of each pixel the shape of a category covers; centre (x, y), radius: pixels, turn: rad."""
    y, x = (np.mgrid[: size * DETAIL, : size * DETAIL].astype(np.float32) + 0.5) / DETAIL
    x, y = (x - centre[0]) / radius, (y - centre[1]) / radius
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    far, square = np.hypot(x, y), np.maximum(abs(x), abs(y))
    inside = (
        far <= 1,
        square <= 0.8,
        (y <= 0.6) & (abs(x) <= (y + 1) * 0.5625),
        (square <= 0.95) & (np.minimum(abs(x), abs(y)) <= 0.33),
        (far <= 1) & (far >= 0.5),
        far <= 0.68 + 0.32 * np.cos(5 * np.arctan2(x, -y)),
    )[category]
    return inside.reshape(size, DETAIL, size, DETAIL).mean(axis=(1, 3))


def box_of(mask: np.ndarray) -> tuple[float, ...]:
    """(left, top, width, height) of what a mask (H, W) holds, in shares of it."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    height, width = mask.shape
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    return left / width, top / height, (right - left) / width, (bottom - top) / height


def tone(category: int, random: np.random.Generator) -> np.ndarray:
    """A second of a category's timbre, (8000,) float32."""
    _, _, pitch, formant, beat = CATEGORIES[category]
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    wavering = 1 + 0.01 * np.sin(2 * np.pi * (random.uniform(4, 7) * time + random.uniform()))
    phase = 2 * np.pi * np.cumsum(pitch * 2 ** (random.uniform(-0.5, 0.5) / 12) * wavering) / SAMPLE_RATE
    harmonics = np.arange(1, int(SAMPLE_RATE / 2 / pitch / 1.1))
    strength = np.exp(-0.5 * (np.log2(harmonics * pitch / formant) / 0.45) ** 2)
    starts = random.uniform(0, 2 * np.pi, (len(harmonics), 1))
    wave = strength @ np.sin(np.float32(np.outer(harmonics, phase) + starts))
    wave *= 1 + 0.7 * np.sin(2 * np.pi * (beat * time + random.uniform())) * (beat > 0)
    wave /= np.sqrt((wave**2).mean())
    return np.float32(10 ** (random.uniform(-6, 6) / 20) * (wave + 0.1 * random.standard_normal(SAMPLE_RATE)))


def log_mel(waves: Tensor) -> Tensor:
    """(N, 1, 48, 32) of waves (N, 8000)."""
    window = torch.hann_window(N_FFT)
    power = torch.stft(waves, N_FFT, HOP, window=window, center=True, return_complex=True).abs().square() / N_FFT
    bands = melscale_fbanks(N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE)
    return (power.transpose(1, 2) @ bands + 1e-4).log10().unsqueeze(1)
