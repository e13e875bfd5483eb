"""What the tests themselves rely on: remembered clips are the decoded ones, narrow ResNets are ResNets."""

import shutil

import pytest
import torch
from helpers.decoded import remember
from helpers.narrow import NarrowResNet18
from helpers.runs import flags

from dataset import build
from engine.parser import parse
from models.encoders import ResNet18


@pytest.fixture
def samples(demo, tmp_path):
    """read(*flags): four training samples of a copy of the demo; and the copy, whose files may change."""
    root = shutil.copytree(demo, tmp_path / "demo")

    def read(*more):
        args = parse(flags(root, tmp_path, "--method", "joint", *more))
        data = build(args, ("audio", "visual"), 0.0).train
        torch.manual_seed(0)  # of the crops
        return [data[i][0] for i in range(4)]

    return read, root


def differ(one, other):
    return {name for a, b in zip(one, other, strict=True) for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.parametrize("noise", [[], ["--train_noise=audio:gaussian:2", "--train_noise=visual:gaussian:2"]])
def test_remembered_clips_are_those_that_are_decoded(samples, monkeypatch, noise):
    read, _ = samples
    decoded = read(*noise)
    remember(monkeypatch)
    first, again = read(*noise), read(*noise)
    assert not differ(decoded, first) and not differ(decoded, again)
    first[0]["audio"].zero_()  # a sample that is changed in place leaves what is remembered
    assert not differ(decoded, read(*noise))


def test_a_file_that_changes_is_decoded_anew(samples, monkeypatch):
    read, root = samples
    remember(monkeypatch)
    before = read()
    for suffix in ("wav", "jpg"):
        files = sorted(root.rglob(f"*.{suffix}"))
        contents = [file.read_bytes() for file in files]
        for file, content in zip(files, reversed(contents), strict=True):
            file.write_bytes(content)
    assert differ(before, read()) == {"audio", "visual"}


def test_a_narrow_resnet_has_every_layer_of_the_real_one():
    real, narrow = ResNet18(channels=3), NarrowResNet18(channels=3)
    kinds = [[(name, type(part)) for name, part in model.named_modules()][1:] for model in (real, narrow)]
    assert kinds[0] == kinds[1] and real.state_dict().keys() == narrow.state_dict().keys()
    x = torch.randn(2, 3, 32, 40)
    for model in (real, narrow):
        maps, sizes = model.fold(x), []
        for stage, width in zip(model.stages, model.widths, strict=True):
            maps = stage(maps)
            assert maps.shape[1] == width
            sizes.append(maps.shape[2:])
        assert sizes == [(8, 10), (4, 5), (2, 3), (1, 2)] and model(x).shape == (2, model.dim)
