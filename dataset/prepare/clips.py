"""Clips that are whole or not there: each is made aside and renamed when it is complete."""

import hashlib
import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.prepare.manifest import read_json
from utils.errors import DataError, list_names
from utils.files import write_atomically

LONGEST = 255 - len(".wav")  # bytes of a clip's name, by which file systems count
SOUND = "AudioWAV/{}.wav"


class ClipError(Exception):
    """One clip cannot be prepared; the message is the reason that the report gives."""


@dataclass(frozen=True)
class Clip:
    """A clip to prepare: `sources` are its raw files, `group` is who must not be in both parts of the group split."""

    name: str
    label: str
    group: str  # "" where nothing groups the clips
    sources: tuple[Path, ...]


# Makes a clip: what to write beside the frames (a file, or an existing empty folder; left out where there is nothing
# beside them), existing empty folder for frames.
Recipe = Callable[..., None]


def check_source(path: Path, parts: int = 2) -> None:
    """Raise ClipError for a raw file that is missing, empty or only the pointer that a clone without Git LFS leaves.

    parts: how many of the last parts of the path name it.
    """
    name = "/".join(path.parts[-parts:])
    if not path.is_file():
        raise ClipError(f"{name} is missing")
    with path.open("rb") as file:
        head = file.read(24)
    if not head:
        raise ClipError(f"{name} is empty")
    if head.startswith(b"version https://git-lfs"):
        raise ClipError(f"{name} is a Git LFS pointer, not the file: run `git lfs pull` in the download")


def name_fault(clip: Clip) -> str | None:
    """Why no file can bear the clip's name, or no list its name and label; None if all can."""
    for what, text in (("name", clip.name), ("label", clip.label)):
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return f"its {what} {text!a} is not UTF-8: rename it"
        if not text or "\\" in text or any(unicodedata.category(char) == "Cc" for char in text):
            return f"its {what} {text!a} is empty or has a backslash or a control character: rename it"
        if what == "name" and size > LONGEST:
            return f"its name has {size} bytes, and {LONGEST} is the most that a file can be called: shorten it"
    return None


def by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """{name without suffix: file} of a folder's files with this suffix, in small or capital letters, none hidden."""
    return {path.stem: path for path in sorted(folder.glob("[!.]*")) if path.suffix.lower() == suffix}


def write_frames(folder: Path, images: Iterable[np.ndarray]) -> None:
    """Write 00001.jpg ... of quality 95; images: (height, width, 3) uint8, BGR, or grey (height, width)."""
    for number, image in enumerate(images, 1):
        (folder / f"{number:05d}.jpg").write_bytes(jpeg(image))


def jpeg(image: np.ndarray) -> bytes:
    """A picture as `write_frames` writes it."""
    import cv2  # here, since training reads names of this room and needs no encoder of pictures

    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def check_sources(clips: Sequence[Clip], out: Path, redo: bool) -> None:
    """Note the size and the time of the raw files of all clips, before the work; remove the clips made from others.

    Raises DataError for those, unless `redo`. A clip whose raw file is gone is taken for the one that it was.
    """
    path = out / "sources.json"
    known = read_json(path) or {}
    infos = {clip.name: [source.stat() for source in clip.sources if source.is_file()] for clip in clips}
    now = {
        clip.name: [[info.st_size, int(info.st_mtime)] for info in infos[clip.name]]
        for clip in clips
        if len(infos[clip.name]) == len(clip.sources)
    }
    folders = list(out.glob("*-FPS"))
    made = {
        name: [part for part in (out / SOUND.format(name), *(folder / name for folder in folders)) if part.exists()]
        for name, stamps in now.items()
        if known.get(name, stamps) != stamps
    }
    if changed := [name for name, paths in made.items() if paths]:
        which = f"{len(changed)} clips in {out} were made from other files than there are now, {changed[0]} among them"
        if not redo:
            raise DataError(f"{which}: choose another --out, or make them again with --redo")
        print(f"{which}: made again, and removed at all rates")
        for name in changed:
            for part in made[name]:
                remove(part)
    if (both := known | now) != known:
        write_atomically(path, json.dumps(both, sort_keys=True) + "\n")


@dataclass(frozen=True)
class Maker:
    """Makes single clips of one `recipe` under `out`; it goes to the worker processes.

    beside: what belongs to the frames of clip {}, under `out`: a file, or without a suffix a folder, or "" for nothing.
    A clip of fewer than `min_frames` frames fails.
    """

    recipe: Recipe
    out: Path
    fps: int
    beside: str = SOUND
    min_frames: int = 1

    @property
    def pictures(self) -> Path:
        """The folder that holds a folder of frames for each clip."""
        return self.out / f"Image-{self.fps:02d}-FPS"

    def places(self, name: str) -> list[Path]:
        """What stands beside the frames of a clip, if anything does, and last the folder of its frames."""
        return [*([self.out / self.beside.format(name)] if self.beside else []), self.pictures / name]

    def parts(self, name: str) -> list[Path]:
        """Where these are made. Not called after the clip, whose name may be as long as names can be."""
        part = f".{hashlib.sha1(name.encode()).hexdigest()}.part"
        return [place.with_name(part) for place in self.places(name)]

    def begun(self, name: str) -> bool:
        """Whether a process is at the clip, or has left it half made."""
        return self.parts(name)[-1].exists()

    @property
    def record(self) -> Path:
        """The file that holds {clip: its `sizes` when it was made}, by which damage is seen."""
        return self.pictures.with_suffix(".json")

    def sizes(self, name: str) -> list[int | None]:
        """The size of each of the clip's `places`."""
        return [bytes_of(place) for place in self.places(name)]

    def noted(self) -> dict[str, list[int]]:
        """What the record holds."""
        return read_json(self.record) or {}

    def note(self, sizes: Mapping[str, Sequence[int | None]]) -> None:
        """Make this the record."""
        if sizes != self.noted():
            write_atomically(self.record, json.dumps(sizes, sort_keys=True) + "\n")

    def check(self, clips: Iterable[Clip], redo: bool) -> None:
        """Raise DataError for clips that are not as they were made; remove them if they are to be made again: `redo`.

        What is missing of a clip is made again in any case, and no fault.
        """
        noted = self.noted()
        names = [clip.name for clip in clips if clip.name in noted]
        changed = [name for name in names if None not in (sizes := self.sizes(name)) and sizes != noted[name]]
        which = f"clips in {self.out} that were damaged or changed after they were made, {list_names(changed)}"
        if changed and not redo:
            raise DataError(f"{which}: make them again with --redo, or remove {self.record} if they are to stay so")
        if changed:
            print(f"{which}: made again")
        for place in (place for name in changed for place in self.places(name)):
            remove(place)

    def finished(self, name: str) -> bool:
        """Whether the clip is there, with frames enough and what stands beside them."""
        *others, folder = self.places(name)
        return all(path.exists() for path in others) and folder.is_dir() and len(os.listdir(folder)) >= self.min_frames

    def clear(self) -> None:
        """Make the folders, and remove what a killed run has left half written in them."""
        for folder in dict.fromkeys(path.parent for path in self.places("clip")):
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob(".*.part"):
                remove(part)

    def __call__(self, clip: Clip) -> str | None:
        """Make one clip, which appears under its name only when it is complete; the reason if it cannot be made."""
        *others, folder = self.places(clip.name)
        *other_parts, folder_part = self.parts(clip.name)
        folder_part.mkdir()
        for part in other_parts if not Path(self.beside).suffix else ():
            part.mkdir()
        try:
            self.recipe(clip, *other_parts, folder_part)
            if (count := len(os.listdir(folder_part))) < self.min_frames:
                raise ClipError(f"gives {count} frames at --fps {self.fps} and needs --min_frames {self.min_frames}")
        except OSError:  # of the disk: no clip's fault
            raise
        except Exception as error:  # decoders raise anything for a damaged file, which costs this clip alone
            for part in (*other_parts, folder_part):
                remove(part)
            reason = " ".join(str(error).split())
            return reason if isinstance(error, ClipError) else f"cannot be made ({type(error).__name__}: {reason})"
        for part, place in zip(other_parts, others, strict=True):
            if place.exists():  # of another frame rate (then it does not depend on the rate), or of a killed run
                remove(part)
            else:
                part.replace(place)
        remove(folder)
        folder_part.rename(folder)  # last: its name says that the clip is complete
        return None


def bytes_of(path: Path) -> int | None:
    """The bytes of a file, or of all files in a folder; None if it is not there."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in os.scandir(path))
    return path.stat().st_size if path.exists() else None


def remove(path: Path) -> None:
    """Remove a file or a folder with what is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
