"""What the preparation scripts share: atomic clips, splits, the manifest and the final report.

Prepared layout, the same for every data set:

    <out>/AudioWAV/<clip>.wav                               or what else stands beside the frames
    <out>/Image-{fps:02d}-FPS/<clip>/00001.jpg ...
    <out>/train.csv, test.csv                               rows `clip,label`, no header
    <out>/train_by_<group>.csv, test_by_<group>.csv         no group (actor, speaker) in both parts, where there is one
    <out>/manifest.json                                     settings, counts, failures, sha256 of the split files
    <out>/sources.json                                      size and time of the raw files that each clip is made from
"""

import argparse
import csv
import errno
import hashlib
import io
import json
import math
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.errors import InUseError, RunError
from utils.lock import Lock

CLOCK = 1e-3  # s, the resolution of the containers' time stamps
BLOCK = 4096  # bytes, what file systems allot at least
PROBES = 5  # clips whose size on disk stands for that of all
SHOWN = 20  # failed clips that are printed; manifest.json has them all


class PrepareError(Exception):
    """Stops the run: names the thing and the remedy."""


class ClipError(Exception):
    """One clip cannot be prepared; the message is the reason that the report gives."""


@dataclass(frozen=True)
class Clip:
    """A clip to prepare: `sources` are its raw files, `group` is who must not be in both parts of the group split."""

    name: str
    label: str
    group: str  # "" where nothing groups the clips
    sources: tuple[Path, ...]


# --- Files


def check_source(path: Path, parts: int = 2) -> None:
    """Raise ClipError for a raw file that is missing, empty or only the pointer that a clone without Git LFS leaves.

    parts: how many of the last parts of the path name it.
    """
    name = "/".join(path.parts[-parts:])
    if not path.is_file():
        raise ClipError(f"{name} is missing")
    with path.open("rb") as file:
        head = file.read(24)
    if not head:
        raise ClipError(f"{name} is empty")
    if head.startswith(b"version https://git-lfs"):
        raise ClipError(f"{name} is a Git LFS pointer, not the file: run `git lfs pull` in the download")


def shown_at(times: np.ndarray, instants: Iterable[float]) -> np.ndarray:
    """Index of the frame on the screen at each instant: the last one whose time stamp is at most that (all in s)."""
    # Containers such as FLV round times to milliseconds: frame 20 of 30 fps is stamped 0.667 s, not 2/3 s.
    return np.maximum(np.searchsorted(times, np.asarray(instants) + CLOCK, side="right") - 1, 0)


def end_of(times: np.ndarray, fps: float) -> float:
    """When the last frame leaves the screen, in s: after the mean distance of two frames, or 1/fps if there is one."""
    return times[-1] + ((times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / fps)


def write_frames(folder: Path, images: Iterable[np.ndarray]) -> None:
    """Write 00001.jpg ... of quality 95."""
    for number, image in enumerate(images, 1):
        _, jpg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        (folder / f"{number:05d}.jpg").write_bytes(jpg)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other preparations out of `out`, which is made. Raises PrepareError if a live one is at it; names that."""
    try:
        with Lock(out, ".lock"):
            yield
    except InUseError as error:
        raise PrepareError(f"another preparation ({error.who}) is writing to {out}: wait for it") from error
    except RunError as error:
        raise PrepareError(str(error)) from error


# --- Clips

# Clip, what to write beside the frames (a file, or an existing empty folder), existing empty folder for the frames.
Work = Callable[[Clip, Path, Path], None]
SOUND = "AudioWAV/{}.wav"


def check_sources(clips: Sequence[Clip], out: Path, redo: bool) -> None:
    """Note the size and the time of the raw files of all clips, before the work; remove the clips made from others.

    Raises PrepareError for those, unless `redo`. A clip whose raw file is gone is taken for the one that it was.
    """
    path = out / "sources.json"
    known = read_json(path) or {}
    found = {clip.name: [source.stat() for source in clip.sources if source.is_file()] for clip in clips}
    now = {
        clip.name: [[info.st_size, int(info.st_mtime)] for info in found[clip.name]]
        for clip in clips
        if len(found[clip.name]) == len(clip.sources)
    }
    folders = list(out.glob("*-FPS"))
    made = {
        name: [part for part in (out / SOUND.format(name), *(folder / name for folder in folders)) if part.exists()]
        for name, stamps in now.items()
        if known.get(name, stamps) != stamps
    }
    if changed := [name for name, paths in made.items() if paths]:
        which = f"{len(changed)} clips in {out} were made from other files than there are now, {changed[0]} among them"
        if not redo:
            raise PrepareError(f"{which}: choose another --out, or make them again with --redo")
        print(f"{which}: made again, and removed at all rates")
        for name in changed:
            for part in made[name]:
                _remove(part)
    if (both := known | now) != known:
        write_atomic(path, json.dumps(both, sort_keys=True) + "\n")


def prepare_clips(
    clips: Sequence[Clip], work: Work, out: Path, fps: int, workers: int, beside: str = SOUND, min_frames: int = 1
) -> dict[str, str]:
    """Run `work` for each clip that is not finished yet and return {clip: reason} of those that failed.

    A clip appears under its name only when it is complete; what a killed run left half-written is removed first. One
    of fewer than `min_frames` frames fails.
    beside: what belongs to the frames of clip {}, under `out`: a file, or without a suffix a folder.
    """
    pictures = out / f"Image-{fps:02d}-FPS"
    for folder in ((out / beside).parent, pictures):
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(".*.part"):
            _remove(part)

    def finished(name: str) -> bool:
        folder = pictures / name
        return (out / beside.format(name)).exists() and folder.is_dir() and len(os.listdir(folder)) >= min_frames

    todo = [clip for clip in clips if not finished(clip.name)]
    print(f"{pictures}: {len(clips)} clips, {len(clips) - len(todo)} already there, {len(todo)} to do")
    one = partial(_prepare_clip, work, out / beside, pictures, fps, min_frames)
    results: dict[str, str | None] = {}
    # Spread over the list, since neighbours are alike.
    step = -(-len(todo) // PROBES) or 1
    probes, rest = todo[::step], [clip for number, clip in enumerate(todo) if number % step]
    with tqdm(total=len(todo), desc=pictures.name, unit="clip") as bar:
        for clip in probes:
            results[clip.name] = one(clip)
            bar.update()
        done = [clip.name for clip in probes if results[clip.name] is None]
        if rest and done:
            sizes = [size_on_disk([out / beside.format(name), pictures / name]) for name in done]
            size = sum(sizes) / len(sizes)
            what = f"{len(rest)} more clips need about {{}} ({in_units(size)} each, the mean of {len(done)})"
            check_space(out, size * len(rest), what)
        if workers == 1:
            for clip in rest:
                results[clip.name] = one(clip)
                bar.update()
        elif rest:
            # Spawned, not forked: OpenCV and tqdm hold threads that a fork would leave in an undefined state.
            pool = ProcessPoolExecutor(workers, get_context("spawn"), _leave_with_parent)
            try:
                futures = {pool.submit(one, clip): clip.name for clip in rest}
                for future in as_completed(futures):
                    results[futures[future]] = future.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise PrepareError("a worker died, of memory or a decoder: run again with fewer --workers") from error
            finally:
                pool.shutdown(cancel_futures=True)
    return {name: reason for name, reason in sorted(results.items()) if reason is not None}


def size_on_disk(paths: Iterable[Path]) -> int:
    """Bytes that files and folders of files take, in whole blocks; links to files of the download take none."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return sum(-(-info.st_size // BLOCK) * BLOCK for info in map(os.stat, files) if info.st_nlink == 1)


def check_space(out: Path, size: float, what: str) -> None:
    """Say `what` will take, with the `size` in bytes for its {}; raise PrepareError if the disk has less."""
    free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.exists())).free
    needed = what.format(in_units(size))
    tqdm.write(f"{needed}; the disk of {out} has {in_units(free)}", file=sys.stderr)
    if size > free:
        raise PrepareError(
            f"{needed}, but the disk of {out} has {in_units(free)}: free the difference, or choose an --out elsewhere"
        )


def in_units(size: float) -> str:
    """Bytes with their decimal unit: 12.3 MB."""
    unit = min(3, max(0, (len(str(int(size))) - 1) // 3))
    return f"{size / 1000**unit:.3g} {('B', 'kB', 'MB', 'GB')[unit]}"


def _prepare_clip(work: Work, beside: Path, pictures: Path, fps: int, min_frames: int, clip: Clip) -> str | None:
    second, folder = beside.with_name(beside.name.format(clip.name)), pictures / clip.name
    second_part, folder_part = second.with_name(f".{second.name}.part"), pictures / f".{clip.name}.part"
    folder_part.mkdir()
    if not beside.suffix:
        second_part.mkdir()
    try:
        work(clip, second_part, folder_part)
        if (count := len(os.listdir(folder_part))) < min_frames:
            raise ClipError(f"gives {count} frames at --fps {fps} and needs --min_frames {min_frames}")
    except ClipError as error:
        _remove(second_part)
        _remove(folder_part)
        return str(error)
    if second.exists():  # of another frame rate (then it does not depend on the rate), or of a killed run
        _remove(second_part)
    else:
        second_part.replace(second)
    _remove(folder)
    folder_part.rename(folder)  # last: its name says that the clip is complete
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _leave_with_parent() -> None:
    """Workers of a killed run must not wait for work for ever."""
    cv2.setNumThreads(1)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


# --- Splits

Parts = tuple[list[Clip], list[Clip]]  # train, test


def split(clips: Sequence[Clip], test_fraction: float, seed: int, by_group: bool = False) -> Parts:
    """Seeded train and test, stratified by label; or by group: no group in both, and the fraction is that of groups."""
    from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit  # here: workers start faster without

    splitter = GroupShuffleSplit if by_group else StratifiedShuffleSplit
    apart = {"groups": [clip.group for clip in clips]} if by_group else {"y": [clip.label for clip in clips]}
    train, test = next(splitter(1, test_size=test_fraction, random_state=seed).split(clips, **apart))
    return [clips[i] for i in sorted(train)], [clips[i] for i in sorted(test)]


def check_split(clips: Sequence[Clip], test_fraction: float, by_group: bool = False) -> None:
    """Raise PrepareError where `split` cannot give every class (by group: at least one group) to both parts."""
    counts = Counter(clip.group if by_group else clip.label for clip in clips)
    if single := sorted(name for name, count in counts.items() if count < 2 and not by_group):
        raise PrepareError(
            f"a seeded split needs two clips of every class, one to train on and one to test; there is one of "
            f"{', '.join(single)}: add clips, remove the class, or name train and test yourself (data/README.md)"
        )
    total, least = (len(counts), 1) if by_group else (len(clips), len(counts))

    def works(fraction: float) -> bool:
        return least <= math.ceil(fraction * total) <= total - least  # as scikit-learn rounds

    if not works(test_fraction):
        fractions = [number / 1000 for number in range(1, 1000) if works(number / 1000)]
        of = f"{total} groups" if by_group else f"{total} clips of {least} classes"
        raise PrepareError(
            f"--test_fraction {test_fraction} of {of} leaves no place for some of them in train or in test: "
            f"choose one from {fractions[0]} to {fractions[-1]}"
        )


def split_text(clips: Iterable[Clip]) -> tuple[str, str]:
    """The rows of a split file, quoted where a name has a comma, and their sha256."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows((clip.name, clip.label) for clip in clips)
    text = buffer.getvalue()
    return text, hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


# --- The run


def common_parser(
    description: str, out: str, fps: int, test_fraction: float | None = None, min_frames: int | None = 1
) -> argparse.ArgumentParser:
    """The flags of all scripts; those of a seeded split only with the `test_fraction` of one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="folder of the download")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder to write")
    parser.add_argument("--fps", type=int, default=fps, help="frames per second to keep; each rate has its own folder")
    unset = "" if min_frames else "; None: training's 3, or --fps if that is less"
    parser.add_argument("--min_frames", type=int, default=min_frames, help=f"a clip that gives fewer fails{unset}")
    if test_fraction is None:
        parser.set_defaults(test_fraction=None, seed=None)
    else:
        parser.add_argument("--test_fraction", type=float, default=test_fraction, help="share of clips or groups")
        parser.add_argument("--seed", type=int, default=0, help="of the splits")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--allow_missing", action="store_true", help="leave clips that do not decode out of the splits")
    parser.add_argument("--redo", action="store_true", help="make clips again, at all rates, whose raw files changed")
    parser.add_argument("--resplit", action="store_true", help="replace existing splits that were made otherwise")
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Raise PrepareError for a flag out of range or a raw folder that is not there."""
    for name in ("fps", "workers", "min_frames"):
        if getattr(args, name) < 1:
            raise PrepareError(f"--{name} {getattr(args, name)}: must be at least 1")
    if args.test_fraction is not None and not 0 < args.test_fraction < 1:
        raise PrepareError(f"--test_fraction {args.test_fraction}: must be between 0 and 1")
    check_out(args.out)
    if not args.raw.is_dir():
        raise PrepareError(f"--raw {args.raw} is not a folder: download the data as data/README.md says")


def check_out(out: Path) -> None:
    """Raise PrepareError if `out`, or what should hold it, is a file."""
    if files := [path for path in (out, *out.parents) if path.exists() and not path.is_dir()]:
        raise PrepareError(f"--out {out}: {files[0]} is a file, not a folder: choose another --out")


def prepare(
    args,
    clips: Sequence[Clip],
    work: Work,
    settings: dict,
    group: str | None = None,
    lists: Parts | Mapping[str, Parts] | None = None,
    beside: str = SOUND,
) -> Parts:
    """Prepare all clips, write the splits and the manifest, and return the first split.

    settings: what the clips' content depends on; one `out` holds one such setting. lists: given train and test clips
    in place of a seeded split; several by the suffix of their files. group: what `Clip.group` is, for a second, seeded
    split without a group in both parts. beside: see `prepare_clips`.
    Raises PrepareError before the work if the splits are impossible, another process is at this `out`, clips in it were
    made from other files or the disk is too small, and after it for clips that failed and for splits that would change.
    """
    if not clips:
        raise PrepareError(f"no clips in {args.raw}: data/README.md says what it must hold")
    given = lists if isinstance(lists, Mapping) else {"": lists} if lists else {}
    list_settings = {
        f"{part}{suffix}": split_text(rows)[1]
        for suffix, parts in given.items()
        for part, rows in zip(("train", "test"), parts, strict=True)
    }
    split_settings = {"seed": args.seed, "test_fraction": args.test_fraction, "lists": list_settings}

    def check_splits(clips: Sequence[Clip]) -> None:
        if not given:
            check_split(clips, args.test_fraction)
        if group and len({clip.group for clip in clips}) > 1:
            check_split(clips, args.test_fraction, by_group=True)

    check_splits(clips)
    with alone(args.out):
        manifest = _open_manifest(args.out, settings, split_settings, args.resplit)
        check_sources(clips, args.out, args.redo)
        failed = prepare_clips(clips, work, args.out, args.fps, args.workers, beside, args.min_frames)
        manifest["failed"] = failed
        _write_manifest(args.out, manifest)
        for name, reason in list(failed.items())[:SHOWN]:
            print(f"failed: {name}: {reason}", file=sys.stderr)
        if len(failed) > SHOWN:
            print(f"... and {len(failed) - SHOWN} more, all in {args.out / 'manifest.json'}", file=sys.stderr)
        good = [clip for clip in clips if clip.name not in failed]
        if not good:
            found = f"none of the {len(clips)} clips could be prepared (reasons above)"
            raise PrepareError(f"{found}: put the download or the flags right and run this again")
        if failed and not args.allow_missing:
            found = f"{len(failed)} of {len(clips)} clips could not be prepared (named above); all others are done"
            raise PrepareError(f"{found}. Repair them and run this again, or leave them out with --allow_missing")
        check_splits(good)
        splits = dict(given) or {"": split(good, args.test_fraction, args.seed)}
        for suffix, parts in splits.items():
            splits[suffix] = tuple([clip for clip in part if clip.name not in failed] for part in parts)
            if empty := [part for part, rows in zip(("train", "test"), splits[suffix], strict=True) if not rows]:
                raise PrepareError(f"no clip is left for {empty[0]}{suffix}.csv: complete the download")
        if group and len({clip.group for clip in good}) > 1:
            splits[f"_by_{group}"] = split(good, args.test_fraction, args.seed, by_group=True)
        elif group:
            print(f"no train_by_{group}.csv: a {group}-disjoint split is impossible with one {group} ({good[0].group})")
        files = {
            args.out / f"{part}{suffix}.csv": rows
            for suffix, parts in splits.items()
            for part, rows in zip(("train", "test"), parts, strict=True)
        }
        kept = [path for path in files if path.exists()]
        changed = [path.name for path in kept if path.read_bytes() != split_text(files[path])[0].encode()]
        if changed and not args.resplit:
            found = f"other clips are good now than when {', '.join(changed)} in {args.out} were made"
            raise PrepareError(f"{found}: replace the splits with --resplit (the clips are kept)")
        manifest["split"], manifest["splits"] = split_settings, {}
        for path, rows in files.items():
            text, digest = split_text(rows)
            write_atomic(path, text)
            classes = dict(sorted(Counter(clip.label for clip in rows).items()))
            manifest["splits"][path.name] = {"clips": len(rows), "classes": classes, "sha256": digest}
            print(f"{path}: {len(rows)} clips; " + ", ".join(f"{label} {n}" for label, n in classes.items()))
        _write_manifest(args.out, manifest)
        left_out = f", {len(failed)} left out (manifest.json)" if failed else ""
        print(f"done: {len(good)} clips in {args.out}{left_out}")
        return next(iter(splits.values()))


def _open_manifest(out: Path, settings: dict, split_settings: dict, resplit: bool) -> dict:
    """The manifest of `out`: that of an earlier run that agrees with this one, or new where nothing is prepared yet.

    Raises PrepareError if `out` holds what this run must not go on with.
    """
    path = out / "manifest.json"
    manifest = read_json(path)
    if manifest is None and any(out.glob("[!.]*")):
        raise PrepareError(f"{out} holds files but no manifest.json, made elsewhere: choose another --out")
    if manifest is None or (manifest["settings"] != settings and not any(out.glob("*/[!.]*"))):
        # Written before the first clip, so that a killed run cannot be continued with other settings.
        manifest = {"settings": settings, "split": split_settings, "failed": {}, "splits": {}}
        _write_manifest(out, manifest)
    if manifest["settings"] != settings:
        raise PrepareError(f"{out} was prepared with {manifest['settings']}, not {settings}: choose another --out")
    if manifest["splits"] and manifest["split"] != split_settings and not resplit:
        found = f"the splits in {out} were made with {manifest['split']}, not {split_settings}"
        raise PrepareError(f"{found}: repeat those flags, or replace the splits with --resplit (the clips are kept)")
    return manifest


def read_json(path: Path) -> dict | None:
    """What a file of an earlier run holds, None if there is none. Raises PrepareError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise PrepareError(f"{path} is not JSON ({error}): choose another --out") from error


def _write_manifest(out: Path, manifest: dict) -> None:
    """Write it with the number of clips that each folder holds now."""
    folders = [path for kind in ("AudioWAV", "Flow-*-FPS", "Image-*-FPS") for path in sorted(out.glob(kind))]
    counts = {folder.name: sum(1 for _ in folder.glob("[!.]*")) for folder in folders}
    write_atomic(out / "manifest.json", json.dumps({**manifest, "clips": counts}, indent=2) + "\n")


REMEDIES = {
    errno.ENOSPC: "free space on the disk of --out",
    errno.EDQUOT: "free space within your quota on the disk of --out",
    errno.EACCES: "get the permission for that path",
    errno.EPERM: "get the permission for that path",
    errno.EROFS: "choose an --out that can be written to",
}


def run(main: Callable[[], None]) -> int:
    """Exit status of `main`: 2 with one line on stderr for what the user can put right, 130 when interrupted."""
    try:
        main()
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # the run can go on after it is put right
        remedy = REMEDIES.get(error.errno, "put it right")
        print(f"error: {error}: {remedy} and run the same command again; what is finished is kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on; what is finished is kept", file=sys.stderr)
        return 130
    return 0
