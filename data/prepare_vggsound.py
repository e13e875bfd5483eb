"""Prepare VGGSound for `--dataset folder`: the clips that you have of those in the published list.

    python data/prepare_vggsound.py --raw raw/clips --list raw/vggsound.csv --out data/VGGSound --allow_missing

Reads the list, rows `video,start,class,split` (YouTube's name, seconds, train or test), and below <raw>, in any
folders, the clips `<video>_<start>.mp4`, the start with or without leading zeros; file types as in
data/prepare_videos.py. A clip is called <video>_<start, six digits>, wherever its file lies. The layout written is that
of dataset/prepare/, with sound in mono of 16 bit and --sample_rate and the frames on the screen at i/fps, and

    classes.txt       the classes of all rows by the alphabet: their numbers are the same for every copy of the data
    manifest.json     as always, and under `list` how many rows of each split there are and how many have no file
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dataset.prepare.clips import Clip
from dataset.prepare.media import prepare_clip
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.splits import PARTS, read_list
from dataset.prepare.videos import add_media_args, files_below, media_recipe, only_videos, write_classes
from utils.errors import DataError, list_names

NAME = re.compile(r"(?P<video>.+)_(?P<start>\d+)")
Found = dict[tuple[str, int], Path]


def find_files(raw: Path) -> Found:
    """{(video, start): its file}. Raises DataError if there are two of one clip."""
    files: dict[tuple[str, int], list[Path]] = defaultdict(list)
    others = []
    for path in only_videos(files_below(raw), raw):
        if name := NAME.fullmatch(path.stem):
            files[name["video"], int(name["start"])].append(path)
        else:
            others.append(path.name)
    if others:
        print(f"not prepared, as they are not called <video>_<start>: {list_names(others)}")
    if twice := [paths for paths in files.values() if len(paths) > 1]:
        raise DataError(f"{len(twice)} clips are there twice, {twice[0][0]} and {twice[0][1]} among them: remove one")
    return {key: path for key, (path,) in files.items()}


def read_rows(path: Path, files: Found, raw: Path) -> dict[str, list[Clip]]:
    """The clips of each split, also those without a file. Raises DataError with the line of a row that is none."""
    parts: dict[str, list[Clip]] = {part: [] for part in PARTS}
    seen = set()
    for number, row in read_list(path, "it is in github.com/hche11/VGGSound, data/vggsound.csv"):
        where = f"{path}, line {number}"
        if len(row) != 4 or not all(row) or not re.fullmatch("[0-9]{1,9}", row[1]) or row[3] not in PARTS:
            raise DataError(f"{where}: expected `video,start,class,split`, the split train or test, found {row}")
        video, start, label = row[0], int(row[1]), row[2]
        if (video, start) in seen:
            raise DataError(f"{where}: {video} from {start} s on is there twice: remove a row")
        seen.add((video, start))
        name = f"{video}_{start:06d}"
        parts[row[3]].append(Clip(name, label, video, (files.get((video, start), raw / f"{name}.mp4"),)))
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/VGGSound", fps=1, min_frames=4)
    add_media_args(parser, size=256)
    parser.add_argument("--list", type=Path, required=True, help="vggsound.csv as published")
    args = parser.parse_args(argv)
    check_args(args)
    recipe = media_recipe(args)
    files = find_files(args.raw)
    parts = read_rows(args.list, files, args.raw)
    clips = sorted((clip for rows in parts.values() for clip in rows), key=lambda clip: clip.name)
    have = set(files.values())
    if unlisted := sorted(path.name for path in have - {clip.sources[0] for clip in clips}):
        print(f"in no row, so not prepared: {list_names(unlisted)}")
    if len(unlisted) == len(have):
        raise DataError(f"{args.raw} has no file <video>_<start>.mp4 of a row of {args.list}: rename the files")
    listed: dict = {}
    for part, rows in parts.items():
        without = sum(clip.sources[0] not in have for clip in rows)
        listed[part] = {"rows": len(rows), "without_file": without, "share": without / max(1, len(rows))}
        print(f"{part}: {without} of {len(rows)} rows have no file ({listed[part]['share']:.1%})")
    if both := {clip.group for clip in parts["train"]} & {clip.group for clip in parts["test"]}:
        print(f"videos with clips in train and in test: {list_names(sorted(both))}")
    listed["sha256"] = hashlib.sha256(args.list.read_bytes()).hexdigest()
    settings = {"dataset": "VGGSound", **recipe, "min_frames": args.min_frames}
    work = partial(prepare_clip, fps=args.fps, **recipe)
    good = prepare(args, clips, work, settings, lists=(parts["train"], parts["test"]), notes={"list": listed})
    write_classes(args.out, good, {clip.label for clip in clips})


if __name__ == "__main__":
    run(main)
