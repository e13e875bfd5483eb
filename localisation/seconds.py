"""Seconds of MUSIC's videos, as data/prepare_music.py prepares them: their sound, a frame, and its boxes."""

import json
import re
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from dataset.classes import INSTRUMENTS
from dataset.lists import read_text
from dataset.recipes.audio import LogSpectrogram, librosa, read_samples, wave_fault
from dataset.recipes.frames import FrameTransform, from_levels, list_frames
from dataset.recipes.pictures import read_picture
from dataset.splits import check_disjoint, read_split
from localisation.boxes import is_box
from localisation.data import PARTS, Clips, Object
from utils.errors import DataError, list_names

FPS, SAMPLE_RATE = 4, 16000  # as data/prepare_music.py writes them
SPECTRUM = LogSpectrogram(sample_rate=SAMPLE_RATE, seconds=1.0, n_fft=160, hop=80, mels=64)
SOFTEST, RANGE = 1e-10, 80.0  # the least magnitude, and dB below the greatest value at which the spectrogram ends
LARGER = 8 / 7  # a training frame before the crop: 256 for 224
JITTER = (0.7, 1.3)  # factors of brightness and colour
AGAIN = "prepare the data again (data/README.md), or set --data_root"


class Second(NamedTuple):
    """A second of a video: the video's number in its list, the second, and the frame (from 1); None: any of it."""

    video: int
    second: int
    frame: int | None


class Seconds(Clips):
    """Seconds of the videos in a list: all of them to train on, those frames that have boxes to test on."""

    def __init__(self, args: Namespace, kind: str, part: str, ratio: float, augmented: bool = False):
        """Read the list train_<kind>.csv or test_<kind>.csv. Raises DataError for what is missing or malformed."""
        self.root, self.size, self.augmented = Path(args.data_root), args.image_size, augmented
        rows = read_lists(self.root, kind)[PARTS.index(part)]
        self.sources = [name for name, _ in rows]
        self.boxes = read_boxes(self.root / "boxes.json") if part == "test" else {}
        self.items = list(self._items(part))
        if not self.items:
            what = "a frame with boxes (boxes.json)" if part == "test" else "a whole second"
            raise DataError(f"{self.root}: no video of {part}_{kind}.csv has {what}: {AGAIN}")
        videos = [item.video for item in self.items]
        labels = None if kind == "duet" else [rows[video][1] for video in videos]
        super().__init__(videos, labels, ratio, part == "train")
        self.resize = FrameTransform(self.size, False, (1.0, 1.0), False)
        librosa()  # here, since loader processes would each load it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the two empty bands
            _ = SPECTRUM.bands

    def _items(self, part: str) -> Iterator[Second]:
        lengths = [length(self.root, name) for name in self.sources]
        if faults := [f"{name} ({of})" for name, of in zip(self.sources, lengths, strict=True) if isinstance(of, str)]:
            raise DataError(f"{self.root} lacks sound or frames of videos in its lists, {list_names(faults)}: {AGAIN}")
        for video, (name, seconds) in enumerate(zip(self.sources, lengths, strict=True)):
            if part == "train":
                yield from (Second(video, second, None) for second in range(seconds))
            else:
                frames = (number for number in sorted(self.boxes.get(name, {})) if number <= FPS * seconds)
                yield from (Second(video, (number - 1) // FPS, number) for number in frames)

    def wave(self, position: int) -> np.ndarray:
        """The samples of a second, (16000,) float32. Raises DataError for a file that does not decode."""
        item = self.items[position]
        path = sound_of(self.root, self.sources[item.video])
        try:
            return read_samples(path, item.second * SAMPLE_RATE, SAMPLE_RATE)[0]
        except (RuntimeError, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}): {AGAIN}") from None

    def sound(self, position: int) -> Tensor:
        return log_mel(self.wave(position))

    def picture(self, position: int) -> Image.Image:
        """The frame of an item: that which has the boxes, else in training any of the second's, else the third."""
        item = self.items[position]
        place = int(torch.randint(FPS, ())) if self.train else FPS // 2
        number = item.frame or 1 + FPS * item.second + place
        path = frames_of(self.root, self.sources[item.video]) / f"{number:05d}.jpg"
        try:
            return read_picture(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}): {AGAIN}") from None

    def frame(self, position: int) -> Tensor:
        image = self.picture(position)
        return augment(image, self.size) if self.train and self.augmented else self.resize([image])[0]

    def objects(self, position: int) -> tuple[Object, ...]:
        item = self.items[position]
        return self.boxes[self.sources[item.video]][item.frame] if item.frame else ()


def log_mel(wave: np.ndarray) -> Tensor:
    """(1, 201, 64) of a second, (16000,): decibels of the mel bands' magnitude, at most 80 below the greatest."""
    magnitude = SPECTRUM.bands @ np.abs(librosa().stft(wave, n_fft=SPECTRUM.n_fft, hop_length=SPECTRUM.hop))
    decibels = 10 * np.log10(np.maximum(magnitude, SOFTEST))
    return torch.from_numpy(np.float32(np.maximum(decibels, decibels.max() - RANGE)).T.copy()).unsqueeze(0)


def augment(image: Image.Image, size: int) -> Tensor:
    """(3, size, size) of a training frame, by draws of torch's global generator."""
    mirrored, *factors, x, y = torch.rand(5).tolist()
    if mirrored < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for kind, factor in zip((ImageEnhance.Brightness, ImageEnhance.Color), factors, strict=True):
        image = kind(image).enhance(JITTER[0] + factor * (JITTER[1] - JITTER[0]))
    side = round(size * LARGER)
    left, top = (int(place * (side - size + 1)) for place in (x, y))
    image = image.resize((side, side), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return from_levels(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def read_lists(root: Path, kind: str) -> list[list[tuple[str, int]]]:
    """Rows (video, number of its label) of train_<kind>.csv and test_<kind>.csv. Raises DataError as `read_split`."""
    labels = [" ".join(pair) for pair in permutations(INSTRUMENTS, 2)] if kind == "duet" else INSTRUMENTS
    lists = [read_split(root / f"{part}_{kind}.csv", labels) for part in PARTS]
    check_disjoint(*lists, root, tuple(f"{part}_{kind}.csv" for part in PARTS))
    return lists


def read_boxes(path: Path) -> dict[str, dict[int, tuple[Object, ...]]]:
    """{video: {number of the frame: its objects}} of boxes.json. Raises DataError for another file."""
    try:
        return {
            video: {read_number(number): tuple(map(read_object, boxes)) for number, boxes in frames.items()}
            for video, frames in json.loads(read_text(path)).items()
        }
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is not what data/prepare_music.py writes ({error}): {AGAIN}") from None


def read_number(text: str) -> int:
    """The number of a frame. Raises ValueError unless it is one from 1 on, without zeros in front."""
    if not re.fullmatch("[1-9][0-9]*", text):
        raise ValueError(f"{text!r} is no number of a frame")
    return int(text)


def read_object(box: Sequence) -> Object:
    """An object that sounds, of [instrument, left, top, width, height]. Raises ValueError or TypeError for others."""
    name, *place = box
    if name not in INSTRUMENTS or not is_box(place):
        raise ValueError(f"{box} is no instrument with left, top, width and height in shares of the frame")
    return Object(INSTRUMENTS.index(name), tuple(map(float, place)), True)


def length(root: Path, name: str) -> int | str:
    """How many whole seconds of a video have both sound and frames, or the fault of these, in words."""
    path, frames = sound_of(root, name), [file.name for file in list_frames(frames_of(root, name))]
    if fault := wave_fault(path):
        return f"sound: {fault}"
    info = soundfile.info(str(path))
    if info.samplerate != SAMPLE_RATE:
        return f"sound: {info.samplerate} Hz in place of {SAMPLE_RATE}"
    if not frames or frames != [f"{number:05d}.jpg" for number in range(1, len(frames) + 1)]:
        return "frames: not 00001.jpg, 00002.jpg and so on without a gap" if frames else "no frames"
    return min(len(frames) // FPS, info.frames // SAMPLE_RATE)


def sound_of(root: Path, name: str) -> Path:
    """The sound of a video."""
    return root / "AudioWAV" / f"{name}.wav"


def frames_of(root: Path, name: str) -> Path:
    """The folder of a video's frames."""
    return root / f"Image-{FPS:02d}-FPS" / name
