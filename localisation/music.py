"""MUSIC: solos and duets of eleven instruments, from YouTube (Zhao et al., ECCV 2018)."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from dataset.classes import INSTRUMENTS
from localisation.data import PARTS, Clips, Localisation
from localisation.mosaics import Mosaics
from localisation.seconds import Seconds
from utils.numbers import count, positive

SOLO = 0.1  # ratio of a map's maximum, in the published evaluation
RATIOS = {"synthetic": 0.5, "duet": 0.2}  # the same of the kinds of mixed clips


class MUSIC(Localisation):
    """Solos for the first stage and, by --mixed, mosaics of solos or real duets as mixed clips.

    Sound: the magnitude of windows of 10 ms, every 5 ms, in 64 mel bands to 8 kHz, in decibels and no more than 80
    below the loudest, 201 x 64, not normalised (two of the bands lie between the frequencies of so short a window and
    are empty, in the public code, too). Frames: in training on solos one of the second's four, mirrored or not, of
    changed brightness and colour, resized to 8/7 of the size and cropped; all others only resized. The test's are the
    frames with published boxes, all of whose objects sound, and in a mosaic those of the two solos that do.

    Mosaics are made as the authors describe MUSIC-Synthetic, of the second stage's videos to train on and of the test's
    to test on. Which seconds a mosaic holds depends on --mosaic_seed, the part and its number alone, so they are not
    the published mosaics.
    """

    protocol = "public code of DSOL and CSOL"
    defaults = dict(data_root="data/MUSIC", image_size=224, encoder="resnet18", clusters=len(INSTRUMENTS))

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--mixed", choices=RATIOS, default="synthetic", help="mosaics of four solos, or real duets")
        group.add_argument("--mosaics", type=positive, default=2000, help="to train on; a quarter as many: test")
        group.add_argument("--mosaic_seed", type=count, default=0, help="of what they are made of")

    @classmethod
    def refusal(cls, args: Namespace) -> str | None:
        if args.mixed == "synthetic" and args.image_size % 2:
            return f"--image_size {args.image_size}: a mosaic needs an even number of pixels"
        return None

    @classmethod
    def categories(cls, args: Namespace) -> Sequence[str]:
        return INSTRUMENTS

    @classmethod
    def solo(cls, args: Namespace, part: str) -> Seconds:
        return Seconds(args, "solo", part, SOLO, augmented=True)

    @classmethod
    def mixed(cls, args: Namespace, part: str) -> Clips:
        seconds = Seconds(args, args.mixed, part, RATIOS[args.mixed])
        return Mosaics(args, seconds, part) if args.mixed == "synthetic" else seconds

    @classmethod
    def files(cls, args: Namespace) -> list[Path]:
        root = Path(args.data_root)
        return [*(root / f"{part}_{kind}.csv" for kind in ("solo", args.mixed) for part in PARTS), root / "boxes.json"]
