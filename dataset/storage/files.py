"""Clips as files in folders: <root>/AudioWAV/<clip>.wav and <root>/Image-{fps:02d}-FPS/<clip>/*.jpg."""

import os
import stat
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset.recipes.audio import wave_fault
from dataset.recipes.corrupt import Noise
from dataset.recipes.frames import list_frames, mend
from dataset.storage.source import Encoded, Recipe
from utils.errors import DataError, list_names

Faults = dict[str, list[str]]  # what is wrong -> with which clips


class Files(Encoded):
    """The clips `names` below --data_root.

    Raises:
        DataError: for clips that have no sound, too few frames or unusable files; names them.
    """

    def __init__(self, args, names: Sequence[str], modalities: Sequence[str], recipe: Recipe, noise: Noise):
        super().__init__(names, recipe, noise)
        root, faults = Path(args.data_root), defaultdict(list)
        self.waves = find_waves(root, names, faults) if "audio" in modalities else []
        self.images = find_frames(root, "Image", args, names, faults) if "visual" in modalities else []
        check_complete(args, faults)

    def wave_file(self, clip: int) -> Path:
        return self.waves[clip]

    def picture_files(self, clip: int, frames: Sequence[int]) -> list[Path]:
        return [self.images[clip][frame] for frame in frames]

    def frame_count(self, clip: int) -> int:
        return len(self.images[clip])


def wave_of(root: Path, clip: str) -> Path:
    """The sound of a clip, <root>/AudioWAV/<clip>.wav, or .WAV where only that is there."""
    wave, capitals = (root / "AudioWAV" / f"{clip}{suffix}" for suffix in (".wav", ".WAV"))
    # os.path's answer is False for names that are too long for a file, pathlib's an error.
    return capitals if not os.path.isfile(wave) and os.path.isfile(capitals) else wave


def find_waves(root: Path, names: Sequence[str], faults: Faults) -> list[Path]:
    """The sound of every clip; notes in `faults` those that are missing or unusable."""
    waves = [wave_of(root, clip) for clip in names]
    for clip, wave in zip(names, waves, strict=True):
        if fault := wave_fault(wave):
            faults[f"{fault} in {root / 'AudioWAV'}"].append(f"{clip}.wav")
    return waves


def find_frames(
    root: Path, kind: str, args, names: Sequence[str], faults: Faults, suffix: str = ".jpg"
) -> list[list[Path]]:
    """The pictures of every clip in <root>/<kind>-<fps>-FPS, in time order.

    Notes in `faults` the clips with fewer than --frames pictures, and those whose pictures are empty or no files.

    Raises:
        DataError: if there is no such folder; names those that there are.
    """
    folder = root / f"{kind}-{args.fps:02d}-FPS"
    if not folder.is_dir():
        there = [path.name for path in sorted(root.glob(f"{kind}-*-FPS"))]
        raise DataError(f"no frames at {folder}; {root} has {', '.join(there) or 'none'}: set --fps or prepare them")
    frames = [list_frames(folder / clip, suffix) for clip in names]
    for clip, files in zip(names, frames, strict=True):
        if not os.path.isdir(folder / clip):
            faults[f"frame folders missing in {folder}"].append(clip)
        elif len(files) < args.frames:
            faults[f"fewer than --frames {args.frames} in {folder}"].append(f"{clip} ({len(files)})")
        elif None in (counts := [byte_count(file) for file in files]):
            faults[f"frames that are no files in {folder}"].append(clip)
        elif 0 in counts:
            faults[f"empty frame files in {folder}"].append(clip)
    return frames


def byte_count(path: Path) -> int | None:
    """The bytes of a file, asked for once, since a data set has many; None for what is no file."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size if stat.S_ISREG(state.st_mode) else None


def check_complete(args, faults: Mapping[str, Sequence[str]]) -> None:
    """Raises DataError that names the clips in `faults`, if there are any."""
    if faults:
        listed = "; ".join(f"{fault}: {list_names(names)}" for fault, names in faults.items())
        raise DataError(f"{args.dataset} is not complete: {listed}. {mend(args.frames)}")
