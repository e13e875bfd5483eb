"""Prepare CREMA-D from its public raw layout.

    python data/prepare_cremad.py --raw raw/CREMA-D --out data/CREMAD --fps 3 --train_csv train.csv --test_csv test.csv

Reads `<raw>/AudioWAV/<clip>.wav` and `<raw>/VideoFlash/<clip>.flv`; the layout written is that of dataset/prepare/.

Sound: the wav as it is (hard link, or copy where the file system cannot link).
Frames: those on the screen at times i/fps, i = 0, 1, 2, ..., while i/fps is smaller than the duration. On the screen at
time t is the last frame whose time stamp is at most t (plus 1 ms, the container's clock); the duration is the last time
stamp plus the mean distance of two frames, or plus the last one's own duration where that is longer. So a clip of 2.5 s
has 8 frames at 3 fps, at any frame rate of the file.
Label: the third field of the clip's name. Splits: the given lists, else stratified by label; always an actor-disjoint
one beside it, because every actor of the published lists is in both parts.
"""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dataset.classes import EMOTIONS
from dataset.prepare.clips import Clip, by_stem, write_frames
from dataset.prepare.media import Media
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.sound import check_sound
from dataset.prepare.splits import check_unseen, read_list
from utils.errors import DataError, RunError


def find_clips(raw: Path) -> list[Clip]:
    """All clips of which there is a wav or an flv, sorted by name. Raises DataError for any other file name."""
    folders = raw / "AudioWAV", raw / "VideoFlash"
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder} is not there: --raw must be the folder of CREMA-D that holds it")
    sounds, videos = (by_stem(folder, suffix) for folder, suffix in zip(folders, (".wav", ".flv"), strict=True))
    clips = []
    for name in sorted(sounds.keys() | videos.keys()):
        fields = name.split("_")
        if len(fields) != 4 or fields[2] not in EMOTIONS:
            raise DataError(f"{name} in {raw} is not a CREMA-D name, as 1001_DFA_ANG_XX is: remove it from there")
        sound, video = sounds.get(name, folders[0] / f"{name}.wav"), videos.get(name, folders[1] / f"{name}.flv")
        clips.append(Clip(name, fields[2], fields[0], (sound, video)))
    return clips


def read_clips(path: Path, known: dict[str, Clip], allow_missing: bool) -> list[Clip]:
    """The clips of a published list, rows `clip,label`, in its order. Raises DataError naming the line.

    A clip of which there is no raw file stops the run too, unless clips may be missing: it then fails like any other.
    """
    clips: dict[str, Clip] = {}
    for number, fields in read_list(path):
        where = f"{path}, line {number}"
        if len(fields) != 2:
            raise DataError(f"{where}: expected `clip,label`, found {','.join(fields)!r}")
        name, label = fields
        if label not in EMOTIONS:
            raise DataError(f"{where}: label {label!r} is none of {', '.join(EMOTIONS)}")
        parts = name.split("_")
        if len(parts) != 4 or parts[2] != label:
            raise DataError(f"{where}: the name of {name!r} does not say {label}")
        if name in clips:
            raise DataError(f"{where}: {name} is there twice")
        if name not in known and not allow_missing:
            raise DataError(f"{where}: no raw file of {name}; complete the download, or pass --allow_missing")
        clips[name] = known.get(name) or Clip(name, label, parts[0], (Path("AudioWAV", f"{name}.wav"), Path()))
    return list(clips.values())


def copy_sound(source: Path, target: Path) -> None:
    """Link or copy a wav that is whole, or write one whose header lacks its length. Raises ClipError for others."""
    if mended := check_sound(source):
        target.write_bytes(mended)
        return
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def prepare_clip(clip: Clip, wave: Path, folder: Path, fps: int) -> None:
    """The recipe of a clip: its sound to `wave`, its frames into `folder`."""
    sound, video = clip.sources
    copy_sound(sound, wave)
    with Media(video) as media:
        write_frames(folder, media.shown(fps))


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/CREMAD", fps=3, test_fraction=0.1, min_frames=None)
    parser.add_argument("--train_csv", type=Path, help="published list of training clips")
    parser.add_argument("--test_csv", type=Path, help="published list of test clips")
    args = parser.parse_args(argv)
    if args.min_frames is None:
        args.min_frames = min(3, args.fps)  # the recipes of 1 frame a second train on one
    check_args(args)
    if (args.train_csv is None) != (args.test_csv is None):
        raise RunError("--train_csv and --test_csv belong together: give both or neither")
    clips = {clip.name: clip for clip in find_clips(args.raw)}
    lists = None
    if args.train_csv:
        lists = tuple(read_clips(path, clips, args.allow_missing) for path in (args.train_csv, args.test_csv))
        check_unseen(*lists, "lists")
        if unlisted := len(clips.keys() - {clip.name for part in lists for clip in part}):
            print(f"{unlisted} clips of {args.raw} are in neither list: only in the actor-disjoint split")
        clips |= {clip.name: clip for part in lists for clip in part}
    rows, recipe = [clips[name] for name in sorted(clips)], partial(prepare_clip, fps=args.fps)
    prepare(args, rows, recipe, {"dataset": "CREMA-D"}, "actor", lists)


if __name__ == "__main__":
    run(main)
