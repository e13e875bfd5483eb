"""UCF101 as training reads it: units and mirror of the flow, what is drawn, splits, faults."""

import shutil

import numpy as np
import pytest
import torch
from helpers.instances import UCF_CLASSES, make_ucf101
from PIL import Image

from dataset import build
from dataset.loader import Seeded
from dataset.ucf101 import ENCODERS, UCF101, load_flow
from engine.parser import parse
from utils.errors import DataError

BOTH = ("rgb", "flow")
STEP = 20 / 127  # what is stored is rounded to


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_ucf101(tmp_path_factory.mktemp("ucf101"))


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def load(root, *flags, modalities=BOTH, **options):
    argv = ["--dataset", "UCF101", "--data_root", str(root), "--image_size", "16", "--frames", "2"]
    return build(parse([*argv, *flags]), modalities, **options)


def test_a_sample(whole):
    data = load(whole)
    assert (len(data.train), len(data.test), data.classes) == (36, 12, UCF_CLASSES)
    for part in (data.train, data.test):
        for wanted in range(6):
            inputs, target, position = part[wanted]
            assert tuple(inputs) == BOTH and (target, position) == (wanted % 3, wanted)
            assert inputs["rgb"].shape == (2, 3, 16, 16) and inputs["flow"].shape == (2, 2, 16, 16)
            assert inputs["flow"].dtype == torch.float32


def test_the_flow_is_in_pixels_and_evaluation_mirrors_nothing(whole):
    test = load(whole).test
    for i in range(6):
        u, v = test[i][0]["flow"].unbind(dim=1)
        assert (u - (i % 3 + 1)).abs().max() <= STEP / 2 and (v + 2).abs().max() <= STEP / 2


def test_training_mirrors_pictures_and_flow_together_and_turns_u(whole):
    args = parse(["--dataset", "UCF101", "--data_root", str(whole), "--image_size", "16", "--frames", "4"])
    rows, _ = UCF101.read_splits(args)
    train, plain = (UCF101(args, rows, BOTH, train=kind) for kind in (True, False))
    seen = set()
    for i in range(12):  # all four moments are drawn, so that only the mirror is left
        drawn, still = Seeded(train, 0, 0)[i][0], plain[i][0]
        mirrored = torch.equal(drawn["rgb"], still["rgb"].flip(-1))
        assert mirrored or torch.equal(drawn["rgb"], still["rgb"])
        factor = torch.tensor([-1.0 if mirrored else 1.0, 1.0]).view(1, 2, 1, 1)
        assert torch.equal(drawn["flow"], factor * still["flow"])
        seen.add(mirrored)
    assert seen == {True, False}


def test_a_flow_that_differs_from_place_to_place_is_mirrored_in_place(root):
    for file in (root / "Flow-03-FPS").glob("*/*.png"):
        ramp = np.tile(np.arange(128, 152), (40, 1)).astype(np.uint8)  # u and v grow to the right
        Image.fromarray(ramp).save(file)
    train = load(root, "--image_size", "24").train
    for i in range(12):
        u, v = Seeded(train, 0, 0)[i][0]["flow"][0]
        grows = v[0, -1] > v[0, 0]
        assert torch.equal(u, v) if grows else torch.equal(u, -v)


def test_both_modalities_are_read_at_the_same_moments_whichever_are_read(root):
    for clip in (root / "Image-03-FPS").iterdir():
        for moment in range(1, 5):
            Image.new("RGB", (24, 20), (50 * moment,) * 3).save(clip / f"{moment:05d}.jpg", quality=100)
            levels = Image.new("L", (24, 40), 128 + moment)
            levels.save(root / "Flow-03-FPS" / clip.name / f"{moment:05d}.png")
    both, rgb, flow = (load(root, modalities=names).train for names in (BOTH, ("rgb",), ("flow",)))
    moments = set()
    for epoch in range(3):
        for i in range(6):
            inputs = Seeded(both, 0, epoch)[i][0]
            v = (inputs["flow"][:, 1, 0, 0] / STEP).round()
            grey = ((inputs["rgb"][:, 0, 0, 0] * 0.229 + 0.485) * 255 / 50).round()
            assert torch.equal(v, grey) and v[0] < v[1]
            assert torch.equal(inputs["rgb"], Seeded(rgb, 0, epoch)[i][0]["rgb"])
            assert torch.equal(inputs["flow"], Seeded(flow, 0, epoch)[i][0]["flow"])
            moments.add(tuple(v.tolist()))
    assert len(moments) > 3


def test_evaluation_takes_the_even_moments(whole):
    args = parse(["--dataset", "UCF101", "--data_root", str(whole), "--image_size", "16", "--frames", "4"])
    _, rows = UCF101.read_splits(args)
    every = UCF101(args, rows, BOTH, train=False)[0][0]
    two = load(whole).test[0][0]
    assert all(torch.equal(two[name], every[name][[1, 3]]) for name in BOTH)


def test_u_lies_above_v(tmp_path):
    both = np.concatenate([np.full((20, 30), 255), np.full((20, 30), 1)]).astype(np.uint8)
    Image.fromarray(both).save(tmp_path / "flow.png")
    u, v = load_flow(tmp_path / "flow.png", 8)
    assert u.shape == (8, 8) and (u - 20).abs().max() < 1e-5 and (v + 20).abs().max() < 1e-5


def test_the_split_is_the_one_asked_for(whole):
    tested = [set(load(whole, "--split", number).test.names) for number in "123"]
    assert all(len(names) == 12 for names in tested) and len(set.union(*tested)) == 36
    assert load(whole).test.names == load(whole, "--split", "1").test.names


def test_encoders_take_what_a_sample_holds(whole):
    inputs = load(whole, "--image_size", "32").test[0][0]
    for makers in ENCODERS.values():
        for name, make in makers.items():
            encoder = make().eval()
            assert encoder(inputs[name][None]).shape == (1, encoder.dim)


CLIP = "v_Clip_g15_c01"


def leave_one(root):
    for kind in ("Image", "Flow"):
        for file in (root / f"{kind}-03-FPS" / CLIP).glob("*[234].*"):
            file.unlink()


def remove(file):
    file.unlink()


FAULTS = {
    "missing": (lambda root: shutil.rmtree(root / "Flow-03-FPS" / CLIP), ["missing in {root}/Flow-03-FPS: 1: " + CLIP]),
    "too few": (leave_one, ["fewer than --frames 2", f"{CLIP} (1)"]),
    "unlike": (lambda root: (root / "Flow-03-FPS" / CLIP / "00004.png").unlink(), [f"as flows: 1: {CLIP}"]),
    "other moments": (
        lambda root: [
            remove(root / "Image-03-FPS" / CLIP / "00002.jpg"),
            remove(root / "Flow-03-FPS" / CLIP / "00004.png"),
        ],
        [f"as flows: 1: {CLIP}"],
    ),
    "empty": (
        lambda root: (root / "Image-03-FPS" / CLIP / "00001.jpg").write_bytes(b""),
        ["empty frame files", CLIP],
    ),
    "no list": (lambda root: (root / "test01.csv").unlink(), ["test01.csv does not exist", "--data_root"]),
    "no classes": (lambda root: (root / "classInd.txt").unlink(), ["classInd.txt does not exist"]),
    "other classes": (lambda root: (root / "classInd.txt").write_text("1 A\n3 B\n"), ["classInd.txt", "number class"]),
    "class twice": (lambda root: (root / "classInd.txt").write_text("1 A\n2 B\n3 A\n"), ["more than once, 1: A"]),
    "unknown label": (lambda root: (root / "classInd.txt").write_text("1 A\n"), ["unknown labels, 3"]),
    "both splits": (lambda root: shutil.copy(root / "train01.csv", root / "test01.csv"), ["both train and test, 36"]),
    "no flow at all": (lambda root: shutil.rmtree(root / "Flow-03-FPS"), ["no frames at {root}/Flow-03-FPS", "--fps"]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_named(root, kind):
    change, said = FAULTS[kind]
    change(root)
    with pytest.raises(DataError) as stopped:
        load(root)
    message = str(stopped.value)
    assert "\n" not in message and all(words.format(root=root) in message for words in said), message


def test_only_the_modalities_in_use_are_needed(root):
    shutil.rmtree(root / "Flow-03-FPS")
    assert load(root, modalities=("rgb",)).train[0][0].keys() == {"rgb"}


def test_a_picture_that_does_not_decode_names_its_clip(root):
    (root / "Flow-03-FPS/v_Clip_g00_c01/00002.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="clip v_Clip_g00_c01 does not decode"):
        load(root).test[0]
