"""Preparations that write arrays: .npz files that are whole or not there, and known by the sha256 in manifest.json."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.prepare.manifest import FILE, check_settings, known_manifest
from utils.files import aside, digest, flush, write_atomically


def checksum(path: Path) -> str:
    """sha256 of a file, of several GB perhaps: a bar shows how far it is."""
    with path.open("rb") as file, tqdm.wrapattr(file, "read", path.stat().st_size, desc=path.name) as watched:
        return digest(watched)


def finished(out: Path, settings: Mapping, *files: str) -> bool:
    """Whether `out` holds these files as this very preparation writes them. Raises DataError for any other one."""
    manifest = known_manifest(out, "settings")
    if manifest is None:
        return False
    check_settings(out, manifest, settings)
    return all((out / name).is_file() for name in files) and manifest.get("sha256") == checksums(out, files)


def checksums(out: Path, files: tuple[str, ...]) -> str | dict[str, str]:
    """The sha256 of one file, or {file: sha256} of several."""
    found = {name: checksum(out / name) for name in files}
    return found if len(files) > 1 else found[files[0]]


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz aside and rename it when it is on the disk."""
    part = aside(path)
    with part.open("wb") as file:
        np.savez(file, **arrays)
        flush(file)
    os.replace(part, path)


def complete(out: Path, manifest: dict, *files: str) -> None:
    """Add the files' sha256 to the manifest, which says that they are whole, and write it."""
    write_atomically(out / FILE, json.dumps(manifest | {"sha256": checksums(out, files)}, indent=2) + "\n")
