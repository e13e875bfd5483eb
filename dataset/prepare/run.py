"""A preparation from its flags to its report: `common_parser` and `check_args`, `prepare`, and `run` around it all."""

import argparse
import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataset.prepare.clips import SOUND, Clip, Maker, Recipe, check_sources, name_fault
from dataset.prepare.manifest import open_manifest, write_manifest
from dataset.prepare.splits import FILES, Parts, check_split, split, split_text
from dataset.prepare.workers import prepare_clips
from utils.errors import DataError, InUseError, RunError, one_sentence
from utils.files import remove_parts, write_atomically
from utils.lock import Lock

SHOWN = 20  # failed clips that are printed; manifest.json has them all
STATUS = 2  # with which a preparation ends when there is something to mend
REMEDIES = {
    errno.ENOSPC: "free space on the disk of --out",
    errno.EDQUOT: "free space within your quota on the disk of --out",
    errno.EACCES: "get the permission for that path",
    errno.EPERM: "get the permission for that path",
    errno.EROFS: "choose an --out that can be written to",
}


def common_parser(
    description: str, out: str, fps: int, test_fraction: float | None = None, min_frames: int | None = 1
) -> argparse.ArgumentParser:
    """The flags of all recipes; those of a seeded split only with the `test_fraction` of one."""
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
    parser.add_argument("--redo", action="store_true", help="make clips again whose raw files, or own ones, changed")
    parser.add_argument("--resplit", action="store_true", help="replace existing splits that were made otherwise")
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Raise RunError for a flag out of range or a raw folder that is not there."""
    for name, value in {"fps": args.fps, "workers": args.workers, "min_frames": args.min_frames}.items():
        if value < 1:
            raise RunError(f"--{name} {value}: must be at least 1")
    if args.test_fraction is not None and not 0 < args.test_fraction < 1:
        raise RunError(f"--test_fraction {args.test_fraction}: must be between 0 and 1")
    check_out(args.out)
    if not args.raw.is_dir():
        raise RunError(f"--raw {args.raw} is not a folder: download the data as data/README.md says")


def check_out(out: Path) -> None:
    """Raise RunError if `out`, or what should hold it, is a file."""
    if files := [path for path in (out, *out.parents) if path.exists() and not path.is_dir()]:
        raise RunError(f"--out {out}: {files[0]} is a file, not a folder: choose another --out")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other preparations out of `out`, which is made. Raises RunError if a live one is at it; names that."""
    try:
        with Lock(out, ".lock"):
            remove_parts(out)
            yield
    except InUseError as error:
        raise RunError(f"another preparation ({error.who}) is writing to {out}: wait for it") from error


def prepare(
    args: argparse.Namespace,
    clips: Sequence[Clip],
    recipe: Recipe,
    settings: dict,
    group: str | None = None,
    lists: Parts | Mapping[str, Parts] | None = None,
    beside: str = SOUND,
    notes: Mapping | None = None,
) -> Parts:
    """Prepare all clips, write the splits and the manifest, and return the first split.

    settings: what the clips' content depends on; one `out` holds one such setting. lists: given train and test clips,
    and maybe val, in place of a seeded split; several by the suffix of their files. group: what `Clip.group` is, for a
    second, seeded split without a group in both parts. beside: see `Maker`. notes: what else the manifest is to hold.
    Raises RunError before the work if the splits are impossible, another process is at this `out`, clips in it were
    made from other files or changed since or the disk is too small, and after it for clips that failed and for splits
    that would change.
    """
    if not clips:
        raise DataError(f"no clips in {args.raw}: data/README.md says what it must hold")
    given = lists if isinstance(lists, Mapping) else {"": lists} if lists else {}
    checksums = {path.stem: split_text(rows)[1] for path, rows in split_files(Path(), given).items()}
    split_settings = {"seed": args.seed, "test_fraction": args.test_fraction, "lists": checksums}
    check_splits(args, clips, given, group)
    with alone(args.out):
        manifest = open_manifest(args.out, settings, split_settings, args.resplit) | dict(notes or {})
        unnamed = {clip.name: fault for clip in clips if (fault := name_fault(clip))}
        named = [clip for clip in clips if clip.name not in unnamed]
        check_sources(named, args.out, args.redo)
        maker = Maker(recipe, args.out, args.fps, beside, args.min_frames)
        maker.check(named, args.redo)
        manifest["failed"] = failed = unnamed | prepare_clips(named, maker, args.workers)
        write_manifest(args.out, manifest)
        report_failed(args, failed, len(clips))
        good = [clip for clip in clips if clip.name not in failed]
        check_splits(args, good, given, group)
        splits = make_splits(args, good, given, group)
        manifest["split"], manifest["splits"] = split_settings, write_splits(args, splits)
        write_manifest(args.out, manifest)
        left_out = f", {len(failed)} left out (manifest.json)" if failed else ""
        print(f"done: {len(good)} clips in {args.out}{left_out}")
        return next(iter(splits.values()))


def check_splits(args: argparse.Namespace, clips: Sequence[Clip], given: Mapping, group: str | None) -> None:
    """Raise DataError if a split that is to be drawn from these clips is impossible."""
    if not given:
        check_split(clips, args.test_fraction)
    if group and len({clip.group for clip in clips}) > 1:
        check_split(clips, args.test_fraction, by_group=True)


def report_failed(args: argparse.Namespace, failed: Mapping[str, str], total: int) -> None:
    """Name clips that failed. Raises DataError if these are all, or some and they may not be missing."""
    for name, reason in list(failed.items())[:SHOWN]:
        print(f"failed: {name if name.isprintable() else ascii(name)}: {reason}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(f"... and {len(failed) - SHOWN} more, all in {args.out / 'manifest.json'}", file=sys.stderr)
    if len(failed) == total:
        raise DataError(
            f"none of the {total} clips could be prepared (reasons above): "
            "put the download or the flags right and run this again"
        )
    if failed and not args.allow_missing:
        raise DataError(
            f"{len(failed)} of {total} clips could not be prepared (named above); all others are done. "
            "Repair them and run this again, or leave them out with --allow_missing"
        )


def make_splits(
    args: argparse.Namespace, good: Sequence[Clip], given: Mapping[str, Parts], group: str | None
) -> dict[str, Parts]:
    """{suffix of the files: (train, test)} of the `good` clips: the given lists or a seeded split, and one by group."""
    splits = dict(given) or {"": split(good, args.test_fraction, args.seed)}
    names = {clip.name for clip in good}
    for suffix, parts in splits.items():
        splits[suffix] = tuple([clip for clip in part if clip.name in names] for part in parts)
        if empty := [part for part, rows in zip(FILES, splits[suffix], strict=False) if not rows]:
            raise DataError(f"no clip is left for {empty[0]}{suffix}.csv: complete the download")
    if group and len({clip.group for clip in good}) > 1:
        splits[f"_by_{group}"] = split(good, args.test_fraction, args.seed, by_group=True)
    elif group:
        print(f"no train_by_{group}.csv: a {group}-disjoint split is impossible with one {group} ({good[0].group})")
    return splits


def split_files(out: Path, splits: Mapping[str, Parts]) -> dict[Path, list[Clip]]:
    """{file: its clips}."""
    return {
        out / f"{part}{suffix}.csv": rows
        for suffix, parts in splits.items()
        for part, rows in zip(FILES, parts, strict=False)
    }


def write_splits(args: argparse.Namespace, splits: Mapping[str, Parts]) -> dict[str, dict]:
    """Write the split files; what the manifest says of each. Raises DataError for those that would change."""
    files = split_files(args.out, splits)
    kept = [path for path in files if path.exists()]
    changed = [path.name for path in kept if path.read_bytes() != split_text(files[path])[0].encode()]
    if changed and not args.resplit:
        raise DataError(
            f"other clips are good now than when {', '.join(changed)} in {args.out} were made: "
            "replace the splits with --resplit (the clips are kept)"
        )
    written = {}
    for path, rows in files.items():
        text, digest = split_text(rows)
        write_atomically(path, text)
        classes = dict(sorted(Counter(clip.label for clip in rows).items()))
        written[path.name] = {"clips": len(rows), "classes": classes, "sha256": digest}
        print(f"{path}: {len(rows)} clips; " + ", ".join(f"{label} {n}" for label, n in classes.items()))
    return written


@contextmanager
def remedies() -> Iterator[None]:
    """What the system refuses becomes a RunError that says how the same command goes on."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno, "put it right")
        raise RunError(f"{error}: {remedy} and run the same command again; what is finished is kept") from error


def run(main: Callable[[], None]) -> None:
    """Run a recipe's `main`; what the user can put right ends it with one sentence and status 2, Ctrl-C with 130."""
    try:
        with one_sentence(STATUS), remedies():
            main()
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on; what is finished is kept", file=sys.stderr)
        sys.exit(130)
