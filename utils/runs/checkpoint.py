"""Checkpoints on disk: written whole or not at all; damage, and weights of another model, are found before use."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from utils.errors import DamageError, RunError, list_names
from utils.files import add_checksum, aside, check, check_is_file, digest, discard, flush, remedy_for

# How files of torch.save begin that are no archives, as PyTorch wrote them before 1.6: a pickled number.
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")


def write_checkpoint(path: Path, state: dict, before: Path | None = None) -> None:
    """Write `state` aside and rename it to `path`; the file that was there becomes `before`, if that is given.

    Raises:
        RunError: if it cannot be written; what was there before stays.
    """
    temporary = aside(path)
    try:
        torch.save(state, temporary)
        with temporary.open("rb+") as file:
            checksum = digest(file)
            flush(file)
        add_checksum(path, checksum)
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError in torch.save, which does not say so
        free = f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB free on its disk"
        raise RunError(f"cannot write {path} ({error}; {free}): the previous one is intact") from error
    finally:
        discard(temporary)


def load_newest(folder: Path) -> tuple[dict | None, DamageError | None]:
    """last.pt of a run's folder; or previous.pt, with the damage of last.pt; None if the run has no checkpoint yet.

    Raises:
        DamageError: if none is sound.
        RunError: if last.pt is not a checkpoint of this repository.
    """
    last, previous = folder / "last.pt", folder / "previous.pt"
    try:
        if previous.exists() and not last.exists():  # killed while the one took the other's place
            raise DamageError(last, "it is missing", "")
        return (load_checkpoint(last) if last.exists() else None), None
    except DamageError as damaged:
        if not previous.exists():
            raise
        try:
            return load_checkpoint(previous), damaged
        except DamageError as also:
            if also.path != previous:  # checksums.txt is damaged, both may be sound
                raise
            both = f"{damaged.reason}; previous.pt: {also.reason}"
            raise DamageError(last, both, "delete both to start the run anew") from None


def checkpoint_of(path: str | Path) -> Path:
    """The checkpoint that a path names, also as an argument type: a file, or a run's folder for its last.pt."""
    path = Path(path)
    return path / "last.pt" if path.is_dir() else path


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint without executing anything in it, onto the CPU.

    Raises:
        DamageError: if it is not what was written, by checksums.txt, or where there is none, by the CRCs of the file.
        RunError: if it is missing, or not a checkpoint of this repository.
    """
    state, _ = read_tensors(path, remedy_for(path))
    if not is_checkpoint(state):
        raise RunError(f"{path} is not a checkpoint of this repository")
    return state


def is_checkpoint(content: object) -> bool:
    """Whether a file's content is that of a last.pt or best.pt."""
    return isinstance(content, dict) and {"model", "args", "epoch", "classes"} <= content.keys()


def read_tensors(path: Path, remedy: str) -> tuple[Any, str]:
    """What a file of torch.save, or a .safetensors, holds, on the CPU, and its sha256; nothing in it is executed.

    Raises:
        DamageError: as `load_checkpoint`; `remedy` says what to do about it.
        RunError: if it is missing.
    """
    if not path.exists():
        raise RunError(f"{path} does not exist")
    check_is_file(path, remedy)
    with path.open("rb") as file:
        sha256 = digest(file)
        known = check(path, sha256)
        file.seek(0)
        try:
            if path.suffix == ".safetensors":
                return safetensors.torch.load(file.read()), sha256
            legacy = file.read(len(LEGACY)) == LEGACY
            if not known and not legacy and (part := zipfile.ZipFile(file).testzip()):
                raise zipfile.BadZipFile(f"{part} has another CRC")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True), sha256
        except pickle.UnpicklingError:
            raise DamageError(path, "not a checkpoint: it holds other things than tensors", remedy) from None
        except Exception as error:  # torch raises whatever the broken archive makes it raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DamageError(path, f"not a checkpoint: {reason}", remedy) from None


def class_numbers(state: dict, path: Path, names: Sequence[str], place) -> list[int]:
    """The model's number of each of `names`, the classes of the data at `place` in the order of their numbers there.

    Raises:
        RunError: if they are not by name the classes on which the model of the checkpoint was trained.
    """
    known = state["classes"]
    strange, absent = [name for name in names if name not in known], [name for name in known if name not in names]
    if strange or absent:
        told = {"it does not know": strange, "the data do not have": absent}
        differences = " and ".join(f"{what} {list_names(classes)}" for what, classes in told.items() if classes)
        raise RunError(
            f"{path} was trained on other classes than those of {place}: {differences}; name data with its classes"
        )
    return [known.index(name) for name in names]


def load_model(model: torch.nn.Module, state: dict, path: Path) -> None:
    """Put a checkpoint's weights into `model`.

    Raises:
        RunError: if they are those of another model; names the first difference.
    """
    wanted, held = model.state_dict(), state["model"]
    odd = [name for name in [*wanted, *held] if name not in wanted or name not in held]
    odd += [name for name in wanted if name in held and wanted[name].shape != held[name].shape]
    if odd:
        raise RunError(
            f"{path} is a checkpoint of another model: {odd[0]} does not match; use the flags of its args.json"
        )
    model.load_state_dict(held)
