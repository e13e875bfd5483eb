"""Every method for an epoch on a tiny instance of every data set, or its refusal; and modalities of other kinds."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import instances
from helpers.acting import TAUGHT, learns
from helpers.decoded import remember
from helpers.instances import (
    make_avmnist,
    make_clips,
    make_features,
    make_folder,
    make_food101,
    make_hateful_memes,
    make_modelnet40,
    make_series,
    make_ucf101,
    save_features,
    save_series,
)
from helpers.runs import SETTING, SMALL, SmallEncoder, checkpoint, folder_of, make_demo, rows_of, save_teachers

import main as program
from dataset import DATASETS, build
from dataset.ave import AVE
from dataset.base import below
from dataset.classes import WORDS
from dataset.cremad import CREMAD
from dataset.kinetics_sounds import KineticsSounds
from engine.parser import parse
from methods import METHODS
from models.encoders import Transformer, WordAverage
from models.fusion import FUSIONS
from utils.errors import RunError

# Data set -> what writes the instance into a folder, and the flags that it needs.
CLIPS = "--image_size 16 --batch_size 16 --frames 1"
SERIES = "--widths 5,5,10 --batch_size 18"
INSTANCES = {
    "CREMAD": (partial(make_clips, classes=CREMAD.classes, fps=3, train=4), CLIPS),
    "KineticsSounds": (partial(make_clips, classes=KineticsSounds.classes, fps=1), CLIPS),
    "AVE": (partial(make_clips, classes=AVE.classes, fps=2, frames=2, val=1), CLIPS),
    "UCF101": (make_ucf101, "--image_size 16 --batch_size 12 --frames 2"),
    "ModelNet40": (make_modelnet40, "--image_size 16 --batch_size 20"),
    "HatefulMemes": (make_hateful_memes, "--image_size 16 --batch_size 12 --vocabulary 20 --text_length 8"),
    "Food101": (make_food101, "--image_size 16 --batch_size 12 --vocabulary 20 --text_length 8"),
    "MOSI": (lambda root: save_series(root, make_series()), SERIES),
    "MOSEI": (lambda root: save_series(root, make_series()), SERIES),
    "GRID": (partial(make_clips, classes=WORDS["digit"], fps=25), CLIPS),
    "AVMNIST": (make_avmnist, "--batch_size 20"),
    "features": (lambda root: save_features(root, make_features()), "--hidden 8 --layers 2 --batch_size 12"),
    "folder": (make_folder, CLIPS),
    "demo": (make_demo, " ".join([CLIPS, *(f"--{name}={value}" for name, value in SETTING.items())])),
}
# Encoders of few weights in the place of ResNet-18; those of the other data sets are made small by flags.
VIDEO = {"rgb": partial(SmallEncoder, channels=3), "flow": partial(SmallEncoder, channels=2)}
MEMES = {"image": partial(SmallEncoder, channels=3), "text": partial(WordAverage, 22)}
LONG = SMALL | {"audio": partial(SmallEncoder, channels=1, stride=8)}  # for spectrograms of ten seconds
ENCODERS = dict.fromkeys(("CREMAD", "GRID", "folder", "demo"), SMALL) | dict.fromkeys(("KineticsSounds", "AVE"), LONG)
ENCODERS |= {"UCF101": VIDEO, "HatefulMemes": MEMES, "Food101": MEMES}
ENCODERS["ModelNet40"] = dict.fromkeys(("view1", "view7"), VIDEO["rgb"])
ENCODERS["AVMNIST"] = dict.fromkeys(("audio", "image"), partial(SmallEncoder, channels=1))
# One layer of the five; tests/dataset/test_mosi.py trains the whole, and here MOSEI.
WIDTHS = {"vision": 5, "audio": 5, "text": 10}
LAYER = {
    name: partial(Transformer, features, WIDTHS[name], layers=1) for name, (_, features) in instances.SERIES.items()
}
ENCODERS["MOSI"] = LAYER
# MMTM units need stages between which maps can be gated; words and series have none.
WITHOUT_STAGES = {
    "HatefulMemes": "text",
    "Food101": "text",
    "MOSI": "vision, audio, text",
    "MOSEI": "vision, audio, text",
}
REFUSED = {
    (dataset, "greedy"): f"the stages of encoders; that of {names} has none: choose another --method"
    for dataset, names in WITHOUT_STAGES.items()
}
# One layer for all needs features of one width, and so does a comparison of features.
REFUSED |= {
    (dataset, "mla"): "--fusion shared is one layer for features of one width, not " for dataset in WITHOUT_STAGES
}
REFUSED |= {(dataset, "lfm"): "LFM compares features of one width, not " for dataset in WITHOUT_STAGES}
# Data sets whose samples look to a method like another's: clips of sound and pictures, a picture and a text, series. On
# them joint training and InfoReg are trained, on the other one every method.
LIKE = dict.fromkeys(("CREMAD", "KineticsSounds", "GRID", "folder", "demo"), "AVE")  # demo: tests/engine/test_run.py
LIKE |= {"Food101": "HatefulMemes", "MOSEI": "MOSI"}
WITHHOLDING = {"gblending", "relearning"}


def test_every_data_set_has_an_instance():
    assert INSTANCES.keys() == DATASETS.keys()


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """{data set: folder}, made when it is asked for."""
    folder = tmp_path_factory.mktemp("data")

    class Roots(dict):
        def __missing__(self, dataset):
            self[dataset] = INSTANCES[dataset][0](folder / dataset)
            return self[dataset]

    return Roots()


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(AVE, "audio", replace(AVE.audio, seconds=1.0))  # of ten, which take ten times as long
    remember(monkeypatch)


@pytest.fixture
def train(roots, tmp_path, monkeypatch):
    """train(dataset, method, *flags): an epoch of tiny encoders; the run's folder."""

    def run(dataset, method, *more):
        argv = ["--dataset", dataset, "--method", method, "--data_root", str(roots[dataset]), "--out", str(tmp_path)]
        argv += ["--tag", "test", "--epochs", "1", "--workers", "0", "--device", "cpu", *INSTANCES[dataset][1].split()]
        if dataset in ENCODERS:
            monkeypatch.setattr(DATASETS[dataset], "encoders", lambda args: ENCODERS[dataset])
        if method in WITHHOLDING:
            argv += ["--held_out", "0.5"]  # so that it has a sample of each class
        if method in TAUGHT:
            args = parse(argv[:2] + argv[4:])
            encoders, classes = DATASETS[dataset].encoders(args), DATASETS[dataset].class_names(args)
            argv += ["--teachers", *save_teachers(tmp_path, encoders, dataset, classes)]
        program.main([*argv, *more])
        return folder_of([*argv, *more])

    return run


def names_of(dataset, roots):
    args = parse(["--dataset", dataset, "--data_root", str(roots[dataset]), *INSTANCES[dataset][1].split()])
    return list(ENCODERS.get(dataset) or DATASETS[dataset].encoders(args))


CASES = [
    (dataset, method)
    for dataset in DATASETS
    for method in (("joint", "inforeg") if dataset in LIKE else METHODS)
    if (dataset, method) not in REFUSED
]


@pytest.mark.parametrize("dataset, other", LIKE.items())
def test_the_samples_of_like_data_sets_differ_in_sizes_alone(roots, dataset, other):
    samples = []
    for name in (dataset, other):
        args = parse(["--dataset", name, "--data_root", str(roots[name]), *INSTANCES[name][1].split()])
        inputs, target, index = build(args, tuple(names_of(name, roots))).train[0]
        samples.append({part: (x.ndim, x.dtype) for part, x in inputs.items()} | {"target": type(target)})
    assert samples[0] == samples[1]
    assert DATASETS[dataset].forms.keys() == DATASETS[other].forms.keys()


@pytest.mark.parametrize("dataset, method", CASES, ids=map("-".join, CASES))
def test_every_method_that_is_defined_trains(train, roots, dataset, method):
    names = names_of(dataset, roots)
    only = sorted(names)[0]
    needs = {"unimodal": ["--modality", only], "mslr": ["--modality_lr", f"{only}=0.5"]}
    (row,) = rows_of(train(dataset, method, *needs.get(method, [])))
    trained = {only} if method == "unimodal" else set(names)
    assert trained < row["test"].keys() and not ({*names} - trained) & row["test"].keys()
    assert row["fisher_trace"].keys() == trained
    weight = (
        row.get("weight", {}) if method == "gblending" else {}
    )  # 0 for what does not generalise, which noise may not
    assert learns(method, {m: t for m, t in row["fisher_trace"].items() if not weight or weight[m] or weight["fused"]})
    assert all(math.isfinite(value) for split in ("train", "test") for value in row[split].values())


@pytest.mark.parametrize("dataset, method", REFUSED, ids=map("-".join, REFUSED))
def test_a_method_that_is_not_defined_says_so(train, dataset, method):
    with pytest.raises(RunError) as refused:
        train(dataset, method)
    assert REFUSED[dataset, method] in str(refused.value)


@pytest.mark.parametrize("dataset", DATASETS)
def test_of_every_data_set_a_list_names_the_samples(train, roots, tmp_path, dataset):
    argv = ["--dataset", dataset, "--data_root", str(roots[dataset]), *INSTANCES[dataset][1].split()]
    names = build(parse(argv), tuple(names_of(dataset, roots))).train.names
    chosen = names[::-2]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in chosen))
    args = parse([*argv, "--train_list", str(tmp_path / "list.txt")])
    data, at = below(build(args, tuple(names_of(dataset, roots))).train)
    assert [data.names[i] for i in at] == chosen[::-1] and len(set(names)) == len(names)


FUSED = [(dataset, fusion) for dataset in ("UCF101", "HatefulMemes") for fusion in FUSIONS]
FUSED.remove(("HatefulMemes", "shared"))  # whose features have two widths


@pytest.mark.parametrize("dataset, fusion", FUSED)
def test_every_fusion_and_the_rules_of_the_public_code(train, dataset, fusion):
    flags = ["--variant", "official"] if fusion == "concat" else []
    folder = train(dataset, "inforeg", "--fusion", fusion, *flags)
    result = json.loads((folder / "result.json").read_text())
    assert result["last"].keys() > set(ENCODERS[dataset])


@pytest.mark.parametrize("dataset, name", [("UCF101", "flow"), ("HatefulMemes", "text")])
def test_what_tells_the_classes_apart_is_learnt(train, dataset, name):
    flags = ["--modality", name, "--epochs", "12", "--lr", "0.05", "--lr_step", "100", "--batch_size", "6"]
    folder = train(dataset, "unimodal", *flags)
    assert rows_of(folder)[-1]["test"][name] == 1.0
    assert all(value.isfinite().all() for value in checkpoint(folder)["model"].values() if value.is_floating_point())


def test_a_run_on_memes_is_probed(train, tmp_path):
    from scripts import linear_probe

    folder = train("HatefulMemes", "joint")
    scores = linear_probe.main([str(folder / "last.pt"), "--workers", "0", "--device", "cpu"])
    assert scores.keys() == {"image", "text"} and scores["text"] == 1.0


def test_zero_inputs_are_texts_without_words():
    torch.manual_seed(0)
    encoder, batch = WordAverage(22), torch.tensor([[3, 4, 0], [5, 0, 0]])
    hidden = encoder(torch.zeros_like(batch[:1]))
    assert hidden.isfinite().all() and not torch.equal(hidden[0], encoder(batch)[0])
