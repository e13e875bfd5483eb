"""Prepare GRID: one spoken word cut out of every sentence, as sound and frames.

    python data/prepare_grid.py --raw raw/GRID --out data/GRID --position digit --seconds 0.64 --grey

Reads `<raw>/<speaker>/<id>.mpg` and `<raw>/align/<speaker>/<id>.align`; the layout written is that of dataset/prepare/.

Window: `seconds` long, centred on the word, its start rounded to the nearest frame of the video (1/25 s, so that sound
and frames begin together at any --fps), moved inside the clip. Sound: 16 kHz, mono, 16 bit. Frames: those on the screen
at start + i/fps, the whole face or, with --crop, one square box of it, the same for all clips. Label: the word; the id
of a sentence spells its six words, and the align file must agree with it. Clips are named `<id>`, or `<speaker>_<id>`
when there are several speakers.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dataset.classes import WORDS
from dataset.lists import read_lines
from dataset.prepare.clips import Clip, ClipError, by_stem, check_source, write_frames
from dataset.prepare.media import Media, picture, shown_at
from dataset.prepare.run import check_args, common_parser, prepare, run
from dataset.prepare.sound import write_wave
from utils.errors import DataError, RunError

UNITS = 25_000  # of the align files, per second
VIDEO_FPS = 25
WIDTH, HEIGHT = 360, 288  # of the videos, in pixels
SAMPLE_RATE = 16_000
# Position in the sentence -> character of the id -> word: the word's initial, of digits the digit or z.
SPELT = {position: {word[0]: word for word in words} for position, words in WORDS.items()}
SPELT["digit"] = dict(zip("z123456789", WORDS["digit"], strict=True))


def find_clips(raw: Path, position: str) -> list[Clip]:
    """All sentences of every speaker with a video folder, also where the video or the align file is missing."""
    align = raw / "align"
    if not align.is_dir():
        raise DataError(f"{align} is not there: --raw must hold align/<speaker>/*.align beside <speaker>/*.mpg")
    aligned = {path.name for path in align.iterdir() if path.is_dir()}
    folders = [path for path in raw.glob("[!._]*") if path.is_dir() and path != align]
    speakers = sorted(path.name for path in folders if path.name in aligned or by_stem(path, ".mpg"))
    if without_video := sorted(aligned - set(speakers)):
        print(f"not prepared, as {raw} has no folder of videos for them: {', '.join(without_video)}")
    place = list(WORDS).index(position)
    clips = []
    for speaker in speakers:
        videos, aligns = by_stem(raw / speaker, ".mpg"), by_stem(align / speaker, ".align")
        for name in sorted(videos.keys() | aligns.keys()):
            if len(name) != len(WORDS) or any(c not in words for c, words in zip(name, SPELT.values(), strict=True)):
                raise DataError(f"{name} of {speaker} does not spell a GRID sentence, as bbaf2n does: remove it")
            label = SPELT[position][name[place]]
            clip = name if len(speakers) == 1 else f"{speaker}_{name}"
            video = videos.get(name, raw / speaker / f"{name}.mpg")
            clips.append(Clip(clip, label, speaker, (video, aligns.get(name, align / speaker / f"{name}.align"))))
    return clips


def read_word(path: Path, position: str, label: str) -> tuple[float, float, float]:
    """Start and end of the word and end of the sentence's recording, in seconds. Raises ClipError."""
    check_source(path, parts=3)
    try:
        rows = [line.split() for _, line in read_lines(path)]
        spans = [(int(start) / UNITS, int(end) / UNITS, word) for start, end, word in rows]
    except (ValueError, DataError) as error:
        raise ClipError(f"{path.name} has a line that is not `start end word`") from error
    words = [span for span in spans if span[2] not in ("sil", "sp")]
    if len(words) != len(WORDS):
        raise ClipError(f"{path.name} has {len(words)} words in place of {len(WORDS)}")
    start, end, word = words[list(WORDS).index(position)]
    if word not in (label, path.stem[list(WORDS).index(position)]):  # some files write the digit zero as z
        raise ClipError(f"{path.name} has the {position} {word!r} where the id spells {label!r}: of another sentence?")
    return start, end, spans[-1][1]


def window_start(start: float, end: float, seconds: float, length: float) -> float:
    """Start in seconds of the window around a word, on a frame of the video and inside a clip of this length."""
    centred = math.floor(((start + end) / 2 - seconds / 2) * VIDEO_FPS + 0.5)
    last = math.floor((length - seconds) * VIDEO_FPS + 1e-6)
    return max(0, min(centred, last)) / VIDEO_FPS


def parse_crop(text: str) -> list[int]:
    """X, Y and SIDE of a `--crop X,Y,SIDE` that lies in GRID's pictures, in pixels. Raises DataError."""
    if not re.fullmatch(r"[0-9]+,[0-9]+,[0-9]+", text):
        raise RunError(f"--crop {text}: must be X,Y,SIDE in whole pixels, as 107,166,96")
    crop = [int(number) for number in text.split(",")]  # a list, as the manifest gives it back
    if not inside(crop, WIDTH, HEIGHT):
        raise RunError(f"--crop {text}: SIDE must be at least 1 and the box inside the {WIDTH} x {HEIGHT} picture")
    return crop


def inside(crop: Sequence[int], width: int, height: int) -> bool:
    """Whether a box with X and Y of at least 0 is not empty and lies in a picture of this size, in pixels."""
    x, y, side = crop
    return side >= 1 and x + side <= width and y + side <= height


def prepare_clip(
    clip: Clip,
    wave: Path,
    folder: Path,
    position: str,
    seconds: float,
    crop: Sequence[int] | None,
    size: int,
    grey: bool,
    fps: int,
):
    """The recipe of a clip: the word at `position` and what is around it, its sound to `wave`, frames into `folder`."""
    video, align = clip.sources
    start, end, sentence_end = read_word(align, position, clip.label)
    with Media(video, SAMPLE_RATE) as media:
        times, frames = zip(*media.frames(), strict=True)
        sound = media.sound()
    length = min(media.end, len(sound) / SAMPLE_RATE)
    if length < sentence_end - 0.1:  # in whole clips the sound ends up to a frame before the alignment
        raise ClipError(f"{video.name} is truncated: it ends at {length:.2f} s, its alignment at {sentence_end:.2f} s")
    if length < seconds:
        raise ClipError(f"{video.name} is shorter ({length:.2f} s) than the window of {seconds} s")
    width, height = frames[0].width, frames[0].height
    if crop and not inside(crop, width, height):  # a slice beyond the edge would be cut short without a word
        raise ClipError(f"{video.name} is {width} x {height} and does not hold the box of --crop")
    begin = window_start(start, end, seconds, length)
    first = round(begin * SAMPLE_RATE)
    write_wave(wave, sound[first : first + round(seconds * SAMPLE_RATE)], SAMPLE_RATE)
    shown = shown_at(np.array(times), begin + np.arange(round(seconds * fps)) / fps)
    write_frames(folder, (shape(picture(frames[i]), crop, size, grey) for i in shown))


def shape(image, crop: Sequence[int] | None, size: int, grey: bool):
    """A BGR image cut to its box, made grey and with `size` pixels on its shorter side, where asked for."""
    if crop:
        x, y, side = crop
        image = image[y : y + side, x : x + side]
    if grey:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if size:
        scale = size / min(image.shape[:2])
        image = cv2.resize(image, [round(side * scale) for side in image.shape[1::-1]], interpolation=cv2.INTER_AREA)
    return image


def main(argv: Sequence[str] | None = None) -> None:
    parser = common_parser(__doc__.splitlines()[0], out="data/GRID", fps=VIDEO_FPS, test_fraction=0.2)
    parser.add_argument("--position", choices=list(WORDS), default="digit", help="the word to cut out, the class")
    parser.add_argument("--seconds", type=float, default=0.64, help="length of the window")
    parser.add_argument(
        "--crop", metavar="X,Y,SIDE", help="square box of the 360 x 288 picture, in pixels from the top left corner"
    )
    parser.add_argument("--size", type=int, default=0, help="pixels of the frames' shorter side; 0 leaves them alone")
    parser.add_argument("--grey", action="store_true", help="grey frames")
    args = parser.parse_args(argv)
    check_args(args)
    if round(args.seconds * args.fps) < 1:
        raise RunError(f"--seconds {args.seconds} holds no frame at --fps {args.fps}: make one of them larger")
    if args.size < 0:
        raise RunError(f"--size {args.size}: must be 0 or the pixels of the shorter side")
    crop = None if args.crop is None else parse_crop(args.crop)
    clips = find_clips(args.raw, args.position)
    recipe = {"position": args.position, "seconds": args.seconds, "crop": crop, "size": args.size, "grey": args.grey}
    several = len({clip.group for clip in clips}) > 1
    settings = {"dataset": "GRID", **recipe, "clip_names": "<speaker>_<id>" if several else "<id>"}
    prepare(args, clips, partial(prepare_clip, **recipe, fps=args.fps), settings, "speaker")


if __name__ == "__main__":
    run(main)
