"""Audio-visual clips in the layout the field uses; CREMA-D, GRID and the generated demo are instances of it.

<root>/AudioWAV/<clip>.wav
<root>/Image-{fps:02d}-FPS/<clip>/*.jpg
<root>/train.csv, test.csv            rows `clip,label`, no header
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from librosa.util.exceptions import LibrosaError
from torch.utils.data import Dataset

from dataset.audio import LogSpectrogram, wave_fault
from dataset.base import check_disjoint, list_names, read_split
from dataset.frames import even_frames, list_frames, load_frames, make_transform, random_frames
from models.encoders import ResNet18
from utils.errors import DataError
from utils.numbers import positive


class AudioVisualClips(Dataset):
    """One split. Sample: ({"audio": (1, F, T), "visual": (frames, 3, H, W)}, class number, position in the split).

    A data set states its classes, its audio recipe and its protocol (the defaults of the training flags); everything
    it is built on is checked when it is built, before the first step.
    """

    encoders: ClassVar = {"audio": partial(ResNet18, channels=1), "visual": partial(ResNet18, channels=3)}
    classes: ClassVar[Sequence[str]]
    audio: ClassVar[LogSpectrogram]
    crop_scale: ClassVar[tuple[float, float]] = (0.08, 1.0)  # torchvision's and the public code's
    flip: ClassVar[bool] = True
    defaults: ClassVar[dict[str, object]]
    protocol: ClassVar[str]
    method_defaults: ClassVar[dict[str, dict[str, object]]] = {}  # method -> its flags, where published for this data

    def __init__(self, args, clips: Sequence[tuple[str, int]], modalities: Sequence[str], train: bool):
        root = Path(args.data_root)
        self.modality_names = tuple(modalities)
        self.train, self.wanted = train, args.frames
        self.names = [clip for clip, _ in clips]
        self.targets = [target for _, target in clips]
        self.transform = make_transform(args.image_size, train, self.crop_scale, self.flip)
        faults: dict[str, list[str]] = defaultdict(list)
        if "audio" in modalities:
            self.waves = [root / "AudioWAV" / f"{clip}.wav" for clip in self.names]
            for clip, wave in zip(self.names, self.waves, strict=True):
                if fault := wave_fault(wave):
                    faults[f"{fault} in {root / 'AudioWAV'}"].append(f"{clip}.wav")
        if "visual" in modalities:
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
                elif any(file.stat().st_size == 0 for file in files):
                    faults[f"empty frame files in {folder}"].append(clip)
        if faults:
            found = "; ".join(f"{fault}: {list_names(names)}" for fault, names in faults.items())
            raise DataError(f"{self.__class__.__name__} is not complete: {found}. Prepare these again (data/README.md)")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int):
        inputs = {}
        try:
            if "audio" in self.modality_names:
                inputs["audio"] = self.audio(self.waves[position])
            if "visual" in self.modality_names:
                files = self.files[position]
                chosen = random_frames(len(files), self.wanted) if self.train else even_frames(len(files), self.wanted)
                inputs["visual"] = load_frames([files[i] for i in chosen], self.transform)
        except (OSError, RuntimeError, LibrosaError) as error:  # of Pillow, libsndfile, and librosa for NaN samples
            raise DataError(f"clip {self.names[position]} does not decode ({error}): prepare it again") from error
        return inputs, self.targets[position], position

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        """The labels in the order of their class numbers."""
        return cls.classes

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--fps", type=positive, help="which Image-<fps>-FPS folder to read")
        group.add_argument(
            "--frames", type=positive, help="frames per clip: random in training, evenly spaced in evaluation"
        )
        group.add_argument("--image_size", type=positive, help="side of the square picture, in pixels")

    @classmethod
    def read_splits(cls, args) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """The rows of the training and of the test split, each clip in one of them only."""
        root = Path(args.data_root)
        if not root.is_dir():
            raise DataError(f"{root} does not exist: prepare the data as data/README.md says, or set --data_root")
        train, test = (read_split(root / f"{name}.csv", cls.class_names(args)) for name in ("train", "test"))
        check_disjoint(train, test, root)
        return train, test
