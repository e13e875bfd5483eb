"""ModelNet40 as it is read: views as modalities, mirrored together, and what is missing."""

import pytest
import torch
from helpers.instances import make_modelnet40

from dataset import build
from dataset.classes import OBJECTS
from engine.parser import parse
from engine.setup import make_method
from utils.errors import DataError

TWO = ("view1", "view7")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return make_modelnet40(tmp_path_factory.mktemp("data") / "data", train=1, test=1)


@pytest.fixture
def root(tmp_path):
    return make_modelnet40(tmp_path / "data", train=1, test=1)


def load(root, modalities=TWO, *more):
    return build(parse(["--dataset", "ModelNet40", "--data_root", str(root), "--image_size", "16", *more]), modalities)


def halves(picture):
    """Mean brightness of the left and of the right half, in the levels of the file."""
    pixels = picture * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels = 255 * (pixels + torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
    return pixels[..., :6].mean().item(), pixels[..., -6:].mean().item()


def test_the_40_classes_are_in_the_order_of_the_alphabet(kept):
    assert len(OBJECTS) == 40 and list(OBJECTS) == sorted(set(OBJECTS)) and tuple(load(kept).classes) == OBJECTS


def test_a_sample_is_its_views(kept):
    data = load(kept)
    assert (len(data.train), len(data.test), data.val) == (40, 40, None) and data.test.targets == list(range(40))
    inputs, target, position = data.test[3]
    assert list(inputs) == list(TWO) and (target, position) == (3, 3)
    for view, number in (("view1", 1), ("view7", 7)):
        left, right = halves(inputs[view])
        assert inputs[view].shape == (3, 16, 16) and right < 4 < 20 * number - 2 < left < 20 * number + 12


def test_training_mirrors_half_of_the_objects_in_all_views_alike(kept):
    data = load(kept, ("view2", "view5", "view9"), "--views", "2,5,9").train
    turned = []
    for seed in range(40):
        torch.manual_seed(seed)
        sides = [left < right for left, right in map(halves, data[seed][0].values())]
        assert len(set(sides)) == 1
        turned.append(sides[0])
        torch.manual_seed(seed)
        alone = load(kept, ("view5",), "--views", "2,5,9").train[seed][0] if seed < 3 else {}
        assert all((halves(x)[0] < halves(x)[1]) == sides[0] for x in alone.values())
    assert 8 < sum(turned) < 32


def test_evaluation_mirrors_nothing(kept):
    for seed in range(12):
        torch.manual_seed(seed)
        assert all(left > right for left, right in map(halves, load(kept).test[0][0].values()))


def test_every_view_has_noise_of_its_own(kept):
    clean, every, one = (
        load(kept, TWO, *more).test[0][0]
        for more in ([], ["--train_noise", "any:gaussian:3"], ["--train_noise", "view7:gaussian:3"])
    )
    first, second = (every[view] - clean[view] for view in TWO)
    assert first.abs().max() > 0 < second.abs().max() and not torch.equal(first, second)
    assert torch.equal(one["view1"], clean["view1"]) and torch.equal(one["view7"], every["view7"])


def test_views_are_the_modalities_and_name_the_setting(capsys):
    args = parse(["--dataset", "ModelNet40", "--views", "12,1,3", "--encoder", "convnet"])
    assert args.tag == "encoder=convnet_views=12+1+3"
    assert make_method(args).model.modalities == ("view12", "view1", "view3")
    assert parse(["--dataset", "ModelNet40"]).tag == "default"
    for wrong in ("1", "0,1", "1,13", "1,1", "1,01", "a,b", "1,,2", ""):
        with pytest.raises(SystemExit):
            parse(["--dataset", "ModelNet40", "--views", wrong])
        assert "are no views" in capsys.readouterr().err


PICTURE = "Image-01-FPS/bed_test0/00007.jpg"
FAULTS = {
    "a view": (lambda root: (root / PICTURE).unlink(), f"missing 1: {PICTURE}. Prepare them again"),
    "an empty file": (lambda root: (root / PICTURE).write_bytes(b""), f"empty 1: {PICTURE}"),
    "a split": (lambda root: (root / "test.csv").unlink(), "test.csv does not exist"),
    "in both": (lambda root: (root / "test.csv").write_text("bed_train0,bed\n"), "both train and test, 1: bed_train0"),
    "a class": (lambda root: (root / "test.csv").write_text("bed_test0,dog\n"), "unknown labels, 1: dog"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_wrong_is_named(root, kind):
    change, said = FAULTS[kind]
    change(root)
    with pytest.raises(DataError, match=said):
        load(root)
    if kind == "a view":
        assert len(load(root, ("view1",)).test) == 40


def test_a_picture_that_does_not_decode_is_named_when_it_is_read(root):
    (root / PICTURE).write_bytes(b"\xff\xd8 cut")
    with pytest.raises(DataError, match="clip bed_test0 does not decode"):
        load(root).test[OBJECTS.index("bed")]
