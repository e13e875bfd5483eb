"""Prepare UPMC Food-101: its pictures, made smaller once, and the titles of the web pages that they are from.

    python data/prepare_food101.py --raw raw/UPMC_Food101 --out data/Food101

Reads `<raw>/images/{train,test}/<class>/<class>_<n>.jpg` and `<raw>/texts/{train,test}_titles.csv`, rows
`file,title,class`, whose quoted titles may hold commas and line breaks. Writes

    <out>/Image-01-FPS/<class>_<n>/00001.jpg      its shorter side --size pixels at most
    <out>/Text/<class>_<n>.txt                    the title as it is
    <out>/train.csv, test.csv                     rows `<class>_<n>,class`: those of the title files
    <out>/classes.txt                             the classes by the alphabet
    <out>/manifest.json                           settings, counts, rows without a picture that decodes, sha256
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from dataset.lists import repeated
from dataset.prepare.clips import Clip, ClipError, check_source
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.splits import PARTS, read_list
from dataset.recipes.pictures import read_picture
from utils.errors import DataError, RunError, list_names
from utils.files import write_atomically

SWALLOWED = re.compile(r"\n\s*([^,\n]+\.jpe?g),", re.IGNORECASE)  # a row within a field


@dataclass(frozen=True)
class Titled(Clip):
    """A picture with its title."""

    title: str = ""


def read_titles(path: Path, pictures: Path) -> list[Titled]:
    """The rows of a title file.

    Raises DataError for a row that is not `file,title,class` or has other rows in it, or a picture named twice.
    """
    found = []
    rows = read_list(path, "it is in the folder texts of the download")
    if not Path(rows[0][1][0]).suffix:
        print(f"{path}: its first row is taken for a heading: {','.join(rows[0][1])}")
        rows = rows[1:]
    for number, row in rows:
        if inside := next(filter(None, map(SWALLOWED.search, row)), None):
            raise DataError(
                f"{path}: the row of {row[0]!r}, which ends in line {number}, goes on over that of {inside[1]!r}: "
                'close the quote (") that is open in it, or double it where it belongs to the title'
            )
        # A comma in a title that is not quoted divides it; the class has none.
        name, title, label = row[0], ",".join(row[1:-1]), row[-1]
        if len(row) < 3 or not name.lower().endswith(".jpg") or not label or {"/", "\\"} & {*name, *label}:
            raise DataError(f"{path}, line {number}: expected `file.jpg,title,class`, found {row}")
        found.append(Titled(Path(name).stem, label, "", (pictures / label / name,), title))
    if twice := repeated(clip.name for clip in found):
        raise DataError(f"{path}: pictures named more than once, {list_names(twice)}: remove a row")
    return found


def prepare_clip(clip: Titled, text: Path, folder: Path, size: int) -> None:
    """Write the title, and the picture with a shorter side of `size` pixels at most."""
    check_source(clip.sources[0])
    try:
        picture = read_picture(clip.sources[0])
    except OSError as error:
        raise ClipError(f"the picture does not decode: {error}") from None
    if (shorter := min(picture.size)) > size:
        shape = [max(1, round(side * size / shorter)) for side in picture.size]
        picture = picture.resize(shape, Image.Resampling.BILINEAR)
    picture.save(folder / "00001.jpg", quality=95)
    text.write_text(clip.title, encoding="utf-8", newline="")


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/Food101", fps=1)
    parser.add_argument("--size", type=int, default=256, help="most pixels of the shorter side")
    args = parser.parse_args(argv)
    check_args(args)
    if args.fps != 1:
        raise RunError(f"--fps {args.fps}: these are pictures; leave the flag away")
    if args.size < 1:
        raise RunError(f"--size {args.size}: must be at least 1")
    files = {part: args.raw / "texts" / f"{part}_titles.csv" for part in PARTS}
    parts = tuple(read_titles(path, args.raw / "images" / part) for part, path in files.items())
    if both := sorted({clip.name for clip in parts[0]} & {clip.name for clip in parts[1]}):
        raise DataError(f"pictures in both title files, {list_names(both)}: remove them from one")
    clips = sorted((clip for part in parts for clip in part), key=lambda clip: clip.name)
    listed = {clip.sources[0] for clip in clips}
    there = (path for part in PARTS for path in args.raw.glob(f"images/{part}/*/[!.]*"))
    if without := sorted(f"{path.parent.name}/{path.name}" for path in there if path not in listed):
        print(f"not prepared, as no title file has them: {list_names(without)}")
    titles = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()}
    settings = {"dataset": "Food101", "size": args.size, "titles": titles}
    work = partial(prepare_clip, size=args.size)
    parts = prepare(args, clips, work, settings, lists=parts, beside="Text/{}.txt")
    classes = sorted({clip.label for part in parts for clip in part})
    for part, rows in zip(PARTS, parts, strict=True):
        if absent := sorted(set(classes) - {clip.label for clip in rows}):
            print(f"without a picture in {part}: {', '.join(absent)}")
    write_atomically(args.out / "classes.txt", "".join(f"{name}\n" for name in classes))


if __name__ == "__main__":
    run(main)
