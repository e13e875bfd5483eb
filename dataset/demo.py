"""demo: a generated audio-visual set for a CPU: a sound that is learnt at once, and a picture that takes longer."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.clips import AudioVisualClips
from dataset.recipes.audio import LogSpectrogram
from dataset.storage.index import folder_of
from utils.errors import DataError
from utils.numbers import not_negative, positive

SAMPLE_RATE = 8000  # Hz
SECONDS = 1.0
FPS = 4
SIDE = 40  # pixels
IN_TUNE = 0.1  # how far the pitch of a training clip may be off, in distances to the next class's


class Demo(AudioVisualClips):
    """Eight classes, written as real .wav and .jpg files in the layout of the other sets, on first use.

    Sound: a buzz of all harmonics in faint noise, its pitch rising from 200 to 800 Hz over the classes. The training
    clips are in tune, so a few steps of training tell them apart. The test clips are out of tune by up to
    `--demo_detune` of the distance to the next class's pitch, so an audio encoder is right about 62% of them.

    Picture: a drifting grating under pixel noise of standard deviation `--demo_picture_noise` (in grey levels, beside a
    grating amplitude of 20); its direction, in steps of 180/8 degrees, is the class, in training and test alike. It
    has to be learnt from many examples.

    So the sound explains the whole training set at once and not the test set, as on CREMA-D, and the picture, which
    knows both, is left with a small gradient when it is trained beside the sound: it starves (docs/REPRODUCTION.md).
    """

    classes = tuple(f"class{k}" for k in range(8))
    audio = LogSpectrogram(sample_rate=SAMPLE_RATE, seconds=SECONDS, n_fft=128, hop=256)
    crop_scale = (0.6, 1.0)
    flip = False  # a mirrored grating is another class
    protocol = "ours"
    defaults = dict(
        data_root="data/demo", encoder="convnet", fps=FPS, frames=2, image_size=32, batch_size=16, epochs=20,
        optimizer="sgd", lr=2e-2, momentum=0.9, weight_decay=1e-4, lr_step=14, lr_gamma=0.1,
    )  # fmt: skip
    method_defaults = {
        # The same part of the training as the published 20 of 90 epochs, and 5 of 60.
        "relearning": dict(every=2),
        "valuation": dict(warmup=1),
        "tcmax": dict(lr=1e-3),  # its public code's; at 0.01 it diverges (docs/METHODS.md)
    }

    @classmethod
    def add_args(cls, group) -> None:
        super().add_args(group)
        group.add_argument("--demo_clips", type=positive, default=800, help="clips in all; two of five are for testing")
        group.add_argument(
            "--demo_detune", type=not_negative, default=0.9,
            help="how far test sounds may be out of tune, in distances to the next class's pitch; training ones: 0.1",
        )  # fmt: skip
        group.add_argument(
            "--demo_picture_noise", type=not_negative, default=60.0, help="noise on the pictures, in grey levels"
        )

    @classmethod
    def read_splits(cls, args):
        setting = {name: getattr(args, name) for name in ("demo_clips", "demo_detune", "demo_picture_noise")}
        root = folder_of(args.data_root)
        manifest = root / "demo.json"
        if not manifest.exists():
            generate(root, **setting)
        try:
            if not manifest.is_file():  # a pipe would be waited for
                raise ValueError("not a file")
            written = dict(json.loads(manifest.read_text()))
        except (ValueError, TypeError) as error:
            raise DataError(f"{manifest} cannot be read ({error}): delete {root}") from None
        changed = [
            f"--{name} {written.get(name)}, not {value}"
            for name, value in setting.items()
            if written.get(name) != value
        ]
        if changed:
            raise DataError(f"{root} was generated with {', '.join(changed)}: delete it, or set --data_root")
        return super().read_splits(args)

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """The splits and the settings that the set was generated with."""
        return [*super().split_files(args), folder_of(args.data_root) / "demo.json"]


def generate(root: Path, demo_clips: int, demo_detune: float, demo_picture_noise: float) -> None:
    """Write the data set into `root`. The folder appears when it is complete; what it holds depends on nothing else.

    Raises:
        DataError: if `root` exists and is not empty, or there are too few clips for every class in both splits.
    """
    import soundfile  # here, since it is read without

    count = len(Demo.classes)
    if demo_clips < 8 * count:
        raise DataError(f"--demo_clips {demo_clips}: at least {8 * count} are needed")
    if root.exists() and any(root.iterdir()):
        raise DataError(f"{root} is not empty and holds no generated demo: set --data_root to another folder")
    random = np.random.default_rng(0)
    root = root.resolve()
    building = root.with_name(f".{root.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)  # of a killed process that had this number
    rows: tuple[list[str], list[str]] = ([], [])  # of the training and the test split
    try:
        (building / "AudioWAV").mkdir(parents=True)
        for number in tqdm(range(demo_clips), desc=f"generating {root}", leave=False, disable=None):
            clip, k = f"clip{number:05d}", number % count
            rows[tested(number)].append(f"{clip},{Demo.classes[k]}\n")
            out_of_tune = demo_detune if tested(number) else IN_TUNE
            soundfile.write(building / "AudioWAV" / f"{clip}.wav", _tone(k, out_of_tune, random), SAMPLE_RATE)
            folder = building / f"Image-{FPS:02d}-FPS" / clip
            folder.mkdir(parents=True)
            for i, frame in enumerate(_gratings(k, count, demo_picture_noise, random), 1):
                Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=95)
        for name, lines in zip(("train", "test"), rows, strict=True):
            (building / f"{name}.csv").write_text("".join(lines))
        setting = dict(demo_clips=demo_clips, demo_detune=demo_detune, demo_picture_noise=demo_picture_noise)
        (building / "demo.json").write_text(json.dumps(setting))
        building.rename(root)
    except OSError as error:
        if not (root / "demo.json").exists():  # it exists when another process was first
            raise DataError(f"cannot generate the demo in {root} ({error}): set --data_root") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def tested(number: int) -> bool:
    """Whether the clip of this number is of the test split: two of five rounds of the classes, so both are balanced."""
    return number // len(Demo.classes) % 5 >= 3


def _tone(k: int, out_of_tune: float, random: np.random.Generator) -> np.ndarray:
    time = np.arange(int(SAMPLE_RATE * SECONDS)) / SAMPLE_RATE
    pitch = 200 * 2 ** ((k + random.uniform(-out_of_tune, out_of_tune)) * 2 / 7)
    partials = np.arange(pitch, SAMPLE_RATE / 2, pitch)
    tone = np.sin(2 * np.pi * np.outer(partials, time) + random.uniform(0, 2 * np.pi, (len(partials), 1))).sum(axis=0)
    return 0.5 * tone / np.abs(tone).max() + 0.02 * random.standard_normal(len(time))


def _gratings(k: int, count: int, noise: float, random: np.random.Generator):
    """The frames of one clip, (SIDE, SIDE, 3) uint8 each."""
    angle = np.pi * (k + random.uniform(-0.2, 0.2)) / count
    y, x = np.mgrid[:SIDE, :SIDE]
    along = x * np.cos(angle) + y * np.sin(angle)
    period, phase, drift = random.uniform(6, 10), random.uniform(0, 2 * np.pi), random.uniform(-1, 1)
    for number in range(int(FPS * SECONDS)):
        grey = 128 + 20 * np.sin(2 * np.pi * along / period + phase + number * drift)
        grey = grey[:, :, None] + noise * random.standard_normal((SIDE, SIDE, 3))
        yield grey.clip(0, 255).astype(np.uint8)
