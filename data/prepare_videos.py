"""Prepare any videos with sound: one wav and one folder of frames for each, and the splits, for `--dataset folder`.

    python data/prepare_videos.py --raw raw/videos --out data/mine --fps 1
    python data/prepare_videos.py --raw raw/videos --out data/mine --list raw/videos.csv

The clips are found in one of three layouts:

    <raw>/<split>/<class>/*.mp4      split: train and test, or train and val, or all three (then --val says what val is)
    <raw>/<class>/*.mp4              without splits: a seeded one, stratified by class (--test_fraction, --seed)
    --list FILE                      a CSV of rows `path,label,split` or `path,label`, the paths below --raw

File types: .mp4 .m4v .mov .3gp .avi .mpg .mpeg .vob .mkv .webm .flv .wmv .ts .mts .m2ts .ogv; how many others were
found is said. A clip's name is its path below --raw, without the suffix and with `__` for each `/`. The layout written
is that of dataset/prepare/, and classes.txt with the class names, sorted.

Sound: mono, 16 bit, --sample_rate. Frames: those on the screen at i/fps (dataset/prepare/media.py), made smaller by
--size. A file without sound or without pictures is reported by name, as one that does not decode.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from string import whitespace

from dataset.lists import repeated
from dataset.prepare.clips import Clip, name_fault
from dataset.prepare.media import prepare_clip
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.splits import Parts, read_list
from dataset.prepare.videos import add_media_args, files_below, media_recipe, only_videos, write_classes
from utils.errors import DataError

SPLITS = ("train", "val", "test")


def find_clips(raw: Path) -> dict[str, list[Clip]]:
    """The clips of each split, or of "" if the folders name none. Raises DataError for files out of place."""
    splits = [split for split in SPLITS if (raw / split).is_dir()]
    clips: dict[str, list[Clip]] = {}
    for split in splits or [""]:
        folder = raw / split
        videos = only_videos(files_below(folder), folder)
        if stray := [path for path in videos if len(path.relative_to(folder).parts) != 2]:
            layout = f"{folder}/<class>/<video>"
            raise DataError(f"{len(stray)} videos are not at {layout}, {stray[0]} among them: move them, or use --list")
        clips[split] = [make_clip(path.relative_to(raw), path.parent.name, raw) for path in videos]
        classes = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        if without := sorted(classes - {path.parent.name for path in videos}):
            print(f"without a video in {folder}, so no classes: {', '.join(without)}")
    others = [path.name for path in sorted(raw.iterdir()) if path.is_dir() and path.name not in splits]
    if splits and (others := [name for name in others if not name.startswith(".")]):
        print(f"not prepared, as only {', '.join(SPLITS)} are splits: {', '.join(others)}")
    return clips


def read_clips(path: Path, raw: Path) -> dict[str, list[Clip]]:
    """The clips of each split of a CSV, or of "" if it names none. Raises DataError with the line."""
    rows = read_list(path)
    first = rows[0][1]
    if not Path(first[0]).suffix and not os.path.isfile(raw / first[0]):
        print(f"{path}: its first row is taken for a heading: {','.join(first)}")
        if not (rows := rows[1:]):
            raise DataError(f"the list {path} is empty but for its heading")
    width = len(rows[0][1])
    clips: dict[str, list[Clip]] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        if len(row) not in (2, 3) or len(row) != width or not all(row):
            raise DataError(f"{where}: expected `path,label,split`, or `path,label` in every row, found {row}")
        split = row[2] if width == 3 else ""
        if width == 3 and split not in SPLITS:
            raise DataError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
        video = Path(row[0])
        if video.is_absolute() or ".." in video.parts or any(part.startswith(".") for part in video.parts):
            raise DataError(f"{where}: {row[0]!r} is not a path below --raw {raw}: choose a --raw above all videos")
        clip = make_clip(video, row[1], raw)
        if "control character" in (fault := name_fault(clip) or ""):
            raise DataError(f"{where}: {fault}")
        clips.setdefault(split, []).append(clip)
    return clips


def make_clip(path: Path, label: str, raw: Path) -> Clip:
    """The clip of a path below `raw`. Blanks around its name and label do not count, as in the split files."""
    name = "__".join(path.with_suffix("").parts)
    return Clip(name.strip(whitespace), label.strip(whitespace), "", (raw / path,))


def divide(clips: dict[str, list[Clip]], val: str | None) -> Parts | None:
    """Train and test clips, or None where a seeded split is to be made. val: what a third split belongs to."""
    if "" in clips:
        return None
    if missing := [split for split in ("train", "test") if not clips.get(split)]:
        if missing != ["test"] or not clips.get("val"):
            raise DataError(f"there are no clips in {' and none in '.join(missing)}: both are needed, or no splits")
        print("there is no test split: val is the test")
        val = "test"
    parts = {split: list(clips[split]) for split in ("train", "test") if split in clips}
    if clips.get("val"):
        if val is None:
            raise DataError(
                f"there are {len(clips['val'])} clips in val beside train and test: say with --val what they are, "
                "train (training can withhold a validation share itself), test or none"
            )
        if val != "none":
            parts[val] = parts.get(val, []) + clips["val"]
    return parts["train"], parts["test"]


def check_unique(clips: Sequence[Clip]) -> None:
    """Raise DataError if two clips would have the same name."""
    if twice := repeated(clip.name for clip in clips):
        paths = list(dict.fromkeys(str(clip.sources[0]) for clip in clips if clip.name == twice[0]))
        remedy = "remove or rename one" if len(paths) > 1 else "remove a row of the list"
        raise DataError(f"{len(twice)} clips are there twice, {' and '.join(paths)} among them: {remedy}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/folder", fps=1, test_fraction=0.2, min_frames=3)
    add_media_args(parser)
    parser.add_argument("--list", type=Path, help="CSV of `path,label,split` or `path,label`, in place of the folders")
    parser.add_argument("--val", choices=("train", "test", "none"), help="what a val split beside train and test is")
    args = parser.parse_args(argv)
    check_args(args)
    recipe = media_recipe(args)
    by_split = read_clips(args.list, args.raw) if args.list else find_clips(args.raw)
    lists = divide(by_split, args.val)
    clips = [clip for part in lists for clip in part] if lists else by_split[""]
    check_unique(clips)
    if len(labels := {clip.label for clip in clips}) == 1:
        raise DataError(f"all clips are of one class, {labels.pop()}: is {args.raw} the folder above the classes?")
    work = partial(prepare_clip, fps=args.fps, **recipe)
    settings = {"dataset": "folder", **recipe, "min_frames": args.min_frames}
    parts = prepare(args, sorted(clips, key=lambda clip: clip.name), work, settings, lists=lists)
    write_classes(args.out, parts)


if __name__ == "__main__":
    run(main)
