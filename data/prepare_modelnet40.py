"""Prepare ModelNet40: the 12 shaded pictures of every object, in the order of the views.

    python data/prepare_modelnet40.py --raw raw/modelnet40_images_new_12x --out data/ModelNet40

Reads `<raw>/<class>/{train,test}/<object>.obj.shaded_v001.png` ... `_v012.png`; the number before the suffix is that of
the view. Writes

    <out>/Image-01-FPS/<object>/00001.jpg ...     the views, their shorter side --size pixels at most
    <out>/train.csv, test.csv                     rows `object,class`: the published splits
    <out>/manifest.json                           settings, counts, objects that failed, sha256
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dataset.classes import OBJECTS, VIEWS
from dataset.prepare.clips import Clip, ClipError, check_source, write_frames
from dataset.prepare.media import shrink
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.splits import PARTS, check_unseen
from dataset.recipes.pictures import read_picture
from utils.errors import DataError, RunError, list_names

NAME = re.compile(r"(?P<object>.+?)(\.obj)?\.(shaded_v)?(?P<view>\d+)\.png", re.IGNORECASE)


def find_objects(raw: Path, part: str) -> list[Clip]:
    """The objects of a split, each with its twelve pictures in the order of the views, also those that it lacks.

    Raises DataError for files of other names, and for two of one view.
    """
    clips = []
    for label in OBJECTS:
        folder = raw / label / part
        objects: dict[str, dict[int, Path]] = defaultdict(dict)
        for path in sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() == ".png"):
            if not (match := NAME.fullmatch(path.name)) or not 1 <= int(match["view"]) <= VIEWS:
                raise DataError(
                    f"{path} is not named <object>.obj.shaded_v<number>.png, the number from 1 to {VIEWS}: rename or "
                    "remove it"
                )
            other = objects[match["object"]].setdefault(int(match["view"]), path)
            if other != path:
                raise DataError(f"{other} and {path.name} are the same view of {match['object']}: remove or rename one")
        for name, views in objects.items():
            lacking = {number: folder / f"{name}.obj.shaded_v{number:03d}.png" for number in range(1, VIEWS + 1)}
            clips.append(Clip(name, label, "", tuple((lacking | views).values())))
    return clips


def prepare_views(clip: Clip, folder: Path, size: int) -> None:
    """The recipe of an object: its pictures, with a shorter side of `size` pixels at most."""
    pictures = []
    for path in clip.sources:
        check_source(path)
        try:
            pictures.append(cv2.cvtColor(np.asarray(read_picture(path)), cv2.COLOR_RGB2BGR))
        except OSError as error:
            raise ClipError(f"{path.name} does not decode: {error}") from None
    write_frames(folder, (shrink(picture, size) for picture in pictures))


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/ModelNet40", fps=1, min_frames=VIEWS)
    parser.add_argument("--size", type=int, default=224, help="most pixels of the shorter side")
    args = parser.parse_args(argv)
    check_args(args)
    if args.fps != 1 or args.min_frames != VIEWS:
        raise RunError(f"these are {VIEWS} pictures an object: leave --fps and --min_frames away")
    if args.size < 1:
        raise RunError(f"--size {args.size}: must be at least 1")
    parts = tuple(find_objects(args.raw, part) for part in PARTS)
    folders = sorted(path.name for path in args.raw.glob("[!.]*") if path.is_dir())
    if others := [name for name in folders if name not in OBJECTS]:
        print(f"not prepared, as these folders are called as none of the {len(OBJECTS)} classes: {list_names(others)}")
    for part, objects in zip(PARTS, parts, strict=True):
        if absent := [name for name in OBJECTS if name not in {clip.label for clip in objects}]:
            message = f"no object in {part} of {list_names(absent, 40)}"
            if not args.allow_missing:
                raise DataError(f"{args.raw}: {message}; complete the download, or pass --allow_missing")
            print(message)
    check_unseen(*parts, "splits")
    clips = sorted((clip for part in parts for clip in part), key=lambda clip: clip.name)
    settings = {"dataset": "ModelNet40", "size": args.size}
    prepare(args, clips, partial(prepare_views, size=args.size), settings, lists=parts, beside="")


if __name__ == "__main__":
    run(main)
