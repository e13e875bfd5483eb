"""Audio-visual clips in the layout the field uses; CREMA-D, GRID and the generated demo are instances of it.

<root>/AudioWAV/<clip>.wav
<root>/Image-{fps:02d}-FPS/<clip>/*.jpg
<root>/train.csv, test.csv            rows `clip,label`, no header
<root>/train_by_<group>.csv, test_by_<group>.csv      the same without a group in both, where clips have groups

Sound and frames may be in tar shards (dataset/storage/shards.py) in place of the folders.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn as nn

from dataset.base import EpochPlan, MultimodalDataset
from dataset.recipes.audio import Filterbank, LogSpectrogram, librosa
from dataset.recipes.compiled import find_place
from dataset.recipes.corrupt import Noise
from dataset.recipes.frames import FrameTransform, even_frames, random_frames
from dataset.splits import check_disjoint, read_split
from dataset.storage.cache import OnDevice, Stored
from dataset.storage.files import Files
from dataset.storage.index import INDEX, folder_of
from dataset.storage.loose import LooseFiles, find_clips
from dataset.storage.shards import BUFFER, Shards
from dataset.storage.source import Memory, Recipe, Source
from models.encoders import RESNETS, ConvNet
from utils.errors import CombinationError, DataError, list_names
from utils.files import packed
from utils.numbers import positive

ENCODERS = {
    **{
        name: {"audio": partial(resnet, channels=1), "visual": partial(resnet, channels=3)}
        for name, resnet in RESNETS.items()
    },
    "convnet": {"audio": partial(ConvNet, channels=1), "visual": partial(ConvNet, channels=3, frames=True)},
}


class AudioVisualClips(MultimodalDataset):
    """One split. Sample: ({"audio": (1, F, T), "visual": (frames, 3, H, W)}, class number, position in the split).

    A subclass states its classes, its audio recipe and its protocol (the defaults of the training flags).
    """

    classes: ClassVar[Sequence[str]]
    audio: ClassVar[LogSpectrogram | Filterbank | None] = None  # None: it follows from the flags
    training_frames: ClassVar[Callable[[int, int], list[int]]] = staticmethod(random_frames)
    crop_scale: ClassVar[tuple[float, float]] = (0.08, 1.0)  # torchvision's and the public code's
    flip: ClassVar[bool] = True
    whole_videos: ClassVar[bool] = True  # whether a clip is a video from its beginning to its end
    group: ClassVar[str | None] = None  # whom --split keeps apart; the first field of a clip's name, before the _
    forms = {"audio": "sound", "visual": "picture"}
    reads_clips = True

    def __init__(
        self, args, clips: Sequence[tuple[str, int]], modalities: Sequence[str], train: bool,
        source: Callable[..., Source] | None = None,
    ):  # fmt: skip
        names, targets = [clip for clip, _ in clips], [target for _, target in clips]
        super().__init__(args, names, targets, modalities, train)
        self.wanted = args.frames
        self.transform = FrameTransform(args.image_size, train, self.crop_scale, self.flip)
        where = (self.modality_names, self.audio, self.noise)
        self.source = source(*where) if source else open_source(args, names, *where)
        self.finish = self.source.finish

    def __getitem__(self, position: int):
        inputs = {}
        if "visual" in self.modality_names:  # first: the order of the draws
            choice = self.training_frames if self.train else even_frames
            frames = choice(self.source.frame_count(position), self.wanted)
            corrupt = self.noise.on("visual", self.names[position], frames)
            inputs["visual"] = self.source.visual(position, frames, self.transform, corrupt)
        if "audio" in self.modality_names:
            inputs["audio"] = self.source.sound(position)
        return {name: inputs[name] for name in self.modality_names}, self.targets[position], position

    def with_noise(self, noise: Noise) -> "AudioVisualClips":
        other = super().with_noise(noise)
        other.source = self.source.with_noise(noise)
        return other

    def plan(self, at: Sequence[int], generator: torch.Generator) -> EpochPlan | None:
        return self.source.plan(at, generator)

    @classmethod
    def refusal(cls, args) -> str | None:
        if args.shuffle_buffer and not packed(args.data_root):
            return f"--shuffle_buffer is of shards; --data_root {args.data_root} is a folder"
        return None

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        return ENCODERS[args.encoder]

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        return cls.classes

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--encoder", choices=ENCODERS, default="resnet18",
            help="resnet18: the paper's; resnet34 and 50: larger; convnet: small, for CPUs, convolves time, too",
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

    @classmethod
    def of_files(cls, args, paths, modalities, prepared):
        clips = find_clips(paths, args.fps)
        if not cls.whole_videos and (raw := [clip.name for clip in clips if clip.video]):
            raise DataError(
                f"{raw[0]}: clips of {args.dataset} are parts of videos; prepare it (data/README.md) and name its .wav"
            )
        rows = [(clip.name, 0) for clip in clips]
        return cls(args, rows, modalities, train=False, source=partial(LooseFiles, args, clips, prepared))

    @classmethod
    def group_of(cls, args) -> str | None:
        """The kind of group that the splits keep apart (--split); None if clips may be split anyhow."""
        return args.split if cls.group else None


def open_source(args, names: Sequence[str], modalities: Sequence[str], recipe: Recipe, noise: Noise) -> Source:
    """The clips of a split from where --data_root and --cache say; with a cache they are decoded now.

    Raises:
        DataError: if a clip is missing or unusable; CombinationError: for a cache of shards, or one without its noise.
    """
    find_place()  # here: loader processes, which would each make one, end without removing it
    if packed(args.data_root):
        if args.cache != "none":
            raise CombinationError(f"--cache {args.cache} is of a folder, not of shards: leave it away")
        source = Shards(args, names, modalities, recipe, noise)
    else:
        source = Files(args, names, modalities, recipe, noise)
    if args.cache == "ram":
        return Memory(source, modalities)
    if args.cache != "none":
        return {"disk": Stored, "device": OnDevice}[args.cache](args, source, modalities)
    if "audio" in modalities:
        librosa()
    return source


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
