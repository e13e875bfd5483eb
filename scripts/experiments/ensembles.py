"""The folder in which the average of unimodal models lies."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from utils.runs.setting import folder_name

ENSEMBLE = "ensemble"  # in the place of a method's name: no run has trained it


def folder_of_ensemble(runs: Mapping[str, argparse.Namespace], out, average: str = "probabilities") -> Path:
    """Where the ensemble of unimodal runs lies, from the arguments of each; `out` is the folder of all results."""
    args = next(iter(runs.values()))
    tag = tag_of({name: run.tag for name, run in runs.items()}, average)
    return Path(out) / args.dataset / ENSEMBLE / tag / f"seed{args.seed}"


def tag_of(tags: Mapping[str, str], average: str) -> str:
    """The setting that the runs share, without their modalities; both settings where they differ."""
    bare = [f"_{tag}_".replace(f"_modality={name}_", "_").strip("_") or "default" for name, tag in tags.items()]
    words = ["+".join(dict.fromkeys(bare))]
    if average != "probabilities":
        words = [word for word in words if word != "default"] + [f"average={average}"]
    return folder_name("_".join(words))
