"""Prepare AVE: the event of every video, or the whole video, as sound and frames.

    python data/prepare_ave.py --raw raw/AVE_Dataset --out data/AVE --allow_missing
    python data/prepare_ave.py --raw raw/AVE_Dataset --out data/AVE_clip --segment clip

Reads `<raw>/AVE/<video>.mp4` and the published lists `<raw>/{trainSet,valSet,testSet}.txt`, rows
`class&video&quality&start&end`, in seconds; the layout written is that of dataset/prepare/, with val.csv.

A video belongs to one split: that of the test list, else that of the validation list, else the training list; within a
list its first row stands. What this leaves out is said. Sound: mono, 16 kHz, 16 bit. Frames: those on the screen at
start + i/fps, at most 256 pixels on the shorter side (--size).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataset.classes import EVENTS
from dataset.lists import read_lines
from dataset.prepare.clips import Clip, ClipError, by_stem, write_frames
from dataset.prepare.media import Media, prepare_clip, shrink
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.sound import write_wave
from dataset.prepare.videos import add_media_args, media_recipe
from utils.errors import DataError, list_names

LISTS = {"test": "testSet.txt", "val": "valSet.txt", "train": "trainSet.txt"}  # a video is of the first that names it


@dataclass(frozen=True)
class Event(Clip):
    """A video and when its event begins and ends, in s."""

    begin: float = 0.0
    end: float = math.inf


def read_events(path: Path, videos: Path) -> list[Event]:
    """The rows of a published list. Raises DataError for one that is none."""
    if not path.is_file():
        raise DataError(f"{path} is not there: --raw must hold the lists of the download beside the folder AVE")
    events, files = [], by_stem(videos, ".mp4")
    for number, line in read_lines(path):
        fields = line.split("&")
        if number == 1 and fields[0] == "Category":
            continue
        try:
            label, video, _, *span = fields
            begin, end = map(float, span)
            known = label in EVENTS and video and "/" not in video and 0 <= begin < math.inf and 0 <= end < math.inf
        except ValueError:
            known = False
        if not known:
            raise DataError(
                f"{path}, line {number}: expected `class&video&quality&start&end` with one of the 28 classes and "
                f"seconds, found {line!r}"
            )
        events.append(Event(video, label, "", (files.get(video, videos / f"{video}.mp4"),), begin, end))
    return events


def divide(lists: dict[str, list[Event]]) -> dict[str, list[Event]]:
    """The lists with every video in the first of them that names it, by its first row there; says what is left out."""
    of: dict[str, str] = {}
    divided: dict[str, list[Event]] = {}
    for part, events in lists.items():
        elsewhere = {event.name for event in events if event.name in of}
        if elsewhere:
            there = " and ".join(dict.fromkeys(of[event.name] for event in events if event.name in elsewhere))
            print(f"in {part} and in {there}, too, so kept out of {part}: {list_names(sorted(elsewhere), 100)}")
        divided[part] = []
        again = []
        for event in events:
            if event.name not in of:
                of[event.name] = part
                divided[part].append(event)
            elif event.name not in elsewhere:
                again.append(event.name)
        if again:
            print(f"named again in {part}, where the first row stands: {list_names(again, 100)}")
    return divided


def prepare_event(event: Event, wave: Path, folder: Path, fps: int, sample_rate: int, size: int) -> None:
    """The recipe of a video's event: its sound to `wave`, its frames into `folder`."""
    begin, end = event.begin, event.end
    if not begin < end:
        raise ClipError(f"its event lasts from {begin:g} to {end:g} s, which is no time")
    with Media(event.sources[0], sample_rate) as media:
        write_frames(folder, (shrink(image, size) for image in media.shown(fps, begin, end)))
        sound = media.sound()[round(begin * sample_rate) : round(end * sample_rate)]
        if begin >= media.end or not len(sound):
            raise ClipError(f"its event begins at {begin:g} s, after the end of the video")
    write_wave(wave, sound, sample_rate)


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/AVE", fps=2, min_frames=4)
    add_media_args(parser, size=256)
    parser.add_argument("--segment", choices=("event", "clip"), default="event", help="the event alone or the video")
    args = parser.parse_args(argv)
    check_args(args)
    recipe = media_recipe(args)
    files = {part: args.raw / name for part, name in LISTS.items()}
    divided = divide({part: read_events(path, args.raw / "AVE") for part, path in files.items()})
    clips = sorted((event for events in divided.values() for event in events), key=lambda event: event.name)
    listed = {event.sources[0] for event in clips}
    if unlisted := [path.name for path in by_stem(args.raw / "AVE", ".mp4").values() if path not in listed]:
        print(f"in no list, so not prepared: {list_names(unlisted)}")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()}
    settings = {"dataset": "AVE", "segment": args.segment, **recipe, "min_frames": args.min_frames, "events": sums}
    work = partial({"event": prepare_event, "clip": prepare_clip}[args.segment], fps=args.fps, **recipe)
    prepare(args, clips, work, settings, lists=(divided["train"], divided["test"], divided["val"]))


if __name__ == "__main__":
    run(main)
