"""AVE as it is read: three splits, shapes, its own validation list, also from shards."""

import shutil

import pack_shards
import pytest
import torch
from helpers.instances import make_clips
from prepare_ave import LISTS

from dataset import build
from dataset.ave import AVE
from dataset.classes import EVENTS
from engine.parser import parse
from utils.errors import DataError

BOTH = ("audio", "visual")


def make(folder):
    return make_clips(folder, AVE.classes, fps=2, train=2, test=1, frames=4, val=1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture
def root(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "data")


def load(root, *more):
    return build(parse(["--dataset", "AVE", "--data_root", str(root), "--image_size", "16", *more]), BOTH)


def test_the_28_classes_are_in_the_order_of_the_alphabet():
    assert len(EVENTS) == 28 and list(EVENTS) == sorted(set(EVENTS)) and AVE.classes == EVENTS
    assert set(LISTS) == {"train", "val", "test"} and next(iter(LISTS)) == "test" and list(LISTS)[-1] == "train"


def test_a_sample_and_the_three_splits(kept):
    data = load(kept)
    assert [len(part) for part in (data.train, data.val, data.test)] == [56, 28, 28] and data.held_out is None
    assert list(data.val.names) == [f"val{i:03d}" for i in range(28)] and list(data.val.targets) == list(range(28))
    inputs, target, position = data.test[5]
    assert inputs["audio"].shape == AVE.audio.shape == (1, 257, 1007) and inputs["visual"].shape == (4, 3, 16, 16)
    assert (target, position) == (5, 5)
    assert torch.equal(data.val[0][0]["visual"], data.val[0][0]["visual"])  # no augmentation
    share = load(kept, "--val_fraction", "0.5")
    assert len(share.train) == len(share.val) == 28 and share.val.dataset.names[0].startswith("train")


def test_shards_have_the_validation_split_too(kept, tmp_path):
    pack_shards.main(["--data_root", str(kept), "--out", str(tmp_path / "out"), "--samples", "30", "--workers", "1"])
    packed, loose = load(f"{tmp_path}/out/{{000..003}}.tar").val, load(kept).val
    assert list(packed.names) == list(loose.names)
    for name, value in loose[3][0].items():
        assert torch.equal(packed[3][0][name], value)


FAULTS = {
    "the list": (lambda root: (root / "val.csv").unlink(), "val.csv does not exist"),
    "in train": (lambda root: write(root / "val.csv", "train003,Bark"), "in both train and val, 1: train003"),
    "in test": (lambda root: write(root / "val.csv", "test003,Bark"), "in both test and val, 1: test003"),
    "a class": (lambda root: write(root / "val.csv", "val000,Dog"), "unknown labels, 1: Dog"),
    "a clip": (lambda root: (root / "AudioWAV" / "val001.wav").unlink(), "val001"),
}


def write(path, row):
    path.write_text(f"{row}\n")


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_wrong_is_named(root, kind):
    change, said = FAULTS[kind]
    change(root)
    with pytest.raises(DataError, match=said):
        load(root)
