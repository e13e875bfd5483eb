"""Reading a checkpoint: damage, and weights of another model, are found before they are used."""

import zipfile
from pathlib import Path

import torch

from utils.errors import DamageError, RunError
from utils.files import (
    check,
    check_is_file,
    digest,
)


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint without executing anything in it, onto the CPU.

    Raises:
        DamageError: if it is not what was written, by checksums.txt, or where there is none, by the CRCs of the file.
        RunError: if it is missing, or not a checkpoint of this repository.
    """
    if not path.exists():
        raise RunError(f"{path} does not exist")
    check_is_file(path, "remove it to start the run anew")
    with path.open("rb") as file:
        known = check(path, digest(file))
        try:
            if not known and (part := zipfile.ZipFile(file).testzip()):
                raise zipfile.BadZipFile(f"{part} has another CRC")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever the broken archive makes it raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DamageError(path, f"not a checkpoint: {reason}", "delete it to start the run anew") from None
    if not isinstance(state, dict) or not {"model", "args", "epoch"} <= state.keys():
        raise RunError(f"{path} is not a checkpoint of this repository")
    return state


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
