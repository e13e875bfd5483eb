"""The preparation of MOSI and MOSEI: the published layouts, faults, restart."""

import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
from helpers.mosi import COUNTS, SCORES, manifest, mmsa, multibench, object_array, refusal, written

from dataset.prepare.space import in_units
from utils.lock import Lock

# --- Layouts


@pytest.mark.parametrize("labels", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("features", [(35, 74, 300), (20, 5, 300)], ids=["mosi_raw", "mosi_data"])
def test_the_layouts_of_multibench(run, tmp_path, features, labels):
    data = multibench(features, labels=labels)
    status, said, _ = run(data)
    assert status == 0 and "train: 8 utterances (3 negative, 1 zero, 4 positive)" in said
    found = written(tmp_path)
    assert found.keys() == {f"{p}_{n}" for p in COUNTS for n in ("vision", "audio", "text", "score", "id")}
    for part, count in COUNTS.items():
        for name in ("vision", "audio", "text"):
            array = found[f"{part}_{name}"]
            assert array.dtype == np.float32 and np.array_equal(array, data[part][name].astype(np.float32))
        assert found[f"{part}_score"].tolist() == np.float32(SCORES[:count]).tolist()
        assert found[f"{part}_id"].tolist() == [f"{part}video_{i}.5_{i}" for i in range(count)]
    assert manifest(tmp_path)["modalities"]["audio"] == {"steps": 6, "features": features[1]}
    assert manifest(tmp_path)["parts"]["train"]["scores"] == {"negative": 3, "zero": 1, "positive": 4}


@pytest.mark.parametrize("steps", [(7, 7, 7), (4, 9, 7)], ids=["aligned_50", "unaligned_50"])
def test_the_layouts_of_mmsa_with_their_padding_moved_to_the_front(run, tmp_path, steps):
    data = mmsa(steps)
    data["test"]["vision"][1] = 0  # nothing but padding: nowhere to move it
    status, said, _ = run(data)
    assert status == 0 and "train: padding moved: audio 8" in said
    unused = "annotations, audio_lengths, classification_labels, raw_text, text_bert, vision_lengths"
    assert f"not used: {unused}" in said and manifest(tmp_path)["unused"] == unused.split(", ")
    found = written(tmp_path)
    for part, fields in data.items():
        assert np.array_equal(found[f"{part}_text"], fields["text"])
        assert np.array_equal(found[f"{part}_vision"], fields["vision"])
        sound = found[f"{part}_audio"]
        assert np.array_equal(sound[:, -2:], fields["audio"][:, :2]) and not sound[:, :-2].any()
    assert found["test_id"].tolist() == [f"test$_${i}" for i in range(5)]
    assert manifest(tmp_path)["parts"]["test"]["moved"] == {"vision": 0, "audio": 5, "text": 0}


def test_utterances_without_text_are_left_out_as_multibench_does(run, tmp_path):
    data = multibench()
    data["train"]["text"][3] = 0
    assert run(data)[0] == 0
    kept = [0, 1, 2, 4, 5, 6, 7]
    found = written(tmp_path)
    assert np.array_equal(found["train_audio"], data["train"]["audio"][kept].astype(np.float32))
    assert found["train_score"].tolist() == np.float32(SCORES)[kept].tolist()
    assert found["train_id"].tolist() == [f"trainvideo_{i}.5_{i}" for i in kept]
    assert manifest(tmp_path)["parts"]["train"]["without_text"] == 1


def test_series_in_lists_and_parts_without_identifiers(run, tmp_path):
    data = multibench()
    for fields in data.values():
        fields["vision"] = list(fields["vision"])  # and an array of arrays
        fields["audio"] = object_array(fields["audio"])
        fields["labels"] = [np.float32(score) for score in fields["labels"].ravel()]
        del fields["id"]
    assert run(data)[0] == 0
    found = written(tmp_path)
    for name in ("vision", "audio"):
        assert np.array_equal(found[f"train_{name}"], np.stack(list(data["train"][name])).astype(np.float32))
    assert found["train_score"].tolist() == np.float32(SCORES).tolist()
    assert found["valid_id"].tolist() == ["valid00000", "valid00001", "valid00002"]


# --- Faults


def broken(part, name, change):
    def apply(data):
        data[part][name] = change(data[part][name])

    return apply


def put(value, *place):
    def change(array):
        array[place] = value
        return array

    return change


def holding_itself():
    held = []
    held.append(held)
    return held


FAULTS = {
    "no parts": (lambda data: data.pop("valid"), ["must hold train, valid, test", "it holds train, test"]),
    "no audio": (lambda data: data["test"].pop("audio"), ["test has no audio", "it has vision, text, labels, id"]),
    "no labels": (lambda data: data["valid"].pop("labels"), ["valid has no labels"]),
    "texts": (broken("train", "vision", lambda x: np.array(["a"] * 8)), ["train vision is not an array of numbers"]),
    "ragged": (broken("train", "audio", lambda x: [x[0], x[1][:3], *x[2:]]), ["train audio", "differ in length"]),
    "flat": (broken("test", "text", lambda x: x[:, 0]), ["test text must have the shape", "(5, 300)"]),
    "features": (broken("test", "audio", lambda x: x[:, :, :9]), ["audio has (steps, features) (6, 74)", "(6, 9)"]),
    "steps": (broken("test", "audio", lambda x: x[:, :2]), ["(6, 74) in train and (2, 74) in test"]),
    "fewer": (broken("test", "audio", lambda x: x[:4]), ["test has 5 utterances in vision", "'audio': 4"]),
    "fewer labels": (broken("test", "labels", lambda x: x[:4]), ["'score': 4"]),
    "emotions": (broken("train", "labels", lambda x: np.zeros((8, 7))), ["one score an utterance", "(8, 7)"]),
    "score": (broken("train", "labels", put(3.5, 4)), ["[-3, 3]", "1: trainvideo_4.5_4"]),
    "NaN score": (broken("train", "labels", put(np.nan, 4)), ["[-3, 3]", "1: trainvideo_4.5_4"]),
    "two parts": (
        broken("test", "id", put(["trainvideo", "7.5", 7], 2)),
        ["test has utterances of an earlier part, 1: trainvideo_7.5_7"],
    ),
    "one id": (
        broken("train", "id", lambda x: ["a", "b", *"aaaa", "c", "d"]),
        ["train has several utterances", "1: a"],
    ),
    "no ids": (broken("train", "id", lambda x: [None] * 8), ["train has several utterances of one id, 1: None"]),
    "a text for ids": (
        broken("test", "id", lambda x: "abcde"),
        ["identifiers of test cannot be read (str, not a list"],
    ),
    "endless ids": (broken("test", "id", lambda x: holding_itself()), ["identifiers of test cannot be read"]),
    "endless scores": (broken("test", "labels", lambda x: holding_itself()), ["test labels is not an array"]),
    "single score": (broken("test", "labels", lambda x: np.float64(1)), ["one score an utterance", "the shape ()"]),
    "-inf": (
        broken("test", "audio", put(-np.inf, slice(1, 3), 0, 7)),
        ["2 infinite in test audio, utterances 2: testvideo_1.5_1, testvideo_2.5_2", "--replace_inf 0"],
    ),
    "NaN": (broken("valid", "vision", put(np.nan, 1)), ["NaN in valid vision, utterances 1: validvideo_1.5_1"]),
    "too large": (broken("train", "text", put(1e300, 5, 5, 5)), ["1 infinite in train text"]),
    "no text": (broken("test", "text", np.zeros_like), ["no utterance of test has any text"]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_named_in_one_line_and_leaves_nothing(run, tmp_path, kind):
    change, said = FAULTS[kind]
    data = multibench()
    change(data)
    message = refusal(run, data)
    assert all(words in message for words in said), message
    assert not (tmp_path / "out").exists()


def test_all_values_that_are_not_finite_are_named_at_once(run):
    data = multibench()
    for part, name in (("train", "audio"), ("test", "vision")):
        data[part][name][0, 0, 0] = np.inf
    data["valid"]["text"][0, 0, 0] = np.nan
    message = refusal(run, data)
    assert all(words in message for words in ("1 infinite in train audio", "1 infinite in test vision", "1 NaN in"))


def test_infinite_values_are_replaced_when_asked_for_and_counted_and_nan_is_not(run, tmp_path):
    data = multibench()
    data["train"]["audio"][0, 0, :3] = -np.inf, np.inf, -np.inf
    status, said, _ = run(data, replace_inf=0)
    assert status == 0 and "train: infinite values replaced: audio 3" in said
    assert written(tmp_path)["train_audio"][0, 0, :3].tolist() == [0, 0, 0]
    parts = manifest(tmp_path)["parts"]
    assert parts["train"]["replaced"] == {"audio": 3} and parts["test"]["replaced"] == {}
    data["train"]["text"][0, 0, 0] = np.nan
    assert "1 NaN in train text" in refusal(run, data, replace_inf=0, out=tmp_path / "other")


@pytest.mark.parametrize(
    "flags, said",
    [
        ({"raw": "nowhere.pkl"}, "--raw nowhere.pkl is not a file"),
        ({"replace_inf": "nan"}, "--replace_inf nan"),
        ({"split": "split_bclstm"}, "--split is for an .npz"),
    ],
)
def test_wrong_flags(run, flags, said):
    assert said in refusal(run, multibench(), **flags)


# --- Restart


def test_a_finished_folder_is_kept_and_a_damaged_one_repaired(run, tmp_path):
    data = multibench()
    assert run(data)[0] == 0
    path = tmp_path / "out" / "series.npz"
    first, stamp = path.read_bytes(), path.stat().st_mtime_ns
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    status, said, _ = run(data)
    assert status == 0 and "already there" in said and path.stat().st_mtime_ns == stamp
    path.write_bytes(first[:-10])
    assert run(data)[0] == 0 and path.read_bytes() == first
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_a_run_that_is_interrupted_goes_on_to_the_same_bytes(run, tmp_path, monkeypatch):
    data = multibench()
    assert run(data, out=tmp_path / "whole")[0] == 0

    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        assert run(data)[0] == 130
    assert not (tmp_path / "out" / "series.npz").exists()
    assert run(data)[0] == 0
    for name in ("series.npz", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_second_preparation_leaves_the_folder_to_the_first(run, tmp_path):
    with Lock(tmp_path / "out", ".lock"):
        assert f"another preparation (process {os.getpid()} on " in refusal(run, multibench())
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert run(multibench())[0] == 0


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    assert run(multibench(), out=tmp_path / "whole")[0] == 0
    with np.load(tmp_path / "whole" / "series.npz") as file:
        size = sum(file[name].nbytes for name in file)
    disk = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**9, 0, size - 1))
    status, _, error = run(multibench())
    assert status == 2 and f"series.npz needs {in_units(size)}" in error and "--out" in error
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**9, 0, size))
    assert run(multibench())[0] == 0


def test_other_settings_and_other_peoples_folders_are_refused(run, tmp_path):
    assert run(multibench())[0] == 0
    before = (tmp_path / "out" / "series.npz").read_bytes()
    assert "choose another --out" in refusal(run, multibench(), replace_inf=0)
    assert "choose another --out" in refusal(run, mmsa())
    assert (tmp_path / "out" / "series.npz").read_bytes() == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    assert "made elsewhere" in refusal(run, multibench(), out=foreign)
    assert [path.name for path in foreign.iterdir()] == ["mine.txt"]
