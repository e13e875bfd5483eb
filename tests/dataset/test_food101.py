"""Food-101 as it is read: titles, classes by the list, and what is missing."""

import pytest
import torch
from helpers.instances import DISHES, make_food101

from dataset import build
from dataset.recipes.text import PADDING, Vocabulary
from engine.parser import parse
from utils.errors import DataError

BOTH = ("image", "text")


@pytest.fixture
def root(tmp_path):
    return make_food101(tmp_path / "data", (("train", 6), ("test", 3)))


def load(root, modalities=BOTH):
    argv = ["--dataset", "Food101", "--data_root", str(root), "--image_size", "16", "--text_length", "8"]
    return build(parse(argv), modalities)


def test_a_sample_is_its_picture_and_its_title(root):
    data = load(root)
    assert (len(data.train), len(data.test), tuple(data.classes)) == (6, 3, DISHES)
    numbers = Vocabulary([(root / "Text" / f"{name}.txt").read_text() for name in data.train.names], 5000).numbers
    assert {"how", "minutes", "sushi"} <= set(numbers)
    for part in (data.train, data.test):
        inputs, target, position = part[2]
        words = [numbers[word] for word in "how to make sushi in ten minutes".split()]
        assert inputs["text"].tolist() == [*words, PADDING] and (target, position) == (2, 2)
        assert inputs["image"].shape == (3, 16, 16)
    assert torch.equal(data.test[0][0]["image"], data.test[0][0]["image"])


def test_classes_are_numbered_by_the_list_whatever_the_order_of_the_rows(root):
    lines = (root / "train.csv").read_text().splitlines(keepends=True)
    (root / "train.csv").write_text("".join(lines[::-1]))
    data = load(root).train
    assert data.targets == [DISHES.index(name.rsplit("_", 1)[0]) for name in data.names] and data.targets[0] == 2


def test_an_empty_title_has_no_words(root):
    (root / "Text" / "sushi_test2.txt").write_text("")
    assert load(root).test[2][0]["text"].tolist() == [PADDING] * 8


FAULTS = {
    "a title": (lambda root: (root / "Text/sushi_test2.txt").unlink(), "titles missing in .*1: sushi_test2"),
    "a picture": (
        lambda root: (root / "Image-01-FPS/sushi_test2/00001.jpg").unlink(),
        "missing 1: Image-01-FPS/sushi_test2/00001.jpg. Prepare them again",
    ),
    "the classes": (lambda root: (root / "classes.txt").unlink(), "classes.txt .*prepare the data"),
    "a class": (lambda root: (root / "classes.txt").write_text("sushi\nbeignets\n"), "unknown labels, 1: apple_pie"),
    "a split": (lambda root: (root / "test.csv").unlink(), "test.csv does not exist"),
    "in both": (lambda root: (root / "test.csv").write_text("sushi_train2,sushi\n"), "both train and test, 1: sushi_t"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_missing_is_named(root, kind):
    change, said = FAULTS[kind]
    change(root)
    with pytest.raises(DataError, match=said):
        load(root)
    if kind == "a picture":
        assert load(root, ("text",)).test[2][0].keys() == {"text"}
