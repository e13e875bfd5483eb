"""Where runs lie: in <data set>/<method>/<tag>/seed<k>, as their args.json says."""

from collections.abc import Iterable
from pathlib import Path

from scripts.results.labels import Setting
from utils.errors import RunError
from utils.runs.files import read_json


def by_setting(folders: Iterable[Path]) -> dict[Setting, list[Path]]:
    """{(data set, method, tag): the folders of its seeds}.

    Raises:
        RunError: for a run in the place of another one, which would count as that one, and for one that is there twice.
    """
    found: dict[tuple, Path] = {}
    for folder in folders:
        place = place_of(folder)
        if place in found:
            raise RunError(
                f"{'/'.join(place)} is there twice, {found[place]} and {folder}, and a table takes one run of each "
                "seed: leave one of them out, or rename the folder of its tag"
            )
        found[place] = folder
    runs: dict[Setting, list[Path]] = {}
    for (*setting, _), folder in found.items():
        runs.setdefault(tuple(setting), []).append(folder)
    return runs


def place_of(folder: Path) -> tuple[str, str, str, str]:
    """(data set, method, tag, seed<k>) of a run, the names of its folders. A tag may have been renamed.

    Raises:
        RunError: if its args.json says another data set, method or seed.
    """
    own = dataset, method, tag, seed = ("", "", "", *folder.resolve().parts)[-4:]
    path = folder / "args.json"
    args = read_json(path) if path.exists() else {}
    seed = f"seed{args['seed']}" if "seed" in args else seed
    told = args.get("dataset", dataset), args.get("method", method), tag, seed
    if own != told:
        raise RunError(
            f"{folder} lies in the place of another run: by its args.json it is {told[0]}/{told[1]}/<tag>/{told[3]}; "
            "move it to such folders, or remove it if it is a copy"
        )
    return own
