"""Pack a prepared data set of clips into tar shards, which training streams.

    python data/pack_shards.py --data_root data/GRID --out data/GRID_shards
    python main.py --dataset GRID --data_root 'data/GRID_shards/{000..001}.tar' --method inforeg

Each shard holds clips of one split; those of training are mixed over its shards, by the hash of their names, since
split files are often sorted by class. The same data give the same bytes, on any machine. What is written is described
in dataset/storage/shards.py.
"""

import argparse
import hashlib
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from dataset.lists import read_fields
from dataset.prepare.manifest import read_json
from dataset.prepare.run import alone, check_out, run
from dataset.prepare.space import check_space
from dataset.splits import read_split
from dataset.storage.index import INDEX, Place
from utils.errors import DataError, RunError, list_names
from utils.files import aside, flush, remove_parts, write_atomically

SETTINGS = ".settings.json"  # beside them .000.tar.json ...: what is packed, and of which files, for the next call


def read_lists(root: Path) -> dict[str, list[str]]:
    """{split file: its clips}, train.csv and test.csv first. Raises DataError for one that training would refuse."""
    lists = {}
    others = [*root.glob("val.csv"), *sorted(root.glob("t*_by_*.csv"))]
    for path in (root / "train.csv", root / "test.csv", *others):
        labels = {row[-1] for _, row in read_fields(path)} if path.is_file() else set()
        lists[path.name] = [clip for clip, _ in read_split(path, sorted(labels))]
    return lists


def find_fps(root: Path, fps: int | None) -> int:
    """The rate of the frames to pack. Raises DataError if there is none, or several to choose from."""
    named = (re.fullmatch(r"Image-([0-9]+)-FPS", path.name) for path in sorted(root.iterdir()))
    there = {int(match[1]): match[0] for match in named if match}
    if fps is None and len(there) == 1:
        return next(iter(there))
    if fps not in there:
        raise DataError(f"{root} has {', '.join(there.values()) or 'no frames'}: choose with --fps, or prepare them")
    return fps


def divide(lists: dict[str, list[str]], samples: int) -> dict[str, list[str]]:
    """{shard: its clips}, at most `samples` each, all of the first split file that names them."""
    packed: set[str] = set()
    groups = []
    for name, clips in lists.items():
        clips = [clip for clip in clips if clip not in packed]
        packed.update(clips)
        if name.startswith("train"):
            clips.sort(key=lambda clip: hashlib.sha256(clip.encode()).digest())
        groups += [clips[start : start + samples] for start in range(0, len(clips), samples)]
    width = max(3, len(str(len(groups) - 1)))
    return {f"{number:0{width}d}.tar": clips for number, clips in enumerate(groups)}


def files_of(root: Path, fps: int, clip: str) -> dict[str, Path]:
    """{suffix in the shard: file} of a clip, in the order of the suffixes, which is that of the shard."""
    from dataset.recipes.frames import list_frames  # here, as these load torch
    from dataset.storage.files import wave_of

    pictures = list_frames(root / f"Image-{fps:02d}-FPS" / clip)
    width = max(5, len(str(len(pictures))))
    numbered = {f"{number:0{width}d}.jpg": path for number, path in enumerate(pictures, 1)}
    return numbered | {"wav": wave_of(root, clip)}


def key_of(clip: str) -> str:
    """The clip's name in the shards: WebDataset ends a key at the first dot."""
    return clip.replace("%", "%25").replace(".", "%2E")


def look(root: Path, fps: int, shards: dict[str, list[str]]) -> tuple[dict[str, str], int]:
    """{shard: hash of the names, sizes and times of what goes into it}, and the bytes of all.

    Raises DataError, with all of them, for files that training would refuse.
    """
    from dataset.recipes.audio import wave_fault  # here, as it loads torch

    faults: dict[str, list[str]] = defaultdict(list)
    stamps, total = {}, 0
    for shard, clips in shards.items():
        found = []
        for clip in clips:
            files = files_of(root, fps, clip)
            if fault := wave_fault(files["wav"]):
                faults[f"{fault} in {root / 'AudioWAV'}"].append(f"{clip}.wav")
                continue
            infos = [path.stat() for path in files.values()]
            if len(files) == 1 or any(info.st_size == 0 for info in infos):
                faults[f"no frames, or empty ones, in {root / f'Image-{fps:02d}-FPS'}"].append(clip)
            found.append((clip, [(info.st_size, int(info.st_mtime)) for info in infos]))
            total += sum(-(-info.st_size // 512) * 512 + 512 for info in infos)
        stamps[shard] = hashlib.sha256(repr(found).encode()).hexdigest()
    if faults:
        found = "; ".join(f"{fault}: {list_names(names)}" for fault, names in faults.items())
        raise DataError(f"{root} is not complete: {found}. Prepare these again (data/README.md)")
    return stamps, total


def pack(root: Path, out: Path, fps: int, shard: str, clips: Sequence[str], stamp: str) -> None:
    """Write one shard, which appears when it is complete, and then what the index will say of it."""
    from webdataset import TarWriter  # here, as it loads torch

    part = aside(out / shard)
    ends, frames = [0], []
    with part.open("wb") as file, TarWriter(file, user="", group="", mtime=0, encoder=False) as writer:
        for clip in clips:
            members = {suffix: path.read_bytes() for suffix, path in files_of(root, fps, clip).items()}
            writer.write({"__key__": key_of(clip)} | members)
            ends.append(writer.tarstream.offset)
            frames.append(len(members) - 1)
        flush(file)
    digest, rows = hashlib.sha256(), {}
    with part.open("rb") as file:
        for clip, begin, end, count in zip(clips, ends, ends[1:], frames, strict=False):
            raw = file.read(end - begin)
            digest.update(raw)
            rows[clip] = Place(0, begin, len(raw), zlib.crc32(raw), count)[1:]
        digest.update(file.read())
        size = file.tell()
    os.replace(part, out / shard)
    entry = {"bytes": size, "sha256": digest.hexdigest(), "clips": rows}
    write_atomically(record_of(out, shard), json.dumps({"stamp": stamp, "entry": entry}) + "\n")


def pack_all(args: argparse.Namespace, fps: int, lists: dict[str, list[str]], shards: dict[str, list[str]]) -> None:
    """Pack what is not packed yet. Raises DataError if --out holds anything else."""
    root, out = args.data_root, args.out
    stamps, size = look(root, fps, shards)
    texts = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in lists}
    settings = {"fps": fps, "samples": args.samples, "lists": texts}
    before = read_json(out / SETTINGS)
    if before is None and (files := [path.name for path in sorted(out.glob("[!.]*"))]):
        raise DataError(f"{out} holds files that were not packed here, {list_names(files)}: choose another --out")
    done = {shard: record for shard in shards if (record := read_json(record_of(out, shard)))}
    if before not in (None, settings) or any(record["stamp"] != stamps[shard] for shard, record in done.items()):
        raise DataError(f"{out} was packed from other files or lists, or with other flags: choose another --out")
    # Before the first shard, so that a killed run is known for what it is.
    write_atomically(out / SETTINGS, json.dumps(settings) + "\n")
    remove_parts(out)
    todo = [shard for shard in shards if shard not in done or not same_size(out / shard, done[shard]["entry"])]
    print(f"{out}: {len(shards)} shards, {len(shards) - len(todo)} already there, {len(todo)} to do")
    if todo:
        check_space(out, size * len(todo) / len(shards), f"{len(todo)} shards need about {{}}")
    pool = ThreadPoolExecutor(args.workers)
    try:
        futures = {pool.submit(pack, root, out, fps, shard, shards[shard], stamps[shard]): shard for shard in todo}
        with tqdm(total=sum(len(shards[shard]) for shard in todo), desc=str(out), unit="clip") as bar:
            for future in as_completed(futures):
                future.result()
                bar.update(len(shards[futures[future]]))
    finally:
        pool.shutdown(cancel_futures=True)
    # What is beside the clips: split files, class names, manifest. The index last: it says that all is there.
    for path in sorted(path for suffix in ("csv", "txt", "json") for path in root.glob(f"[!.]*.{suffix}")):
        write_atomically(out / path.name, path.read_bytes())
    index = {shard: read_json(record_of(out, shard))["entry"] for shard in shards}
    write_atomically(out / INDEX, json.dumps({"fps": fps, "shards": index}) + "\n")


def record_of(out: Path, shard: str) -> Path:
    """The file that tells of a finished shard what it holds."""
    return out / f".{shard}.json"


def same_size(path: Path, entry: dict) -> bool:
    """Whether a shard is there and has the size that its record states."""
    return path.is_file() and path.stat().st_size == entry["bytes"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data_root", type=Path, required=True, help="folder of the prepared data")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--samples", type=int, default=1000, help="clips in a shard, at most")
    parser.add_argument("--fps", type=int, help="which frames to pack, where there are several rates")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="shards that are written at a time")
    args = parser.parse_args(argv)
    for name in ("samples", "workers"):
        if getattr(args, name) < 1:
            raise DataError(f"--{name} {getattr(args, name)}: must be at least 1")
    check_out(args.out)
    if not args.data_root.is_dir():
        raise RunError(f"--data_root {args.data_root} is not a folder: prepare the data as data/README.md says")
    lists, fps = read_lists(args.data_root), find_fps(args.data_root, args.fps)
    shards = divide(lists, args.samples)
    with alone(args.out):
        pack_all(args, fps, lists, shards)
    first, last = min(shards)[:-4], max(shards)[:-4]
    print(f"done: {sum(map(len, shards.values()))} clips; train with --data_root '{args.out}/{{{first}..{last}}}.tar'")


if __name__ == "__main__":
    run(main)
