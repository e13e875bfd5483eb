"""Audio-visual clips in the layout the field uses; CREMA-D, GRID and the generated demo are instances of it.

<root>/AudioWAV/<clip>.wav
<root>/Image-{fps:02d}-FPS/<clip>/*.jpg
<root>/train.csv, test.csv            rows `clip,label`, no header
<root>/train_by_<group>.csv, test_by_<group>.csv      the same without a group in both, where clips have groups

Sound and frames may be in tar shards (dataset/storage/shards.py) in place of the folders.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dataset.recipes.audio import Filterbank, LogSpectrogram, librosa, wave_fault
from dataset.recipes.corrupt import Noise
from dataset.recipes.frames import FrameTransform, even_frames, list_frames, load_frames, mend, random_frames, size_of
from dataset.splits import check_disjoint, read_split
from dataset.storage.cache import Resident, Store, from_pixels, store
from dataset.storage.shards import BUFFER, INDEX, Shards, folder_of
from models.encoders import ConvNet, ResNet18
from utils.errors import CombinationError, DataError, list_names
from utils.files import packed
from utils.numbers import positive

ENCODERS = {
    "resnet18": {"audio": partial(ResNet18, channels=1), "visual": partial(ResNet18, channels=3)},
    "convnet": {"audio": partial(ConvNet, channels=1), "visual": partial(ConvNet, channels=3, frames=True)},
}


@contextmanager
def naming(clip: str):
    """Errors of Pillow (SyntaxError: PNG), libsndfile and the audio recipes become one that names the clip."""
    try:
        yield
    except (OSError, SyntaxError, RuntimeError) as error:
        raise DataError(f"clip {clip} does not decode ({error}): prepare it again") from error


class AudioVisualClips(Dataset):
    """One split. Sample: ({"audio": (1, F, T), "visual": (frames, 3, H, W)}, class number, position in the split).

    A data set states its classes, its audio recipe and its protocol (the defaults of the training flags); everything
    it is built on is checked when it is built, before the first step.
    """

    classes: ClassVar[Sequence[str]]
    audio: ClassVar[LogSpectrogram | Filterbank]
    training_frames: ClassVar[Callable[[int, int], list[int]]] = staticmethod(random_frames)
    crop_scale: ClassVar[tuple[float, float]] = (0.08, 1.0)  # torchvision's and the public code's
    flip: ClassVar[bool] = True
    defaults: ClassVar[dict[str, object]]
    protocol: ClassVar[str]
    group: ClassVar[str | None] = None  # whom --split keeps apart; the first field of a clip's name, before the _
    forms: ClassVar[dict[str, str]] = {"audio": "sound", "visual": "picture"}
    method_defaults: ClassVar[dict[str, dict[str, object]]] = {}  # method -> its flags, where published for this data
    shards: Shards | None = None  # what --data_root names in place of a folder

    def __init__(self, args, clips: Sequence[tuple[str, int]], modalities: Sequence[str], train: bool):
        self.modality_names = tuple(modalities)
        self.train, self.wanted = train, args.frames
        self.names = [clip for clip, _ in clips]
        self.targets = [target for _, target in clips]
        self.noise = Noise.of(args, self.forms)
        self.transform = FrameTransform(args.image_size, train, self.crop_scale, self.flip)
        self.kept_sounds: list[Tensor] = []
        self.kept_pictures: list[list[Image.Image]] = []
        self.stored: dict[str, Store] = {}
        # What makes inputs, on the device, of what a sample has instead (make_loader).
        self.finish: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
        if packed(args.data_root):
            if args.cache != "none":
                raise CombinationError(f"--cache {args.cache} is of a folder, not of shards: leave it away")
            self.shards = Shards(args, self.names, modalities)
            self.waves, self.files = self.shards.waves, self.shards.files
        else:
            self.find_files(args)
        self.fill_cache(args)

    def find_files(self, args) -> None:
        """The sound and the frames of every clip.

        Raises:
            DataError: for clips that have none, too few or unusable ones; names them.
        """
        root = Path(args.data_root)
        faults: dict[str, list[str]] = defaultdict(list)
        if "audio" in self.modality_names:
            self.waves = [root / "AudioWAV" / f"{clip}.wav" for clip in self.names]
            for clip, wave in zip(self.names, self.waves, strict=True):
                if fault := wave_fault(wave):
                    faults[f"{fault} in {root / 'AudioWAV'}"].append(f"{clip}.wav")
        if "visual" in self.modality_names:
            folder = root / f"Image-{args.fps:02d}-FPS"
            if not folder.is_dir():
                there = [path.name for path in sorted(root.glob("Image-*-FPS"))]
                raise DataError(
                    f"no frames at {folder}; {root} has {', '.join(there) or 'none'}: set --fps or prepare them"
                )
            self.files = [list_frames(folder / clip) for clip in self.names]
            for clip, files in zip(self.names, self.files, strict=True):
                if not (folder / clip).is_dir():
                    faults[f"frame folders missing in {folder}"].append(clip)
                elif len(files) < self.wanted:
                    faults[f"fewer than --frames {self.wanted} in {folder}"].append(f"{clip} ({len(files)})")
                elif not all(file.is_file() for file in files):
                    faults[f"frames that are no files in {folder}"].append(clip)
                elif any(file.stat().st_size == 0 for file in files):
                    faults[f"empty frame files in {folder}"].append(clip)
        if faults:
            found = "; ".join(f"{fault}: {list_names(names)}" for fault, names in faults.items())
            raise DataError(f"{self.__class__.__name__} is not complete: {found}. {mend(self.wanted)}")

    def fill_cache(self, args) -> None:
        """What --cache asks for, before the first sample.

        Raises:
            CombinationError: for noise on pictures that are cropped on the device.
        """
        if args.cache == "none" and "audio" in self.modality_names:
            librosa()
        elif args.cache == "ram":
            self.keep()
        elif args.cache in ("disk", "device"):
            self.stored = {name: self.cached(args, name) for name in self.modality_names}
        noisy = any(corruption.modality == "visual" for corruption, _ in self.noise.steps)
        if args.cache == "disk" and not noisy:
            self.finish = from_pixels
        elif args.cache == "device":
            if noisy:
                raise CombinationError("--cache device crops on the device, noise on pictures is made before: use disk")
            self.finish = Resident(self.stored.get("audio"), self.stored.get("visual"), args.image_size)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int):
        inputs = {}
        if "visual" in self.modality_names:
            available = len(self.files[position])
            choice = self.training_frames if self.train else even_frames
            chosen = choice(available, self.wanted)
            if isinstance(self.finish, Resident):
                shapes = self.stored["visual"].shapes[position]
                drawn = self.transform.draw([shapes[i][1::-1] for i in chosen])
                inputs["visual"] = self.finish.draws(position, chosen, *drawn)
            elif self.finish:
                inputs["visual"] = self.transform.pixels(self.pictures(position, chosen))
            else:
                corrupt = self.noise.on("visual", self.names[position], chosen)
                inputs["visual"] = self.transform(self.pictures(position, chosen), corrupt)
        if "audio" in self.modality_names:
            resident = isinstance(self.finish, Resident)
            inputs["audio"] = torch.tensor(position) if resident else self.sound(position)
        return {name: inputs[name] for name in self.modality_names}, self.targets[position], position

    def sound(self, position: int) -> Tensor:
        if self.kept_sounds:
            return self.kept_sounds[position]
        if self.stored:
            return torch.from_numpy(self.stored["audio"].read(position)[0])
        with naming(self.names[position]):
            return self.audio(self.waves[position], self.noise.on("audio", self.names[position]))

    def pictures(self, position: int, frames: Sequence[int]) -> list[Image.Image] | list[np.ndarray]:
        if self.kept_pictures:
            return [self.kept_pictures[position][i] for i in frames]
        if self.stored:
            arrays = self.stored["visual"].read(position)
            return [arrays[i] for i in frames]
        with naming(self.names[position]):
            return load_frames([self.files[position][i] for i in frames])

    def keep(self) -> None:
        """Decode every clip once and for all: the same pixels and the same spectrograms, from memory."""
        positions = tqdm(range(len(self)), desc="decoding into memory", unit="clip", leave=False, disable=None)
        sounds, pictures = [], []
        for position in positions:
            if "audio" in self.modality_names:
                sounds.append(self.sound(position))
            if "visual" in self.modality_names:
                pictures.append(self.pictures(position, range(len(self.files[position]))))
        self.kept_sounds, self.kept_pictures = sounds, pictures

    def cached(self, args, modality: str) -> Store:
        """This split's sounds or pictures in the cache on disk, decoded first if they are not there."""
        root = Path(args.cache_root or Path(args.data_root) / "cache")
        if modality == "audio":
            noise = [step for step in self.noise.steps if step[0].modality == "audio"]
            recipe = f"{self.audio} {noise}"
            return store(
                root, "sound", recipe, self.names, [[wave] for wave in self.waves],
                lambda: [[self.audio.shape]] * len(self),
                lambda position: [self.sound(position).numpy()], "float32", args.workers,
            )  # fmt: skip
        return store(
            root, "frames", "RGB", self.names, self.files, self.picture_shapes,
            lambda position: [np.asarray(image) for image in self.pictures(position, range(len(self.files[position])))],
            "uint8", args.workers,
        )  # fmt: skip

    def picture_shapes(self) -> list[list[tuple[int, int, int]]]:
        """(height, width, 3) of every frame of every clip, by the headers alone."""
        found = []
        for name, files in tqdm(zip(self.names, self.files, strict=True), total=len(self), leave=False, disable=None):
            with naming(name):
                found.append([(*size_of(file)[::-1], 3) for file in files])
        return found

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        """What makes the encoder of each modality, in their order."""
        return ENCODERS[args.encoder]

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        """The labels in the order of their class numbers."""
        return cls.classes

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--encoder", choices=ENCODERS, default="resnet18",
            help="resnet18: the paper's; convnet: a small one for CPUs, with convolutions over time",
        )  # fmt: skip
        group.add_argument(
            "--cache", choices=("none", "ram", "disk", "device"), default="none",
            help="decode every clip once, before training: into memory; into files that later runs use, too; and from "
            "these onto the device, where they are cropped; the results are the same",
        )  # fmt: skip
        group.add_argument("--cache_root", help="folder of the decoded clips; without it cache in --data_root")
        group.add_argument(
            "--shuffle_buffer", type=positive,
            help="of shards: samples among which the next one of training is drawn; more mix better and take more "
            f"memory; {BUFFER} without it",
        )  # fmt: skip
        if cls.group:
            group.add_argument(
                "--split", choices=(cls.group,),
                help=f"{cls.group}: train_by_{cls.group}.csv and test_by_{cls.group}.csv, which have no {cls.group} in "
                "common; without the flag train.csv and test.csv",
            )  # fmt: skip
        group.add_argument("--fps", type=positive, help="which Image-<fps>-FPS folder to read")
        group.add_argument(
            "--frames", type=positive, help="frames per clip: random in training, evenly spaced in evaluation"
        )
        group.add_argument("--image_size", type=positive, help="side of the square picture, in pixels")

    @classmethod
    def read_splits(cls, args) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """The rows of the training and of the test split, each clip (by --split: each group) in one of them only."""
        root = folder_of(args.data_root)
        if not root.is_dir():
            raise DataError(f"{root} does not exist: prepare the data as data/README.md says, or set --data_root")
        files, group = cls.split_files(args)[:2], cls.group_of(args)
        if group and (absent := [file for file in files if not file.exists()]):
            raise DataError(
                f"--split {group}: {absent[0]} does not exist; prepare clips of several {group}s (data/README.md), "
                "or leave the flag away"
            )
        train, test = (read_split(file, cls.class_names(args)) for file in files)
        check_disjoint(train, test, root)
        if group:
            check_groups(train, test, group, root)
        return train, test

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """The files of the training and of the test split, then others that decide what the samples are."""
        root, group = folder_of(args.data_root), cls.group_of(args)
        files = [root / (f"{name}_by_{group}.csv" if group else f"{name}.csv") for name in ("train", "test")]
        return [*files, root / INDEX] if packed(args.data_root) else files

    @staticmethod
    def group_of(args) -> str | None:
        """Whom the splits keep apart; checkpoints from before the flag have none."""
        return getattr(args, "split", None)


def check_groups(train: Sequence[tuple[str, int]], test: Sequence[tuple[str, int]], group: str, where: Path) -> None:
    """Raises DataError when a group stands in both splits, or a clip's name does not say its group."""
    if nameless := [clip for clip, _ in (*train, *test) if "_" not in clip]:
        raise DataError(f"{where}: clip names must begin with the {group} and _, {list_names(nameless)}")
    trained, tested = ({clip.split("_")[0] for clip, _ in rows} for rows in (train, test))
    if both := sorted(trained & tested):
        raise DataError(
            f"{where}: {group}s in both train_by_{group}.csv and test_by_{group}.csv, {list_names(both)}; "
            "prepare the data again"
        )
