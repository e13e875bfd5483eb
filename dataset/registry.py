"""The data sets by name, and the one place that turns the arguments into splits."""

import hashlib
import json
from pathlib import Path

from torch.utils.data import Dataset, Subset

from dataset.ave import AVE
from dataset.avmnist import AVMNIST
from dataset.base import MultimodalDataset, Splits, targets_of
from dataset.cremad import CREMAD
from dataset.demo import Demo
from dataset.features import Features
from dataset.folder import Folder
from dataset.food101 import Food101
from dataset.grid import GRID
from dataset.hateful_memes import HatefulMemes
from dataset.kinetics_sounds import KineticsSounds
from dataset.lists import read_lines, repeated
from dataset.modelnet40 import ModelNet40
from dataset.mosi import MOSEI, MOSI
from dataset.splits import split_off
from dataset.storage.index import folder_of
from dataset.ucf101 import UCF101
from utils.errors import DataError, list_names
from utils.runs.provenance import checksum
from utils.runs.setting import LIST

DATASETS = {
    "CREMAD": CREMAD,
    "KineticsSounds": KineticsSounds,
    "AVE": AVE,
    "UCF101": UCF101,
    "ModelNet40": ModelNet40,
    "HatefulMemes": HatefulMemes,
    "Food101": Food101,
    "MOSI": MOSI,
    "MOSEI": MOSEI,
    "GRID": GRID,
    "AVMNIST": AVMNIST,
    "features": Features,
    "folder": Folder,
    "demo": Demo,
}


def build(args, modalities: tuple[str, ...], held_out: float = 0.0) -> Splits:
    """Read and check the data set that `args` names.

    `held_out` is the share of the training split that the method withholds from itself, `args.val_fraction` the share
    that selects the epoch; both are stratified and come out of the training split, never out of the test split. A data
    set with a validation split of its own, the third that `read_splits` names, selects on that one unless
    `args.val_fraction` asks for a share. Where there is an `args.train_list`, the training split is what it names.

    Raises:
        DataError: if anything on disk is missing, empty, unknown, or in both splits.

    Which samples are withheld does not depend on the run's seed: every seed and method selects on the same ones.
    """
    source = DATASETS[args.dataset]
    train_rows, test_rows, *val_rows = source.read_splits(args)
    train = source(args, train_rows, modalities, train=True)
    test = source(args, test_rows, modalities, train=False)
    rest = listed(args, train)
    whole = len(rest)
    parts: dict[str, Dataset | None] = {}
    train_plain: Dataset | None = None
    for number, (name, share) in enumerate({"val": args.val_fraction, "held_out": held_out}.items()):
        parts[name] = None
        if share > 0:
            positions = rest.indices if isinstance(rest, Subset) else list(range(len(train)))
            # Each share is one of the whole training split, whatever has been withheld before.
            kept, withheld = split_off(targets_of(rest), share * whole / len(rest), seed=number)
            rest = Subset(train, [positions[i] for i in kept])
            # What is withheld is looked at as the test split is: without augmentation.
            plain = source(args, train_rows, modalities, train=False)
            parts[name] = Subset(plain, [positions[i] for i in withheld])
            if name == "held_out":
                train_plain = Subset(plain, rest.indices)
    if parts["val"] is None and val_rows:
        parts["val"] = source(args, *val_rows, modalities, train=False)
    return Splits(rest, train_plain, parts["held_out"], parts["val"], test, source.class_names(args))


def listed(args, train: MultimodalDataset) -> Dataset:
    """The samples of the training split that --train_list names, in the split's order; without a list all of them.

    Raises:
        DataError: as `places_of`.
    """
    return Subset(train, sorted(places_of(args.train_list, train))) if args.train_list else train


def places_of(path: str | Path, train: MultimodalDataset, flag: str = "--train_list") -> list[int]:
    """The positions in the training split of the samples that the list at `path` names, in its order.

    Raises:
        DataError: if the list, which `flag` has given, is empty, or names a sample twice or one that the split does
            not have.
    """
    where = f"{flag} {path}"
    names = [name for _, name in read_lines(Path(path))]
    if not names:
        raise DataError(f"{where} names no sample: write the name of one in each line")
    if twice := repeated(names):
        raise DataError(f"{where} names samples more than once, {list_names(twice)}: leave the others out")
    place = {name: position for position, name in enumerate(train.names)}
    if unknown := sorted(set(names).difference(place)):
        raise DataError(
            f"{where} names samples that the training split does not have, {list_names(unknown)}: correct them, or "
            "leave them out"
        )
    return [place[name] for name in names]


def checksums(args) -> dict[str, str | None]:
    """{file: checksum} of what tells the data that `args` names from others.

    These are its `split_files`, the --train_list and, where a preparation script has left its manifest, the settings in
    it.
    """
    sums = {path.name: checksum(path) for path in DATASETS[args.dataset].split_files(args)}
    if args.train_list:
        sums[LIST + Path(args.train_list).name] = checksum(Path(args.train_list))
    if manifest_of(args).is_file():
        settings = preparation(args)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        sums["settings of manifest.json"] = None if settings is None else digest
    return sums


def preparation(args) -> dict | None:
    """The settings with which a preparation script has made the data that `args` names; None where that is unknown."""
    try:
        return dict(json.loads(manifest_of(args).read_text())["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def manifest_of(args) -> Path:
    """The manifest that a preparation script leaves."""
    return folder_of(args.data_root) / "manifest.json"
