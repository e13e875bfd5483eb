"""Prepare AV-MNIST: written digits (MNIST) paired with spoken ones (Free Spoken Digit Dataset).

    python data/prepare_avmnist.py --mnist raw/MNIST --raw raw/free-spoken-digit-dataset --out data/AVMNIST

Reads the four idx files of MNIST (.gz or not) and `<raw>/recordings/<digit>_<speaker>_<number>.wav`. Writes

    <out>/train.npz, test.npz   image (N, 28, 28) uint8; audio (N, 40, 51) float32, log-mel; label and ids (N,)
    <out>/train.csv, test.csv   rows `id,digit`; an id is <recording>+<number of the picture in its MNIST file>
    <out>/manifest.json         settings, counts, recordings left out, the variance that the pictures have lost, sha256

Recordings of --test_speakers are paired with pictures of MNIST's test files, all others with training ones: in training
--pictures each, in testing one. A picture is taken once; which goes with which is drawn by --seed.

Sound: 0.8 s around the middle, with silence before and after what is shorter, at 8 kHz; 40 mel bands of windows of 32
ms every 16 ms, nothing further than a factor e^8 (70 dB) below the loudest, each recording with mean 0 and deviation
1: what is learnt of speakers and microphones would not carry over to others. Of the pictures the --components leading
principal components of the training pictures are taken off.
"""

import argparse
import gzip
import hashlib
import io
import json
import re
import struct
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.prepare.arrays import checksum, complete, finished, write
from dataset.prepare.clips import ClipError, by_stem
from dataset.prepare.run import alone, check_out, report_failed, run
from dataset.prepare.sound import check_sound
from dataset.prepare.space import check_space
from utils.errors import DataError, RunError
from utils.files import write_atomically

FILES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
RECORDING = re.compile(r"(?P<digit>\d)_(?P<speaker>[A-Za-z]+)_\d+")
RATE, SECONDS = 8000, 0.8
PICTURE = (28, 28)
RANGE = 8.0  # nats below the loudest


def idx_file(folder: Path, stem: str, dimensions: int) -> Path:
    """The file of MNIST, as it is published or unpacked. Raises DataError if there is none."""
    names = [f"{stem}{dot}idx{dimensions}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    if not (found := [folder / name for name in names if (folder / name).is_file()]):
        raise DataError(f"{folder / names[1]} is missing: download MNIST as data/README.md says, or set --mnist")
    return found[0]


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an idx file in its shape. Raises DataError if it is none of so many dimensions, or cut off."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack_from(f">{dimensions + 1}I", content)
        if magic != 0x0800 + dimensions:
            raise ValueError(f"it does not begin as an idx file of {dimensions} dimensions")
        return np.frombuffer(content, np.uint8, offset=4 * len((magic, *shape))).reshape(shape)
    except (ValueError, EOFError, OSError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): download it again") from error


def read_mnist(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{part: (pictures (N, 28, 28) uint8, digits (N,))}."""
    found = {}
    for part, (pictures, labels) in FILES.items():
        images, digits = (read_idx(idx_file(folder, s, d), d) for s, d in ((pictures, 3), (labels, 1)))
        if len(images) != len(digits) or digits.max(initial=0) > 9:
            raise DataError(f"{folder}: {len(images)} {pictures} and {len(digits)} {labels} are not of one download")
        if images.shape[1:] != PICTURE:
            raise DataError(
                f"{folder}: {pictures} are of {images.shape[1]} x {images.shape[2]} pixels, and MNIST's of "
                f"{PICTURE[0]} x {PICTURE[1]}: download MNIST again"
            )
        found[part] = images, digits
    return found


def read_sounds(raw: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """{recording: log-mel (40, 51)} in the order of their names, and {recording: why it cannot be used}."""
    from dataset.recipes.audio import read_wave

    folder = raw / "recordings" if (raw / "recordings").is_dir() else raw
    sounds, failed = {}, {}
    for name, path in tqdm(sorted(by_stem(folder, ".wav").items()), desc="sounds", disable=None):
        try:
            if not RECORDING.fullmatch(name):
                raise ValueError("its name is not <digit>_<speaker>_<number>")
            whole = check_sound(path)
            sounds[name] = heard(centred(read_wave(io.BytesIO(whole) if whole else path, RATE)))
        except (ClipError, RuntimeError, ValueError, OSError) as error:
            failed[name] = " ".join(str(error).split())
    return sounds, failed


def centred(wave: np.ndarray) -> np.ndarray:
    """SECONDS around the middle of the wave, with zeros to both sides of what is shorter."""
    wanted = round(RATE * SECONDS)
    if not len(wave):
        raise ValueError("it has no samples")
    lacking = max(0, wanted - len(wave))
    wave = np.pad(wave, (lacking // 2, lacking - lacking // 2))
    first = (len(wave) - wanted) // 2
    return wave[first : first + wanted]


@cache
def log_mel():
    """The recipe of the sound, with its filterbank."""
    from dataset.recipes.audio import LogSpectrogram  # here, since it loads torch

    return LogSpectrogram(RATE, SECONDS, n_fft=256, hop=128, mels=40)


def heard(wave: np.ndarray) -> np.ndarray:
    """The log-mel spectrogram (40, 51) of mean 0 and deviation 1. Raises ValueError for silence."""
    levels = log_mel().of(wave)[0].numpy()
    levels = np.maximum(levels, levels.max() - RANGE)
    if np.ptp(levels) < 1e-3:
        raise ValueError("it is silent")
    return (levels - levels.mean()) / levels.std()


def pair(
    recordings: Sequence[str], digits: np.ndarray, each: int, random: np.random.Generator
) -> list[tuple[str, int]]:
    """(recording, number of a picture of the same digit), `each` pictures for a recording and none of them twice."""
    pairs = []
    by_digit = defaultdict(list)
    for name in recordings:
        by_digit[int(name[0])].append(name)
    for digit in range(10):
        names, there = by_digit[digit], random.permutation(np.flatnonzero(digits == digit))
        if len(names) * each > len(there) or not names:
            raise DataError(
                f"digit {digit}: {len(names)} recordings with {each} pictures each, and {len(there)} pictures; choose "
                "other --test_speakers or fewer --pictures, or complete the download"
            )
        pairs += zip(np.repeat(names, each).tolist(), there[: len(names) * each].tolist(), strict=True)
    return pairs


def degrade(pictures: Mapping[str, np.ndarray], components: int) -> tuple[dict[str, np.ndarray], float]:
    """The pictures without the leading principal components of the training ones, and the share of variance lost."""
    if not components:
        return dict(pictures), 0.0
    flat = pictures["train"].reshape(len(pictures["train"]), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(flat - mean, rowvar=False))
    leading = axes[:, -components:]
    made = {}
    for part, images in pictures.items():
        x = images.reshape(len(images), -1) - mean
        kept = x - x @ leading @ leading.T + mean
        made[part] = np.rint(kept.clip(0, 255)).astype(np.uint8).reshape(images.shape)
    return made, float(variance[-components:].sum() / variance.sum())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--raw", type=Path, required=True, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--mnist", type=Path, required=True, help="folder of MNIST's four idx files")
    parser.add_argument("--out", type=Path, default=Path("data/AVMNIST"), help="folder to write")
    parser.add_argument("--test_speakers", default="jackson,lucas", help="between commas; the others are trained on")
    parser.add_argument("--pictures", type=int, default=1, help="for each training recording; 27 at most of the whole")
    parser.add_argument("--components", type=int, default=6, help="taken off the pictures; 0 leaves them as they are")
    parser.add_argument("--seed", type=int, default=0, help="of the pairing")
    parser.add_argument("--allow_missing", action="store_true", help="leave recordings out that cannot be read")
    args = parser.parse_args(argv)
    for name, least, most in (("pictures", 1, 6000), ("components", 0, 783), ("seed", 0, 2**63)):
        if not least <= getattr(args, name) <= most:
            raise RunError(f"--{name} {getattr(args, name)}: must be from {least} to {most}")
    check_out(args.out)
    for flag in ("raw", "mnist"):
        if not getattr(args, flag).is_dir():
            raise RunError(f"--{flag} {getattr(args, flag)} is not a folder: download the data as data/README.md says")
    with alone(args.out):
        prepare(args)


def prepare(args: argparse.Namespace) -> None:
    """Read, pair, check and write, unless that has been done."""
    mnist = read_mnist(args.mnist)
    sounds, failed = read_sounds(args.raw)
    if not (sounds or failed):
        raise DataError(f"no recordings in {args.raw}: data/README.md says what it must hold")
    settings = {name: getattr(args, name) for name in ("test_speakers", "pictures", "components", "seed")}
    read = hashlib.sha256(b"".join(name.encode() + sound.tobytes() for name, sound in sounds.items()))
    sources = [idx_file(args.mnist, stem, d) for pair in FILES.values() for stem, d in zip(pair, (3, 1), strict=True)]
    settings |= {"dataset": "AVMNIST", "mnist": {path.name: checksum(path) for path in sources}}
    settings["recordings"] = read.hexdigest()
    if finished(args.out, settings, "train.npz", "test.npz"):
        print(f"already there: {args.out}")
        return
    report_failed(args, failed, len(sounds) + len(failed))
    tested = set(args.test_speakers.split(","))
    speakers = {RECORDING.fullmatch(name)["speaker"] for name in sounds}
    if strange := sorted(tested - speakers) or (tested == speakers and ["all"]):
        raise RunError(f"--test_speakers {', '.join(strange)}: not some of {', '.join(sorted(speakers))}")
    random, pairs = np.random.default_rng(args.seed), {}
    for part, each in (("train", args.pictures), ("test", 1)):
        names = [name for name in sounds if (RECORDING.fullmatch(name)["speaker"] in tested) == (part == "test")]
        pairs[part] = pair(names, mnist[part][1], each, random)
    pictures = {part: mnist[part][0][[number for _, number in rows]] for part, rows in pairs.items()}
    pictures, lost = degrade(pictures, args.components)
    arrays = {}
    for part, rows in pairs.items():
        ids = np.array([f"{name}+{number:05d}" for name, number in rows])
        label = np.array([int(name[0]) for name, _ in rows])
        audio = np.stack([sounds[name] for name, _ in rows])
        arrays[part] = {"image": pictures[part], "audio": audio, "label": label, "ids": ids}
    size = sum(array.nbytes for held in arrays.values() for array in held.values())
    check_space(args.out, size, "train.npz and test.npz need {}")
    counts = {part: Counter(held["label"].tolist()) for part, held in arrays.items()}
    manifest = {"settings": settings, "counts": counts, "failed": failed, "variance_lost": lost}
    # Before the data, so that a killed run is known as this one's.
    write_atomically(args.out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    for part, held in arrays.items():
        rows = zip(held["ids"].tolist(), held["label"].tolist(), strict=True)
        write_atomically(args.out / f"{part}.csv", "".join(f"{name},{digit}\n" for name, digit in rows))
        write(args.out / f"{part}.npz", held)
        print(f"{part}: {len(held['label'])} pairs; " + ", ".join(f"{d} {n}" for d, n in counts[part].items()))
    complete(args.out, manifest, "train.npz", "test.npz")
    print(f"the pictures have lost {lost:.1%} of their variance", file=sys.stderr)
    print(f"done: {args.out}")


if __name__ == "__main__":
    run(main)
