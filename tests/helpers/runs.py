"""Runs of main() that are small enough for a test: a generated demo, one frame a clip, encoders of few weights."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from helpers.acting import TAUGHT, acting
from helpers.decoded import remember
from helpers.narrow import NarrowResNet18

import main as program
from dataset.demo import Demo, generate
from engine.parser import parse
from methods import METHODS
from models.encoders import Staged
from models.multimodal import build_model
from utils.runs.plots import draw

CLIPS = 64  # 48 to train on, 16 to test on
SETTING = dict(demo_clips=CLIPS, demo_detune=0.5, demo_picture_noise=30.0)
STEPS = 3  # an epoch, of 16 samples each


class SmallEncoder(Staged):
    """Convolution, batch normalisation and pooling: a state of every kind that ResNet-18 has, in 16 channels."""

    dim = 16
    widths = (16, 16)

    def __init__(self, channels, stride=2):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 16, 3, stride=stride, bias=False), nn.BatchNorm2d(16)

    @property
    def stages(self):
        return self.conv, nn.Sequential(self.norm, nn.ReLU())

    def fold(self, x):
        return x.flatten(0, 1) if x.ndim == 5 else x


NARROW = {"audio": partial(NarrowResNet18, channels=1), "visual": partial(NarrowResNet18, channels=3)}
SMALL = {"audio": partial(SmallEncoder, channels=1), "visual": partial(SmallEncoder, channels=3)}


def make_demo(folder):
    """The generated data set that `train` reads."""
    generate(folder, **SETTING)
    return folder


def flags(data_root, out, *more):
    """A command line for the demo; `more` comes last, so it wins."""
    places = ["--dataset", "demo", "--data_root", str(data_root), "--out", str(out), "--tag", "test"]
    small = "--frames 1 --image_size 32 --batch_size 16 --workers 0 --device cpu".split()
    return [*places, *(f"--{name}={value}" for name, value in SETTING.items()), *small, *more]


def train(data_root, out, *more, encoders=SMALL, figures=False):
    """Run main() and return the run's folder. Without `encoders` the demo's own ResNet-18s are trained."""
    if TAUGHT & set(more) and "--teachers" not in more:
        more = (*more, "--teachers", *save_teachers(out, encoders or Demo.encoders(parse(flags(data_root, out)))))
    argv = flags(data_root, out, *more)
    with pytest.MonkeyPatch.context() as patch:
        remember(patch)
        if encoders:
            patch.setattr(Demo, "encoders", lambda args: encoders)
        patch.setattr(program, "draw", draw if figures else lambda *_: None)
        program.main(argv)
    return folder_of(argv)


def save_teachers(out, encoders, dataset="demo", classes=Demo.classes):
    """Checkpoints of a data set's unimodal models, untrained but always the same, as --teachers names them."""
    words = []
    for name, encoder in encoders.items():
        path = out / "teachers" / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        teacher = build_model({name: encoder}, "concat", len(classes), seed=7)
        args = {"dataset": dataset, "method": "unimodal", "modality": name}
        state = {"model": teacher.state_dict(), "args": args, "epoch": 0, "classes": list(classes)}
        torch.save(state, path)
        words.append(f"{name}={path}")
    return words


def folder_of(argv):
    args = parse(argv)
    return Path(args.out) / args.dataset / args.method / args.tag / f"seed{args.seed}"


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


def differing(one, other):
    """Names of the tensors that are not bit for bit the same in two state dicts."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


# Every method, and further settings of some. InfoReg's windows are always open, so that there is a regulation.
SETTINGS = {name: acting(name) for name in METHODS} | {
    "joint with heads": acting("joint", "--unimodal_loss", "heads", "--optimizer", "adamw"),
    "ogm": acting("ogm", "--modulation_starts", "1"),
    "pmr": acting("pmr", "--per_epochs", "3"),
    "g2d": acting("g2d", "--priority_epochs", "3"),
    "cml chain": acting("cml", "--variant", "official"),
    "amco batch": acting("amco", "--variant", "benchmark"),
    "cml epoch": acting("cml", "--variant", "benchmark"),
    "lfm": acting("lfm", "--alpha_lr", "1"),  # so that the weight moves
    "mmcsal": ["--method", "mmcsal", "--prototypes", "3", "--prototype_start", "0"],
    "lfm fitted": ["--method", "lfm", "--variant", "official"],
    "aug random": acting("aug", "--variant", "official"),
    "mla recursive": acting("mla", "--projection", "recursive"),
    "reconboost one head": acting("reconboost", "--variant", "official"),
    "inforeg": ["--method", "inforeg", "--threshold", "-10"],
    "inforeg lr": ["--method", "inforeg", "--threshold", "-10", "--regulation", "lr"],
    "inforeg gradient": ["--method", "inforeg", "--threshold", "-10", "--regulation", "gradient"],
    "inforeg official": ["--method", "inforeg", "--variant", "official", "--val_fraction", "0.17"],
    "gblending offline": acting("gblending", "--super_epoch", "9", "--estimate_epochs", "9"),
    "valuation": acting("valuation", "--warmup", "2"),
    "valuation modality": acting("valuation", "--warmup", "2", "--level", "modality", "--alpha", "9"),
}
