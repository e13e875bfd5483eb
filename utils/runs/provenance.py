"""Where a run comes from: command, code, libraries and machine. Looking stops no run: what cannot be known is None."""

import hashlib
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARIES = ("torch", "torchvision", "torchaudio", "numpy")


def provenance(
    program: str,
    argv: Sequence[str],
    device: torch.device,
    data: Mapping[str, str | None] | None,
    root: Path = ROOT,
    weights: Mapping[str, str] | None = None,
) -> dict:
    """One process's entry in args.json.

    `data`: the checksums of `dataset.checksums`; `root`: where the code lies; `weights`: the sha256 of the files of
    --weights by modality, in the entry only where there are some.
    """
    return {
        "command": shlex.join(["python", program, *map(str, argv)]),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **code(root),
        "versions": dict(versions()),
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
        "data": data,
        **({"weights": dict(weights)} if weights else {}),
    }


@cache
def versions() -> Mapping[str, str]:
    """Those of Python and of the libraries that numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


@cache  # a process goes on with the code that it began with
def code(root: Path) -> Mapping[str, str | bool | None]:
    """The commit that `root` is at, whether its files differ from it, and the sha256 of the difference.

    Modules that git does not know are part of the difference; other unknown files are not.
    """
    commit, difference = git(root, "rev-parse", "HEAD"), git(root, "diff", "--no-ext-diff", "HEAD")
    unknown = git(root, "ls-files", "-z", "--others", "--exclude-standard", "*.py")
    if commit is None or difference is None or unknown is None:
        return {"commit": None, "dirty": None, "changes": None}
    for name in filter(None, unknown.split(b"\0")):
        difference += name + (git(root, "hash-object", os.fsdecode(name)) or b"")
    changes = hashlib.sha256(difference).hexdigest() if difference else None
    return {"commit": commit.decode().strip(), "dirty": bool(difference), "changes": changes}


def git(root: Path, *words: str) -> bytes | None:
    """What git answers in `root`; None without git, or outside a repository."""
    try:
        # Without locks: runs that start at the same time do not stand in each other's way.
        return subprocess.run(
            ["git", "--no-optional-locks", *words], cwd=root, capture_output=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def checksum(path: Path) -> str | None:
    """sha256 of a file; of one above 16 MiB, which would take its time, size and sha256 of its last 64 KiB.

    An .npz has the CRC-32 of each of its arrays there. None if it cannot be read, or is no file: a pipe has no end.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= 2**24:
                return hashlib.sha256(file.read()).hexdigest()
            file.seek(-(2**16), os.SEEK_END)
            return f"{size} bytes, the last {hashlib.sha256(file.read()).hexdigest()}"
    except OSError:
        return None
