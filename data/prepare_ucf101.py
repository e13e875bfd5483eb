"""Prepare UCF101: frames and the optical flow at the same moments.

    python data/prepare_ucf101.py --raw raw/UCF101 --out data/UCF101 --fps 3

Reads `<raw>/UCF-101/<Class>/v_<Class>_gXX_cYY.avi` and the lists of `<raw>/ucfTrainTestlist`. Writes

    <out>/Image-{fps:02d}-FPS/<clip>/00001.jpg ...    the frame on the screen at i/fps s
    <out>/Flow-{fps:02d}-FPS/<clip>/00001.png ...     the motion from that frame to the next one of the video
    <out>/train01.csv, test01.csv ... test03.csv      the three published splits, rows `clip,label`, no header
    <out>/classInd.txt                                the classes, as published
    <out>/manifest.json                               settings, counts, failures, sha256 of the split files

Flow: DIS (Kroeger et al., ECCV 2016; OpenCV, preset medium) between grey pictures of full size, in pixels from one
frame of the video to the next, whatever --fps; that of the last frame is the motion towards it. It is stored in one
picture of 8 bit, u (to the right) above v (downwards), 128 + 127/20 of it, without loss beyond: vectors are clipped to
20 pixels in u and in v, and rounded to steps of 20/127 = 0.16 pixels.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dataset.prepare.clips import Clip, ClipError, by_stem, write_frames
from dataset.prepare.media import Media, picture
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.splits import Parts, read_list
from utils.errors import DataError
from utils.files import write_atomically

BOUND = 20  # pixels
SPLITS = ("01", "02", "03")
TOLERANCE = 0.2  # s by which decoders and headers of whole videos may disagree about the length
REMEDY = "it is in UCF101TrainTestSplits-RecognitionTask.zip; unpack that again"
ROW = re.compile(r"(?P<label>\w+)/(?P<name>(?P<group>v_\w+_g\d+)_c\d+)\.(?i:avi)(?: +(?P<number>\d+))?")


def read_classes(path: Path) -> dict[str, int]:
    """{class: number} of classInd.txt, rows `number class`, numbered from 1 without a gap."""
    classes = {}
    for count, (number, row) in enumerate(read_list(path, REMEDY), 1):
        fields = " ".join(row).split()
        if len(fields) != 2 or fields[0] != str(count) or fields[1] in classes:
            raise DataError(
                f"{path}, line {number}: expected `{count} class`, each class once, found {' '.join(row)!r}"
            )
        classes[fields[1]] = count
    return classes


def read_clips(path: Path, videos: Path, classes: dict[str, int]) -> list[Clip]:
    """The clips of trainlistNN.txt or testlistNN.txt, rows `Class/clip.avi` and in the former the class number."""
    clips: dict[str, Clip] = {}
    for number, fields in read_list(path, REMEDY):
        where, line = f"{path}, line {number}", " ".join(fields)
        if not (row := ROW.fullmatch(line)):
            raise DataError(f"{where}: expected `Class/v_Class_gXX_cYY.avi`, found {line!r}")
        # The label is the folder: the clips of HandstandPushups are called v_HandStandPushups.
        name, label = row["name"], row["label"]
        if label not in classes or row["number"] not in (None, str(classes[label])):
            raise DataError(f"{where}: {line!r} does not agree with classInd.txt")
        if name in clips:
            raise DataError(f"{where}: {name} is there twice")
        clips[name] = Clip(name, label, row["group"], (source_of(videos / label, name),))
    return list(clips.values())


def source_of(folder: Path, name: str) -> Path:
    """The file of a clip, whose suffix may be in capital letters."""
    path = folder / f"{name}.avi"
    return path if path.exists() else by_stem(folder, ".avi").get(name, path)


def read_splits(raw: Path, classes: dict[str, int]) -> dict[str, Parts]:
    """The published splits by number. Raises DataError if a group of clips of one scene is in both parts of one."""
    splits = {}
    for split in SPLITS:
        paths = (raw / "ucfTrainTestlist" / f"{part}list{split}.txt" for part in ("train", "test"))
        train, test = (read_clips(path, raw / "UCF-101", classes) for path in paths)
        if both := sorted({clip.group for clip in train} & {clip.group for clip in test}):
            raise DataError(f"split {split}: {len(both)} groups are in train and in test, {both[0]} among them")
        splits[split] = train, test
    return splits


def sample(frames: Iterator[np.ndarray], rate: Fraction, fps: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The frames on the screen at i/fps s and the flow (height, width, 2) of each. Raises ClipError for a still.

    An AVI file stores no time stamps: frame k is shown from k/rate on.
    """
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = partial(cv2.cvtColor, code=cv2.COLOR_BGR2GRAY)
    pictures, flows = [], []
    before = last = None
    number = -1  # of `last`

    def due() -> bool:
        return number >= 0 and len(pictures) * rate // fps == number  # exact: the rate is a fraction

    for frame in frames:
        while due():
            pictures.append(last)
            flows.append(method.calc(grey(last), grey(frame), None))
        before, last, number = last, frame, number + 1
    if before is None:
        raise ClipError(f"the video holds {number + 1} frames; the flow needs two")
    while due():
        pictures.append(last)
        flows.append(method.calc(grey(before), grey(last), None))
    return pictures, flows


def levels(flow: np.ndarray) -> np.ndarray:
    """(height, width, 2) in pixels -> (2 height, width) uint8, u above v; 128 is no motion."""
    flow = np.rint(flow.clip(-BOUND, BOUND) * (127 / BOUND)) + 128
    return np.concatenate([flow[..., 0], flow[..., 1]]).astype(np.uint8)


def prepare_clip(clip: Clip, motion: Path, folder: Path, fps: int) -> None:
    """The recipe of a clip: its flow into `motion`, its frames into `folder`."""
    with Media(clip.sources[0], tolerance=TOLERANCE) as media:
        pictures, flows = sample((picture(frame) for _, frame in media.frames()), media.rate, fps)
    write_frames(folder, pictures)
    for number, flow in enumerate(flows, 1):
        _, png = cv2.imencode(".png", levels(flow))
        (motion / f"{number:05d}.png").write_bytes(png)


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/UCF101", fps=3, test_fraction=None)
    args = parser.parse_args(argv)
    check_args(args)
    for folder in ("UCF-101", "ucfTrainTestlist"):
        if not (args.raw / folder).is_dir():
            raise DataError(f"{args.raw / folder} is not there: --raw must hold UCF-101 and ucfTrainTestlist")
    index = args.raw / "ucfTrainTestlist" / "classInd.txt"
    classes = read_classes(index)
    splits = read_splits(args.raw, classes)
    clips = {clip.name: clip for parts in splits.values() for part in parts for clip in part}
    videos = {name for folder in (args.raw / "UCF-101").iterdir() for name in by_stem(folder, ".avi")}
    print(f"{len(videos)} videos, {len(clips)} of {len(classes)} classes in the lists (published: 13320 of 101)")
    if unlisted := sorted(videos - clips.keys()):
        print(f"not prepared, as no list has them: {len(unlisted)}, {unlisted[0]} among them")
    settings = {"dataset": "UCF101", "flow": "DIS medium", "bound": BOUND}
    rows, work = [clips[name] for name in sorted(clips)], partial(prepare_clip, fps=args.fps)
    prepare(args, rows, work, settings, None, splits, beside=f"Flow-{args.fps:02d}-FPS/{{}}")
    write_atomically(args.out / "classInd.txt", "".join(f"{number} {name}\n" for name, number in classes.items()))


if __name__ == "__main__":
    run(main)
