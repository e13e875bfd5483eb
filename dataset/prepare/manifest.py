"""manifest.json: with which settings a folder was prepared, what is in it, and which clips failed."""

import json
from pathlib import Path

from utils.errors import DataError
from utils.files import write_atomically

FILE = "manifest.json"


def read_json(path: Path) -> dict | None:
    """What a file of an earlier preparation holds, None if there is none. Raises DataError if it is damaged."""
    if not path.is_file():
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): choose another --out") from error
    if not isinstance(held, dict):
        raise DataError(f"{path} is not what a preparation has written (no JSON object): choose another --out")
    return held


def open_manifest(out: Path, settings: dict, split_settings: dict, resplit: bool) -> dict:
    """The manifest of `out`: that of an earlier run that agrees with this one, or new where nothing is prepared yet.

    Raises DataError if `out` holds what this run must not go on with.
    """
    manifest = known_manifest(out, "settings", "split", "splits")
    if manifest is None or (manifest["settings"] != settings and not any(out.glob("*/[!.]*"))):
        # Written before the first clip, so that a killed run cannot be continued with other settings.
        manifest = {"settings": settings, "split": split_settings, "failed": {}, "splits": {}}
        write_manifest(out, manifest)
    check_settings(out, manifest, settings)
    if manifest["splits"] and manifest["split"] != split_settings and not resplit:
        made = f"the splits in {out} were made with {manifest['split']}, not {split_settings}"
        raise DataError(f"{made}: repeat those flags, or replace the splits with --resplit (the clips are kept)")
    return manifest


def known_manifest(out: Path, *keys: str) -> dict | None:
    """The manifest that is in `out`, None where nothing is prepared.

    Raises DataError for files without one, and for one in which these keys are not objects.
    """
    manifest = read_json(out / FILE)
    if manifest is None and any(out.glob("[!.]*")):
        raise DataError(f"{out} holds files but no {FILE}, made elsewhere: choose another --out")
    if manifest is not None and (lacking := [key for key in keys if not isinstance(manifest.get(key), dict)]):
        raise DataError(
            f"{out / FILE} is not what a preparation has written (without {', '.join(lacking)}): choose another --out"
        )
    return manifest


def check_settings(out: Path, manifest: dict, settings: dict) -> None:
    """Raise DataError if `out` was prepared with other settings."""
    if manifest["settings"] != settings:
        raise DataError(f"{out} was prepared with {manifest['settings']}, not {settings}: choose another --out")


def write_manifest(out: Path, manifest: dict) -> None:
    """Write it with the number of clips that each folder holds now."""
    folders = [path for kind in ("AudioWAV", "Flow-*-FPS", "Image-*-FPS") for path in sorted(out.glob(kind))]
    counts = {folder.name: sum(1 for _ in folder.glob("[!.]*")) for folder in folders}
    write_atomically(out / FILE, json.dumps({**manifest, "clips": counts}, indent=2) + "\n")
