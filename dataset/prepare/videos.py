"""Clips that are whole videos: which files are videos, the flags of `media.prepare_clip`, the list of the classes."""

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dataset.prepare.splits import Parts
from utils.errors import DataError, RunError
from utils.files import write_atomically

SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mpg", ".mpeg", ".vob", ".mkv", ".webm", ".flv", ".wmv")
SUFFIXES += (".ts", ".mts", ".m2ts", ".ogv")


def files_below(folder: Path) -> Iterator[Path]:
    """The files below a folder, also through links to folders; hidden ones are left out.

    Raises DataError for a link to a folder that is not there, with which a class would be lost.
    """
    for where, folders, names in os.walk(folder, followlinks=True):
        here = Path(where).resolve()
        above = {here, *here.parents}  # a link up there would be followed for ever
        folders[:] = [name for name in folders if name[0] != "." and Path(where, name).resolve() not in above]
        for path in (Path(where, name) for name in names if name[0] != "."):
            if path.is_symlink() and not path.exists() and path.suffix.lower() not in SUFFIXES:
                raise DataError(f"{path} is a link to {os.readlink(path)}, which is not there: mend or remove it")
            yield path


def only_videos(files: Iterable[Path], folder: Path) -> list[Path]:
    """The files that are videos by their suffix, sorted; says how many of which other types the folder holds."""
    files = [path for path in files if not path.is_dir()]  # a link to a video that is not there fails later
    others = Counter(path.suffix.lower() or path.name for path in files if path.suffix.lower() not in SUFFIXES)
    if others:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items()))
        print(f"{folder}: {others.total()} files of other types passed over: {counts}")
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def add_media_args(parser: argparse.ArgumentParser, size: int = 0) -> None:
    """The flags of `prepare_clip`; `size` is the default of --size."""
    parser.add_argument("--sample_rate", type=int, default=16_000, help="of the sound, in Hz")
    parser.add_argument(
        "--size", type=int, default=size, help="most pixels of the frames' shorter side; 0: as they are"
    )


def media_recipe(args: argparse.Namespace) -> dict[str, int]:
    """What those flags say, for `prepare_clip`. Raises RunError for one out of range."""
    recipe = {"sample_rate": args.sample_rate, "size": args.size}
    for name, least in {"sample_rate": 1000, "size": 0}.items():
        if recipe[name] < least:
            raise RunError(f"--{name} {recipe[name]}: must be at least {least}")
    return recipe


def write_classes(out: Path, parts: Parts, labels: Iterable[str] = ()) -> None:
    """Write classes.txt by the alphabet: labels of the clips, and these. Say which of them have no clip in a part."""
    classes = sorted({clip.label for part in parts for clip in part} | set(labels))
    for part, what, effect in zip(parts, ("training", "test"), ("find", "be measured on"), strict=True):
        if absent := sorted(set(classes) - {clip.label for clip in part}):
            print(f"without a {what} clip, so that no method can {effect} them: {', '.join(absent)}")
    write_atomically(out / "classes.txt", "".join(f"{name}\n" for name in classes))
