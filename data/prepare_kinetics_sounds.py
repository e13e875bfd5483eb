"""Prepare Kinetics-Sounds from a download of Kinetics: the clips of its 31 classes as sound and frames.

    python data/prepare_kinetics_sounds.py --raw raw/kinetics400 --out data/KineticsSounds --allow_missing
    python data/prepare_kinetics_sounds.py --raw raw/kinetics400 --out data/KineticsSounds --allow_missing \
        --train_list my_train.txt --test_list my_test.txt

Reads `<raw>/{train,val}/<class>/<youtube id>_<start>_<end>.mp4`, the class with blanks or underscores (--train_folder
and --test_folder name other folders); the layout written is that of dataset/prepare/. Without lists, train is the
training split and val the test split, as in the published lists.

A list is that of a paper, rows `<youtube id>_<start>[...] ... <class number>` divided by commas or blanks, or Kinetics'
own CSV (label, youtube_id, time_start, time_end, split), of which the other classes are passed over. Clips of a list
that are not in the download are reported as missing. The label is the folder's; the numbers of a list must agree with
the folders, one number for one class.

Sound: mono, 16 kHz, 16 bit. Frames: those on the screen at i/fps, at most 256 pixels on the shorter side (--size).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dataset.classes import ACTIONS
from dataset.lists import repeated
from dataset.prepare.clips import Clip
from dataset.prepare.media import prepare_clip
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.splits import check_unseen, read_list
from dataset.prepare.videos import SUFFIXES, add_media_args, files_below, media_recipe, only_videos
from utils.errors import DataError, RunError, list_names

# Names in the paper that introduced the set, which used a Kinetics of before its release (arXiv 1705.08168, A.1). Its
# other three of 34 classes, typing, fingerpicking and patting, are in no release and belong to none of the 31.
ALIASES = {
    "blowing out": "blowing out candles",
    "dribbling ball": "dribbling basketball",
    "mowing the lawn by pushing lawnmower": "mowing lawn",
    "stomping": "stomping grapes",
}
ID = re.compile(r"([\w-]{11})_(\d{1,9})(?:_(\d+))?")  # YouTube id, start and end in s


def class_of(name: str) -> str | None:
    """The class that a folder or label names, or None if it is none of the 31."""
    plain = " ".join(name.replace("_", " ").lower().split())
    plain = ALIASES.get(plain, plain)
    return plain if plain in ACTIONS else None


def find_clips(folder: Path) -> dict[tuple[str, int], Clip]:
    """{(YouTube id, start in s): clip} of the 31 classes. Raises DataError for a video whose name says no such."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not there: --raw must hold it, or name it by --train_folder or --test_folder")
    clips: dict[tuple[str, int], Clip] = {}
    others = 0
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (label := class_of(place.name)) is None:
            others += 1
            continue
        for video in only_videos(files_below(place), place):
            if not (match := ID.fullmatch(video.stem)):
                raise DataError(f"{video} is not named <youtube id>_<start>_<end>: rename or remove it")
            key = match[1], int(match[2])
            if key in clips:
                raise DataError(f"{video} and {clips[key].sources[0]} are the same clip: remove one")
            clips[key] = Clip(video.stem, label, "", (video,))
    if stray := sorted(path.name for path in folder.glob("[!.]*") if path.suffix.lower() in SUFFIXES):
        print(f"{folder}: not prepared, as they are in the folder of no class: {list_names(stray)}")
    labels = {clip.label for clip in clips.values()}
    print(f"{folder}: {len(clips)} clips of {len(labels)} classes; {others} folders of other classes passed over")
    return clips


def read_numbers(path: Path) -> dict[tuple[str, int], str]:
    """{(YouTube id, start in s): class, or its number} in the order of the list. Raises DataError with the line."""
    rows = read_list(path)
    header = rows[0][1]
    listed: dict[tuple[str, int], str] = {}
    for number, fields in rows[1:] if "youtube_id" in header else rows:
        line = ",".join(fields)
        if "youtube_id" in header:
            row = dict(zip(header, fields, strict=False))
            try:
                key, label = (row["youtube_id"], int(float(row["time_start"]))), class_of(row["label"])
            except (KeyError, ValueError, OverflowError) as error:
                raise DataError(f"{path}, line {number}: no label, youtube_id or time_start in {line!r}") from error
            if label is None:
                continue
        elif match := re.fullmatch(rf"(?:.*/)?{ID.pattern}(?:\.\w+)?[\s,].*?(\d+)\s*", line):
            key, label = (match[1], int(match[2])), match[4]
        else:
            raise DataError(f"{path}, line {number}: expected `<youtube id>_<start> ... <number>`, found {line!r}")
        if key in listed:
            raise DataError(f"{path}, line {number}: {key[0]}_{key[1]} is there twice")
        listed[key] = label
    if not listed:
        raise DataError(f"the list {path} names no clip of the {len(ACTIONS)} classes")
    return listed


def choose(
    listed: dict[tuple[str, int], str], clips: dict[tuple[str, int], Clip], names: dict[str, str], raw: Path
) -> list[Clip]:
    """The clips of a list, also those without a file. names: {number: class}, as `check_numbers` returns it."""
    chosen = []
    for (video, start), label in listed.items():
        name = f"{video}_{start:06d}_{start + 10:06d}"
        missing = Clip(name, names.get(label, label), "", (raw / f"{name}.mp4",))
        chosen.append(clips.get((video, start), missing))
    return chosen


def check_numbers(lists: Sequence[dict[tuple[str, int], str]], clips: dict[tuple[str, int], Clip]) -> dict[str, str]:
    """{class or number of the lists: class of the folders}. Raises DataError where the two contradict each other."""
    votes: dict[str, Counter] = defaultdict(Counter)
    for listed in lists:
        for key, label in listed.items():
            if key in clips:
                votes[label][clips[key].label] += 1
    names = {label: counts.most_common(1)[0][0] for label, counts in votes.items()}
    wrong = [f"{label}: {', '.join(counts)}" for label, counts in sorted(votes.items()) if len(counts) > 1]
    wrong += [f"{label} called {name}" for label, name in names.items() if not label.isdigit() and label != name]
    shared = repeated(names.values())
    if wrong or shared:
        raise DataError(
            f"lists and folders name the classes differently ({'; '.join(wrong + shared)}): are both of one release?"
        )
    return names


def check_splits(train: Sequence[Clip], test: Sequence[Clip], allow_missing: bool) -> None:
    """Say which classes and videos are not as published; raise DataError for missing classes and shared clips."""
    check_unseen(train, test, "splits")
    videos = [{clip.name[:11] for clip in part} for part in (train, test)]
    if shared := sorted(videos[0] & videos[1]):
        print(f"{len(shared)} YouTube videos have clips in both splits, {shared[0]} among them")
    for part, clips in (("train", train), ("test", test)):
        if absent := [name for name in ACTIONS if name not in {clip.label for clip in clips}]:
            message = f"{part} has no clip of {len(absent)} of the {len(ACTIONS)} classes: {', '.join(absent)}"
            if not allow_missing:
                raise DataError(f"{message}; complete the download, or pass --allow_missing")
            print(message)


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/KineticsSounds", fps=1, min_frames=3)
    add_media_args(parser, size=256)
    parser.add_argument("--train_folder", default="train", help="folder of the training clips in --raw")
    parser.add_argument("--test_folder", default="val", help="folder of the test clips in --raw")
    parser.add_argument("--train_list", type=Path, help="published list of training clips")
    parser.add_argument("--test_list", type=Path, help="published list of test clips")
    args = parser.parse_args(argv)
    check_args(args)
    recipe = media_recipe(args)
    if (args.train_list is None) != (args.test_list is None):
        raise RunError("--train_list and --test_list belong together: give both or neither")
    train, test = (find_clips(args.raw / name) for name in (args.train_folder, args.test_folder))
    lists = list(train.values()), list(test.values())
    if args.train_list:
        published = [read_numbers(path) for path in (args.train_list, args.test_list)]
        clips = test | train
        names = check_numbers(published, clips)
        lists = tuple(choose(listed, clips, names, args.raw) for listed in published)
        unlisted = len(clips.keys() - published[0].keys() - published[1].keys())
        print(f"{unlisted} clips of {args.raw} are in neither list: not prepared")
    check_splits(*lists, args.allow_missing)
    clips = sorted([clip for part in lists for clip in part], key=lambda clip: clip.name)
    work = partial(prepare_clip, fps=args.fps, **recipe)
    settings = {"dataset": "Kinetics-Sounds", **recipe, "min_frames": args.min_frames}
    prepare(args, clips, work, settings, lists=lists)


if __name__ == "__main__":
    run(main)
