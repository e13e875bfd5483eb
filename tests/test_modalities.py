"""Modalities that are neither sound nor video go through every method that their encoders define."""

import json
import math
from functools import partial

import pytest
import torch
from instances import UCF_CLASSES, make_hateful_memes, make_ucf101
from runs import SmallEncoder, checkpoint, folder_of, rows_of, save_teachers

import main as program
from dataset.hateful_memes import HatefulMemes
from dataset.ucf101 import UCF101
from methods import METHODS
from models.encoders import WordAverage
from models.fusion import FUSIONS
from utils.errors import RunError

ENCODERS = {
    "UCF101": {"rgb": partial(SmallEncoder, channels=3), "flow": partial(SmallEncoder, channels=2)},
    "HatefulMemes": {"image": partial(SmallEncoder, channels=3), "text": partial(WordAverage, 22)},
}
SOURCES = {"UCF101": UCF101, "HatefulMemes": HatefulMemes}
CLASSES = {"UCF101": len(UCF_CLASSES), "HatefulMemes": 2}
FLAGS = {"UCF101": ["--frames", "2"], "HatefulMemes": ["--vocabulary", "20", "--text_length", "8"]}
# Text has neither convolutions nor stages between which maps could be gated.
CONVOLUTIONS = "OGM acts on convolution weights (4-D); the encoder of text has none"
STAGES = "MMTM units stand between the stages of encoders; text has none"
REFUSED = {
    ("HatefulMemes", "ogm"): CONVOLUTIONS,
    ("HatefulMemes", "ogm_ge"): CONVOLUTIONS,
    ("HatefulMemes", "opm_ogm"): CONVOLUTIONS,
    ("HatefulMemes", "greedy"): STAGES,
}
WITHHOLDING = {"gblending", "relearning"}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {"UCF101": make_ucf101(folder / "ucf101"), "HatefulMemes": make_hateful_memes(folder / "memes")}


@pytest.fixture
def train(roots, tmp_path, monkeypatch):
    """train(dataset, method, *flags): one epoch of tiny encoders; the run's folder."""
    monkeypatch.setattr(program, "draw", lambda *_: None)

    def run(dataset, method, *more):
        encoders = ENCODERS[dataset]
        monkeypatch.setattr(SOURCES[dataset], "encoders", lambda args: encoders)
        argv = ["--dataset", dataset, "--method", method, "--data_root", str(roots[dataset]), "--out", str(tmp_path)]
        argv += (
            "--tag test --epochs 1 --image_size 16 --batch_size 12 --workers 0 --device cpu".split() + FLAGS[dataset]
        )
        if method in WITHHOLDING:
            argv += ["--held_out", "0.17"]
        if method == "g2d":
            argv += ["--teachers", *save_teachers(tmp_path, encoders, dataset, CLASSES[dataset])]
        program.main([*argv, *more])
        return folder_of([*argv, *more])

    return run


CASES = [(dataset, method) for dataset in SOURCES for method in METHODS if (dataset, method) not in REFUSED]


@pytest.mark.parametrize("dataset, method", CASES, ids=map("-".join, CASES))
def test_every_method_that_is_defined_trains(train, dataset, method):
    names = set(ENCODERS[dataset])
    only = sorted(names)[0]
    (row,) = rows_of(train(dataset, method, *(["--modality", only] if method == "unimodal" else [])))
    trained = {only} if method == "unimodal" else names
    assert trained < row["test"].keys() and not (names - trained) & row["test"].keys()
    assert row["fisher_trace"].keys() == trained
    assert all(trace > 0 for trace in row["fisher_trace"].values())
    assert all(math.isfinite(value) for split in ("train", "test") for value in row[split].values())


@pytest.mark.parametrize("dataset, method", REFUSED, ids=map("-".join, REFUSED))
def test_a_method_that_is_not_defined_says_so(train, dataset, method):
    with pytest.raises(RunError) as refused:
        train(dataset, method)
    assert str(refused.value) == REFUSED[dataset, method]


@pytest.mark.parametrize("dataset", SOURCES)
@pytest.mark.parametrize("fusion", FUSIONS)
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
