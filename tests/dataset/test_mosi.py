"""MOSI: series of three modalities through the loader, every method, the validation rule and the probe."""

import json
import os
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import prepare_mosi
import pytest
import torch
from helpers.acting import TAUGHT, acting, learns
from helpers.instances import PARTS, SERIES, make_series, save_series
from helpers.preparing import status_of
from helpers.results import FUSED
from helpers.runs import checkpoint, differing, folder_of, rows_of

import main as program
from dataset import build
from dataset.mosi import MOSI, default_width
from engine.parser import parse
from methods import METHODS
from scripts import collect, linear_probe
from utils.errors import DataError, RunError

NAMES = tuple(SERIES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return save_series(tmp_path_factory.mktemp("data") / "MOSI", make_series())


def flags(root, out, *more):
    small = "--widths 5,5,10 --batch_size 18 --epochs 1 --workers 0 --device cpu --tag test".split()
    return ["--dataset", "MOSI", "--data_root", str(root), "--out", str(out), *small, *more]


def train(root, out, *more):
    argv = flags(root, out, *more)
    program.main(argv)
    return folder_of(argv)


@pytest.fixture(scope="module")
def teachers(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("teachers")
    runs = {name: train(root, out / name, "--method", "unimodal", "--modality", name) for name in NAMES}
    return [f"{name}={folder / 'last.pt'}" for name, folder in runs.items()]


# --- The loader


def load(root, *more, modalities=NAMES, held_out=0.0):
    return build(parse(flags(root, "nowhere", *more)), modalities, held_out)


def test_a_sample_is_its_rows_of_the_file(root):
    arrays, splits = make_series(), load(root)
    for part, data in (("train", splits.train), ("test", splits.test), ("valid", splits.val)):
        assert len(data) == PARTS[part]
        for i in range(len(data)):
            inputs, target, position = data[i]
            assert tuple(inputs) == NAMES and position == i
            assert target == int(arrays[f"{part}_score"][i] > 0)
            for name, x in inputs.items():
                assert x.shape == SERIES[name] and np.array_equal(x.numpy(), arrays[f"{part}_{name}"][i])


@pytest.mark.parametrize(
    "labels, targets, classes",
    [
        ("binary_positive", [0, 0, 1, 0, 1, 1], ("not_positive", "positive")),
        ("binary_nonnegative", [0, 1, 1, 0, 1, 1], ("negative", "not_negative")),
        ("three", [0, 1, 2, 0, 2, 2], ("negative", "neutral", "positive")),
    ],
)
def test_conventions_of_the_labels(root, labels, targets, classes):
    splits = load(root, "--labels", labels)
    assert splits.train.targets[:6] == targets and splits.classes == classes
    assert splits.train[1][1] == targets[1]


def test_modalities_are_read_and_encoded_as_asked_for(root):
    args = parse(flags(root, "nowhere", "--modalities", "text,vision"))
    assert args.modalities == "vision,text"  # the data set's order
    assert tuple(MOSI.encoders(args)) == ("vision", "text")
    assert tuple(load(root, modalities=("text",)).train[0][0]) == ("text",)
    tag = parse(["--dataset", "MOSI", "--modalities", "audio,text"]).tag
    assert tag == "modalities=audio,text"


@pytest.mark.parametrize(
    "words", ["--modalities text", "--modalities text,text", "--modalities text,smell", "--widths 5,5",
              "--widths 5,5,12", "--widths 5,5,0", "--widths a,b,c", "--labels five"],
)  # fmt: skip
def test_wrong_flags_are_refused_by_name(capsys, words):
    with pytest.raises(SystemExit):
        parse(["--dataset", "MOSI", *words.split()])
    assert f"argument {words.split()[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "features, width", [(20, 40), (5, 10), (300, 600), (35, 70), (74, 150), (768, 1540), (1, 10)]
)  # the first five: MultiBench's examples
def test_default_widths_are_multibenchs(features, width):
    assert default_width(features) == width


def test_encoders_follow_from_the_file_and_the_widths(root):
    encoders = MOSI.encoders(parse(flags(root, "nowhere")))
    assert {name: make().dim for name, make in encoders.items()} == {"vision": 5, "audio": 5, "text": 10}
    args = parse(["--dataset", "MOSI", "--data_root", str(root)])
    made = {name: make() for name, make in MOSI.encoders(args).items()}
    assert {name: (e.project.in_channels, e.dim) for name, e in made.items()} == {
        "vision": (3, 10), "audio": (2, 10), "text": (6, 20),
    }  # fmt: skip


def test_mosei_is_the_same_under_its_own_name(root):
    assert parse(["--dataset", "MOSEI"]).data_root == "data/MOSEI"
    splits = build(parse(["--dataset", "MOSEI", "--data_root", str(root)]), NAMES)
    assert len(splits.train) == PARTS["train"] and splits.val is not None


def test_defaults_are_multibenchs():
    args = vars(parse(["--dataset", "MOSI"]))
    wanted = dict(optimizer="adamw", lr=1e-4, weight_decay=0.01, epochs=100, batch_size=32, labels="binary_positive")
    assert {name: args[name] for name in wanted} == wanted
    assert args["lr_step"] >= args["epochs"]  # no decay


# --- Validation


def test_the_files_own_validation_part_selects_unless_a_share_is_asked_for(root):
    own = load(root)
    assert own.val.names == [f"valid{i}" for i in range(12)] and len(own.train) == 36
    share = load(root, "--val_fraction", "0.25")
    assert len(share.val) == 9 and len(share.train) == 27 and share.val.dataset.names[0] == "train0"
    both = load(root, held_out=0.25)
    assert len(both.held_out) == 9 and len(both.train) == len(both.plain) == 27 and len(both.val) == 12


def test_a_file_without_a_validation_part(tmp_path):
    root = save_series(tmp_path / "two", make_series({"train": 36, "test": 18}))
    assert load(root).val is None and len(load(root, "--val_fraction", "0.25").val) == 9
    result = json.loads((train(root, tmp_path, "--method", "joint") / "result.json").read_text())
    assert result.keys() == {"last", "oracle"}


# --- Training


def chosen(method, teachers):
    more = {"unimodal": ["--modality", "text"]} | dict.fromkeys(TAUGHT, ["--teachers", *teachers])
    more["mla"] = ["--widths", "5,5,5"]
    return acting(method, *more.get(method, []))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "greedy"])
def test_every_method_trains_on_three_series(root, teachers, tmp_path, method):
    folder = train(root, tmp_path, *chosen(method, teachers), "--epochs", "2")
    names = {"text"} if method == "unimodal" else set(NAMES)
    rows, result = rows_of(folder), json.loads((folder / "result.json").read_text())
    assert result.keys() == {"last", "val", "oracle"}
    for figures in result.values():
        assert figures.keys() == {"epoch"} | FUSED | names
        assert figures["majority"] == 0.5
    for row in rows:
        assert row["fisher_trace"].keys() == names and learns(method, row["fisher_trace"])
        assert row["val"]["majority"] == 0.5
    held = checkpoint(folder)["model"]
    assert {name.split(".")[1] for name in held if name.startswith("encoders.")} == names
    assert (folder / "best.pt").exists()


def test_greedy_needs_stages_and_says_so(root, tmp_path):
    with pytest.raises(RunError) as refused:
        program.main(flags(root, tmp_path, "--method", "greedy"))
    message = str(refused.value)
    assert "the stages of encoders" in message and "vision, audio, text" in message and "\n" not in message


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_joint_training_learns_from_the_modality_that_tells(root, tmp_path, capsys, fusion):
    folder = train(root, tmp_path, "--method", "joint", "--fusion", fusion, "--epochs", "15", "--lr", "2e-3")
    last = rows_of(folder)[-1]
    assert last["test"]["accuracy"] == last["test"]["text"] == last["test"]["macro_f1"] == 1.0
    assert max(last["test"]["vision"], last["test"]["audio"]) < 0.9
    assert "majority 50.00%" in capsys.readouterr().out


def test_the_majority_is_that_of_the_convention(root, tmp_path):
    folder = train(root, tmp_path, "--method", "joint", "--labels", "binary_nonnegative")
    assert rows_of(folder)[0]["test"]["majority"] == pytest.approx(2 / 3)
    table = collect.main([str(folder)])
    assert "majority" in table and "| 66.7 |" in table


def test_two_of_the_modalities_and_fusions_of_two(root, tmp_path):
    argv = ["--method", "inforeg", "--threshold", "-10"]
    folder = train(root, tmp_path, *argv, "--fusion", "film", "--modalities", "audio,text")
    assert rows_of(folder)[0]["fisher_trace"].keys() == {"audio", "text"}
    with pytest.raises(RunError, match="film is defined for two modalities.*vision, audio, text"):
        program.main(flags(root, tmp_path, "--fusion", "film"))
    with pytest.raises(RunError, match="--modality, one of audio, text"):
        alone = ["--method", "unimodal", "--modality", "vision"]
        program.main(flags(root, tmp_path, *alone, "--modalities", "text,audio"))


def test_a_resumed_run_draws_the_same_dropout(root, tmp_path, monkeypatch):
    argv = ["--method", "ogm", "--epochs", "3", "--alpha", "0.8"]
    whole = train(root, tmp_path / "whole", *argv)
    after_backward, steps = METHODS["ogm"].after_backward, []

    def stop(self, output):
        after_backward(self, output)
        steps.append(output)
        if len(steps) == 3:  # of two in an epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(METHODS["ogm"], "after_backward", stop)
        with pytest.raises(KeyboardInterrupt):
            train(root, tmp_path / "cut", *argv)
    resumed = train(root, tmp_path / "cut", *argv, "--resume")
    assert (resumed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert not differing(checkpoint(resumed)["model"], checkpoint(whole)["model"])


def test_the_probe_reads_train_and_test_only(root, tmp_path):
    folder = train(root, tmp_path, "--method", "joint")
    scores = linear_probe.main([str(folder / "last.pt"), "--workers", "0", "--device", "cpu"])
    assert scores.keys() == set(NAMES) and scores["text"] == 1.0


# --- Faults


def without(name):
    return lambda arrays: arrays.pop(name)


def put(name, value, *place):
    def change(arrays):
        arrays[name][place] = value

    return change


def replaced(name, change):
    def apply(arrays):
        arrays[name] = change(arrays[name])

    return apply


FAULTS = {
    "no scores": (without("train_score"), ["train_score", "missing"]),
    "no modality": (without("test_audio"), ["1: test_audio"]),
    "no identifiers": (without("valid_id"), ["1: valid_id"]),
    "fewer": (replaced("test_text", lambda x: x[:-1]), ["1: test_text"]),
    "other features": (replaced("valid_vision", lambda x: x[:, :, 1:]), ["1: valid_vision"]),
    "double": (replaced("train_audio", lambda x: x.astype(float)), ["1: train_audio"]),
    "NaN": (put("test_vision", np.nan, 2, 1, 0), ["not finite in test vision"]),
    "NaN score": (put("train_score", np.nan, slice(3)), ["not finite in train score"]),
    "named twice": (put("train_id", "train7", 3), ["train_id must name each of the 36 samples, and none twice"]),
    "bytes": (replaced("test_id", lambda x: x.astype("S")), ["test_id must be (N,) texts"]),
    "two parts": (put("test_id", "train7", 3), ["test", "another part", "1: train7"]),
    "no class": (replaced("test_score", lambda x: -np.abs(x)), ["no utterance of test is positive", "--labels"]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_file_with_a_fault_is_refused_in_one_sentence(tmp_path, kind):
    change, said = FAULTS[kind]
    arrays = make_series()
    change(arrays)
    root = save_series(tmp_path / "data", arrays)
    with pytest.raises(DataError) as refused:
        program.main(flags(root, tmp_path, "--method", "joint"))
    message = str(refused.value)
    assert str(root) in message and all(words in message for words in said) and "\n" not in message, message
    assert not (tmp_path / "MOSI").exists()


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04"], ids=["missing", "empty", "text", "cut"])
def test_a_file_that_is_missing_or_damaged(tmp_path, content):
    if content is not None:
        (tmp_path / "series.npz").write_bytes(content)
    with pytest.raises(DataError) as refused:
        program.main(flags(tmp_path, tmp_path, "--method", "joint"))
    message = str(refused.value)
    assert "series.npz" in message and ("prepare" in message) and "\n" not in message


def test_a_pickle_within_the_archive_is_not_executed(tmp_path):
    marker = tmp_path / "marker"

    class Calls:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    arrays = make_series()
    hostile = np.empty(36, object)
    hostile[:] = [Calls()] * 36
    root = save_series(tmp_path / "data", arrays | {"train_id": hostile})
    with pytest.raises(DataError):
        program.main(flags(root, tmp_path, "--method", "joint"))
    assert not marker.exists()


# --- Real utterances


def test_the_published_utterance_vectors(tmp_path):
    if "REAL_DATA" not in os.environ:
        pytest.skip("REAL_DATA is unset: it names the folder that holds mosi_utt.npz, utterance features of CMU-MOSI")
    raw, out = Path(os.environ["REAL_DATA"]) / "mosi_utt.npz", tmp_path / "data"
    argv = ["--raw", str(raw), "--split", "split_bclstm", "--out", str(out)]
    assert status_of(partial(prepare_mosi.main, argv)) == 0
    splits = load(out)
    assert (len(splits.train), len(splits.test), splits.val) == (1447, 752, None)
    inputs, _, _ = splits.test[0]
    assert {name: x.shape for name, x in inputs.items()} == {"vision": (1, 100), "audio": (1, 73), "text": (1, 100)}
    text = torch.stack([splits.train[i][0]["text"] for i in range(50)])
    assert text.std() > 0.1
    folder = train(out, tmp_path, "--method", "joint", "--batch_size", "128", "--lr", "1e-3")
    (row,) = rows_of(folder)
    assert row["test"].keys() >= set(NAMES)
    assert row["test"]["majority"] == pytest.approx(436 / 752)
    assert row["train"]["text"] > 0.6  # these features have been trained with the training split's labels
    three = build(Namespace(**vars(parse(flags(out, tmp_path))) | {"labels": "three"}), NAMES)
    assert [three.test.targets.count(k) for k in range(3)] == [285, 31, 436]
