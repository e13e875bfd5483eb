"""Hateful Memes: pictures with a text in them, hateful or not (Kiela et al., NeurIPS 2020)."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dataset.image_text import ImageText, Row, numbered
from dataset.lists import read_lines, repeated
from dataset.splits import check_disjoint
from utils.errors import DataError, list_names

TESTS = ("test_seen", "test_unseen", "dev_seen", "dev_unseen")


class HatefulMemes(ImageText):
    """One split; the files are read as they are published.

    `<split>.jsonl` has lines {"id", "img", "label", "text"}, and `img` names the picture below --data_root.
    """

    classes = ("not-hateful", "hateful")
    remedy = "get them again (data/README.md)"
    defaults = dict(
        data_root="data/HatefulMemes", image_size=224, batch_size=64, epochs=30,
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, lr_step=20, lr_gamma=0.1,
    )  # fmt: skip

    @classmethod
    def pictures(cls, args) -> list[str]:
        """Those of the training split and of --test_split."""
        return [row.picture for path in cls.split_files(args) for row in read_rows(path)]

    @classmethod
    def class_names(cls, args) -> Sequence[str]:
        return cls.classes

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--test_split", choices=TESTS, default="test_seen",
            help="the file that is tested on; which one the paper takes is not said",
        )  # fmt: skip
        super().add_args(group)

    @classmethod
    def read_splits(cls, args) -> list[list[Row]]:
        """The rows of train.jsonl and of --test_split, each meme in one of them only."""
        root = Path(args.data_root)
        if not root.is_dir():
            raise DataError(f"{root} does not exist: get the data as data/README.md says, or set --data_root")
        splits = [read_rows(path) for path in cls.split_files(args)]
        check_disjoint(*([(row.name, row.label) for row in rows] for rows in splits), root)
        return numbered(splits, args)

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
    if twice := repeated(row.name for row in rows):
        raise DataError(f"{path}: memes named more than once, {list_names(twice)}")
    outside = [row.name for row in rows if ".." in PurePosixPath(row.picture).parts or row.picture.startswith("/")]
    if outside:
        raise DataError(f"{path}: pictures outside the data folder, {list_names(outside)}")
    return rows


def parse_row(line: str) -> Row | None:
    """A line of a split file, its label None where there is none; None for a line of another form."""
    try:
        fields = json.loads(line)
        row = Row(str(fields["id"]), fields["img"], fields["text"], fields.get("label"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    whole = isinstance(row.picture, str) and isinstance(row.text, str) and row.label in (0, 1, None)
    return row if whole and not isinstance(row.label, bool | float) else None
