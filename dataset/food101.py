"""UPMC Food-101: pictures of 101 dishes, each with the title of its web page (Wang et al., ICMEW 2015).

<root>/Image-01-FPS/<clip>/00001.jpg, Text/<clip>.txt, train.csv, test.csv and classes.txt, by data/prepare_food101.py
"""

from collections.abc import Sequence
from pathlib import Path

from dataset.image_text import ImageText, Row, numbered
from dataset.lists import read_classes, read_text
from dataset.splits import check_disjoint, read_split
from utils.errors import DataError, list_names

PICTURE, TEXT = "Image-01-FPS/{}/00001.jpg", "Text/{}.txt"


class Food101(ImageText):
    """One split. The titles often hold the name of the dish, so the text leads by far."""

    remedy = "prepare them again (data/README.md)"
    defaults = dict(
        data_root="data/Food101", image_size=224, text_length=40, batch_size=64, epochs=30,
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, lr_step=20, lr_gamma=0.1,
    )  # fmt: skip

    method_defaults = {"cggm": dict(direction_weight=0.05)}  # public code

    @classmethod
    def class_names(cls, args) -> list[str]:
        return read_classes(
            Path(args.data_root) / "classes.txt", "prepare the data (data/README.md) or set --data_root"
        )

    @classmethod
    def pictures(cls, args) -> list[str]:
        """Those of both splits."""
        classes = cls.class_names(args)
        return [PICTURE.format(clip) for path in cls.split_files(args)[:2] for clip, _ in read_split(path, classes)]

    @classmethod
    def read_splits(cls, args) -> list[list[Row]]:
        """The rows of both splits, with their titles, each picture in one of them only."""
        root, classes = Path(args.data_root), cls.class_names(args)
        splits = [read_split(path, classes) for path in cls.split_files(args)[:2]]
        check_disjoint(*splits, root)
        return numbered([titled(root, rows) for rows in splits], args)

    @classmethod
    def split_files(cls, args) -> list[Path]:
        """The splits, and the class names, whose order numbers the classes."""
        return [Path(args.data_root) / name for name in ("train.csv", "test.csv", "classes.txt")]


def titled(root: Path, clips: Sequence[tuple[str, int]]) -> list[Row]:
    """The clips with their titles. Raises DataError that names those without a file of it."""
    if missing := [clip for clip, _ in clips if not (root / TEXT.format(clip)).is_file()]:
        raise DataError(f"titles missing in {root / 'Text'}, {list_names(missing, 100)}. Prepare them again")
    return [Row(clip, PICTURE.format(clip), read_text(root / TEXT.format(clip)), label) for clip, label in clips]
