"""Prepare MUSIC's solos and duets: videos as sound and frames, the published lists of each stage, and the boxes.

    python data/prepare_music.py --raw raw/videos --names raw/MUSIC_dataset --lists raw/DSOL --allow_missing

Reads, below <raw>, in any folders, the videos that you have: `<id>.mp4`, or `<id>_0_1000.mp4` as the lists call them;
file types as in data/prepare_videos.py. Below <names> the public list of the videos and of what is played in them,
MUSIC_{solo,duet}_videos.json, and below <lists> those of DSOL's public code:

    solo_training_1.txt solo_training_2.txt   the solos of the first and of the second stage's training
    solo_testing.txt                          the solos with boxes
    duet_pairs_train.txt duet_pairs_val.txt   the duets, the second with boxes
    solotest.json duettest.json               the boxes, by video, second and frame

The layout written is that of dataset/prepare/, the whole video as mono sound of 16 kHz and frames at i/4 s, and

    train_solo.csv test_solo.csv              rows `video,instrument`: what the first stage trains and is tested on
    train_synthetic.csv test_synthetic.csv    the solos of which mosaics are made; the test's are those of test_solo.csv
    train_duet.csv test_duet.csv              rows `video,two instruments with a blank between`
    boxes.json                                {video: {number of the frame: [[instrument, left, top, width, height]]}},
                                              in shares of the frame, of the test's frames; [] where nothing is

The box files number a video's frames at 30 a second, of which they have the numbers 0, 7, 14 and 21 of every second;
these are the frames on the screen at 0, 1/4, 2/4 and 3/4 s here, up to 0.05 s later.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dataset.classes import INSTRUMENTS
from dataset.lists import read_lines, read_text
from dataset.prepare.clips import Clip
from dataset.prepare.media import prepare_clip
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.splits import PARTS, Parts, check_unseen
from dataset.prepare.videos import add_media_args, files_below, media_recipe, only_videos
from localisation.boxes import is_box
from utils.errors import DataError, RunError, list_names
from utils.files import write_atomically

FPS, BOX_RATE = 4, 30  # frames a second: that are kept, and by which the box files number them
VIDEO = re.compile(r"(?P<video>[\w-]{11})(_\d+_\d+)?", re.ASCII)  # YouTube's name, and a span
FRAME = re.compile(rf"{VIDEO.pattern}/frame_(?P<second>\d{{1,9}})/(?P<number>\d{{1,9}})\.jpg", re.ASCII)
LISTS = {
    "_solo": ("solo_training_1.txt", "solo_testing.txt"),
    "_synthetic": ("solo_training_2.txt", "solo_testing.txt"),
    "_duet": ("duet_pairs_train.txt", "duet_pairs_val.txt"),
}
NAMES = {"solo": "MUSIC_solo_videos.json", "duet": "MUSIC_duet_videos.json"}
BOXES = ("solotest.json", "duettest.json")
# The numbers of the box files, as the public code has them: the seven instruments with boxes.
NUMBERED = {
    1: "cello", 3: "acoustic_guitar", 8: "saxophone", 10: "trumpet", 11: "violin", 12: "flute", 13: "accordion",
}  # fmt: skip


def find(folder: Path, name: str, flag: str) -> Path:
    """The file of this name below a folder. Raises DataError if there is none, or there are several that differ."""
    found = sorted(folder.rglob(name))
    if not found:
        raise DataError(f"--{flag} {folder} has no {name} below it: data/README.md says what to clone")
    if len({path.read_bytes() for path in found}) > 1:
        raise DataError(f"{found[0]} and {found[1]} differ: name with --{flag} the folder of the one that is meant")
    return found[0]


def read_object(path: Path) -> dict:
    """The object that a JSON file holds. Raises DataError for another file."""
    try:
        return dict(json.loads(read_text(path)))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not the JSON object that is published ({error}): fetch it again") from None


def read_names(path: Path) -> dict[str, str]:
    """{video: its label}, an instrument or two with a blank between. Raises DataError for what is no such list."""
    labels: dict[str, str] = {}
    groups = read_object(path).get("videos")
    if not isinstance(groups, dict) or not all(isinstance(videos, list) for videos in groups.values()):
        raise DataError(f"{path} must hold {{'videos': {{instruments: [videos]}}}}: fetch it again")
    for label, videos in groups.items():
        if unknown := set(label.split(" ")) - set(INSTRUMENTS):
            raise DataError(f"{path}: {', '.join(sorted(unknown))} is none of {', '.join(INSTRUMENTS)}")
        labels |= dict.fromkeys(videos, label)
    return labels


def read_list(path: Path) -> list[str]:
    """The videos of a published list, rows `<id>_0_1000.flac <id>_0_1000.mp4`. Raises DataError for another row."""
    videos = []
    for number, line in read_lines(path):
        name = VIDEO.fullmatch(Path(line.split()[-1]).stem)
        if not name:
            raise DataError(f"{path}, line {number}: expected `<id>_0_1000.flac <id>_0_1000.mp4`, found {line!r}")
        videos.append(name["video"])
    return list(dict.fromkeys(videos))


def find_videos(raw: Path) -> dict[str, Path]:
    """{video: its file}; says which files are called otherwise. Raises DataError for two files of one video."""
    files: dict[str, Path] = {}
    others = []
    for path in only_videos(files_below(raw), raw):
        if not (name := VIDEO.fullmatch(path.stem)):
            others.append(path.name)
        elif files.setdefault(name["video"], path) != path:
            raise DataError(f"{files[name['video']]} and {path} are one video: remove one of them")
    if others:
        print(f"not prepared, as they are called neither <id> nor <id>_0_1000: {list_names(others)}")
    return files


def read_parts(args, kinds: Sequence[str], files: dict[str, Path]) -> dict[str, Parts]:
    """{suffix: training and test clips} of the published lists, also clips without a file; says how many these are."""
    labels: dict[str, str] = {}
    for kind in NAMES if "_duet" in kinds else ("solo",):
        labels |= read_names(find(args.names, NAMES[kind], "names"))
    parts: dict[str, Parts] = {}
    for kind in kinds:
        lists = []
        for part, name in zip(PARTS, LISTS[kind], strict=True):
            videos = read_list(path := find(args.lists, name, "lists"))
            if unnamed := [video for video in videos if video not in labels]:
                print(f"of {path}, but of no instrument in --names {args.names}, so left out: {list_names(unnamed)}")
            known = [video for video in videos if video in labels]
            lists.append([Clip(v, labels[v], "", (files.get(v, args.raw / f"{v}.mp4"),)) for v in known])
            absent = sum(video not in files for video in known)
            print(f"{part}{kind}: {absent} of {len(known)} videos have no file ({absent / max(1, len(known)):.1%})")
        check_unseen(*lists, f"{LISTS[kind][0]} and {LISTS[kind][1]}")
        parts[kind] = tuple(lists)
    return parts


def read_boxes(path: Path) -> dict[str, dict[int, list]]:
    """{video: {number of the frame, from 1: its boxes}} of a published box file, as boxes.json has them.

    Raises:
        DataError: with the entry that is not what the file is published with.
    """
    found: dict[str, dict[int, list]] = {}
    for key, entry in read_object(path).items():
        name = FRAME.fullmatch(key)
        if not name:
            raise DataError(f"{path}: {key!r} is not `<id>_0_1000/frame_<second>/<number>.jpg`: fetch it again")
        second, number = int(name["second"]), int(name["number"])
        share = number / BOX_RATE - second
        if not 0 <= share < 1:
            raise DataError(f"{path}: frame {number} of {key!r} is not of that second, of {BOX_RATE} frames a second")
        try:
            boxes = [[NUMBERED[box["category_id"]], *map(float, box["normbox"])] for box in entry["bbox"]]
            known = all(is_box(box[1:]) for box in boxes)
        except (KeyError, TypeError, ValueError, OverflowError):
            known = False
        if not known:
            raise DataError(
                f"{path}: {key!r} must have a `bbox`, a list of objects with a `category_id` of "
                f"{', '.join(map(str, NUMBERED))} and a `normbox` of left, top, width and height in [0, 1]"
            )
        place = 1 + FPS * second + min(round(FPS * share), FPS - 1)
        found.setdefault(name["video"], {})[place] = boxes
    return found


def write_boxes(args, parts: dict[str, Parts], boxes: dict[str, dict[int, list]]) -> None:
    """Write boxes.json for the frames of the tests' videos that are there; says how many are not."""
    folder = args.out / f"Image-{FPS:02d}-FPS"
    tested = {clip.name for kind in parts for clip in parts[kind][1] if (folder / clip.name).is_dir()}
    kept: dict[str, dict[int, list]] = {}
    beyond = 0
    for video in sorted(tested & boxes.keys()):
        count = sum(1 for _ in (folder / video).glob("[!.]*"))
        kept[video] = {number: boxes[video][number] for number in sorted(boxes[video]) if number <= count}
        beyond += len(boxes[video]) - len(kept[video])
    write_atomically(args.out / "boxes.json", json.dumps(kept, sort_keys=True) + "\n")
    total = sum(map(len, kept.values()))
    print(
        f"{args.out / 'boxes.json'}: {total} frames of {len(kept)} videos; {beyond} frames lie after their video's end"
    )
    if without := sorted(tested - kept.keys()):
        print(f"test videos without boxes, which no number is measured on: {list_names(without)}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/MUSIC", fps=FPS, min_frames=FPS)
    add_media_args(parser, size=256)
    parser.add_argument("--names", type=Path, required=True, help="folder of the public list of the videos")
    parser.add_argument("--lists", type=Path, required=True, help="folder of the published lists and box files")
    parser.add_argument(
        "--no_duets", action="store_true", help="the solos alone, and the mosaics that are made of them"
    )
    args = parser.parse_args(argv)
    check_args(args)
    if (args.fps, args.sample_rate) != (FPS, 16000):
        raise RunError(
            f"--fps {args.fps} --sample_rate {args.sample_rate}: of MUSIC {FPS} and 16000 are read; drop them"
        )
    recipe = media_recipe(args)
    files = find_videos(args.raw)
    parts = read_parts(args, [kind for kind in LISTS if kind != "_duet" or not args.no_duets], files)
    boxes: dict[str, dict[int, list]] = {}
    for name in BOXES if "_duet" in parts else BOXES[:1]:
        boxes |= read_boxes(find(args.lists, name, "lists"))
    clips = {clip.name: clip for kind in parts for part in parts[kind] for clip in part}
    if unlisted := sorted(path.name for video, path in files.items() if video not in clips):
        print(f"in no list, so not prepared: {list_names(unlisted)}")
    if len(unlisted) == len(files):
        raise DataError(f"{args.raw} has no video <id>.mp4 of the lists below {args.lists}: rename the files")
    without = sorted(clip.name for clip in clips.values() if clip.name not in files)
    note = {"videos": len(clips), "without_file": without}
    for name in {name for kind in parts for name in LISTS[kind]}:
        note[name] = hashlib.sha256(find(args.lists, name, "lists").read_bytes()).hexdigest()
    settings = {"dataset": "MUSIC", **recipe, "min_frames": args.min_frames}
    work = partial(prepare_clip, fps=FPS, **recipe)
    prepare(args, [clips[name] for name in sorted(clips)], work, settings, lists=parts, notes={"list": note})
    write_boxes(args, parts, boxes)


if __name__ == "__main__":
    run(main)
