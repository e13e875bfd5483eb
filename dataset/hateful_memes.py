"""Hateful Memes: pictures with a text in them, hateful or not (Kiela et al., NeurIPS 2020)."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import torch
import torch.nn as nn

from dataset.base import MultimodalDataset
from dataset.lists import read_lines
from dataset.recipes.frames import FrameTransform, load_frames
from dataset.recipes.text import UNKNOWN, Vocabulary
from dataset.splits import check_disjoint
from models.encoders import RESNETS, ConvNet, WordAverage
from utils.errors import DataError, list_names
from utils.numbers import positive

PICTURES = {**RESNETS, "convnet": ConvNet}
TESTS = ("test_seen", "test_unseen", "dev_seen", "dev_unseen")


@dataclass(frozen=True)
class Row:
    """A line of a split file. `words` are the numbers of its text, once the vocabulary is known."""

    name: str
    picture: str
    text: str
    label: int | None
    words: tuple[int, ...] = ()


class HatefulMemes(MultimodalDataset):
    """One split. Sample: ({"image": (3, H, W), "text": (length,) word numbers}, class number, position in the split).

    The files are read as they are published: `<split>.jsonl`, lines {"id", "img", "label", "text"}, and the pictures
    that `img` names. The vocabulary is that of train.jsonl, a share withheld by --val_fraction included.
    """

    classes = ("not-hateful", "hateful")
    protocol = "ours"
    defaults = dict(
        data_root="data/HatefulMemes", image_size=224, batch_size=64, epochs=30,
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, lr_step=20, lr_gamma=0.1,
    )  # fmt: skip
    forms = {"image": "picture", "text": "words"}

    def __init__(self, args, rows: Sequence[Row], modalities: Sequence[str], train: bool):
        super().__init__(args, [row.name for row in rows], [row.label for row in rows], modalities, train)
        self.words = torch.tensor([row.words for row in rows])
        # Half of the picture at least: what makes a meme hateful is seldom a detail.
        self.transform = FrameTransform(args.image_size, train, crop_scale=(0.5, 1.0), flip=True)
        self.files = [Path(args.data_root) / row.picture for row in rows]
        if "image" in modalities:
            check_pictures(Path(args.data_root), ("train", args.test_split))

    def __getitem__(self, position: int):
        inputs = {}
        if "image" in self.modality_names:
            file, corrupt = self.files[position], self.noise.on("image", self.names[position], frames=[0])
            try:
                inputs["image"] = self.transform(load_frames([file]), corrupt)[0]
            except (OSError, SyntaxError) as error:  # the latter is Pillow's for a broken PNG
                raise DataError(f"{file} does not decode ({error}): get it again (data/README.md)") from error
        if "text" in self.modality_names:
            corrupt = self.noise.on("text", self.names[position])
            inputs["text"] = torch.from_numpy(corrupt(self.words[position].numpy()))
        return {name: inputs[name] for name in self.modality_names}, self.targets[position], position

    @classmethod
    def encoders(cls, args) -> dict[str, Callable[[], nn.Module]]:
        # As many embeddings as are allowed, also where the texts have fewer words: the model follows from the flags.
        words = UNKNOWN + 1 + args.vocabulary
        return {"image": partial(PICTURES[args.encoder], channels=3), "text": partial(WordAverage, words)}

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        return cls.classes

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--test_split", choices=TESTS, default="test_seen",
            help="the file that is tested on; which one the paper takes is not said",
        )  # fmt: skip
        group.add_argument(
            "--encoder", choices=PICTURES, default="resnet18", help="of the picture; convnet: a small one for CPUs"
        )
        group.add_argument("--vocabulary", type=positive, default=5000, help="words known, the most frequent")
        group.add_argument("--text_length", type=positive, default=64, help="words read of a text")
        group.add_argument("--image_size", type=positive, help="side of the square picture, in pixels")

    @classmethod
    def read_splits(cls, args) -> tuple[list[Row], list[Row]]:
        """The rows of train.jsonl and of --test_split, each meme in one of them only."""
        root = Path(args.data_root)
        if not root.is_dir():
            raise DataError(f"{root} does not exist: get the data as data/README.md says, or set --data_root")
        splits = [read_rows(path) for path in cls.split_files(args)]
        check_disjoint(*([(row.name, row.label) for row in rows] for rows in splits), root)
        vocabulary = Vocabulary((row.text for row in splits[0]), args.vocabulary)
        train, test = (
            [Row(r.name, r.picture, r.text, r.label, tuple(vocabulary.encode(r.text, args.text_length))) for r in rows]
            for rows in splits
        )
        return train, test

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """train.jsonl and the file of --test_split."""
        return [Path(args.data_root) / f"{name}.jsonl" for name in ("train", args.test_split)]


def read_rows(path: Path) -> list[Row]:
    """The lines of a split file.

    Raises:
        DataError: missing or empty file, lines that are not {"id", "img", "label", "text"} with a label of 0 or 1, a
            file without labels, a meme named twice, or a picture outside the data folder.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: get the data as data/README.md says, or set --data_root")
    rows = [(number, parse_row(line)) for number, line in read_lines(path)]
    if not rows:
        raise DataError(f"{path} is empty: get it again (data/README.md)")
    if malformed := [f"line {number}" for number, row in rows if row is None]:
        raise DataError(
            f'{path}: lines must be {{"id", "img", "label": 0 or 1, "text"}}; not so in {list_names(malformed)}'
        )
    rows = [row for _, row in rows]
    if unlabelled := sum(row.label is None for row in rows):
        raise DataError(
            f"{path} has no label in {unlabelled} of {len(rows)} lines, as the test files were first published: take "
            "the file of the release after the challenge, or test on --test_split dev_seen"
        )
    repeated = [name for name, count in Counter(row.name for row in rows).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: memes named more than once, {list_names(repeated)}")
    outside = [row.name for row in rows if ".." in PurePosixPath(row.picture).parts or row.picture.startswith("/")]
    if outside:
        raise DataError(f"{path}: pictures outside the data folder, {list_names(outside)}")
    return rows


def parse_row(line: str) -> Row | None:
    """A line of a split file, its label None where there is none; None for a line of another form."""
    try:
        fields = json.loads(line)
        row = Row(str(fields["id"]), fields["img"], fields["text"], fields.get("label"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    whole = isinstance(row.picture, str) and isinstance(row.text, str) and row.label in (0, 1, None)
    return row if whole and not isinstance(row.label, bool | float) else None


def check_pictures(root: Path, splits: Sequence[str]) -> None:
    """Raises DataError that names the pictures of all these splits that are missing or empty, up to 100 of them."""
    faults: dict[str, list[str]] = {"missing": [], "empty": []}
    for picture in (row.picture for split in splits for row in read_rows(root / f"{split}.jsonl")):
        if not (root / picture).is_file():
            faults["missing"].append(picture)
        elif (root / picture).stat().st_size == 0:
            faults["empty"].append(picture)
    said = "; ".join(f"{fault} {list_names(names, 100)}" for fault, names in faults.items() if names)
    if said:
        raise DataError(f"pictures in {root}: {said}. Get them again (data/README.md)")
