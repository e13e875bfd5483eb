"""The preparation of MOSI and MOSEI: the published layouts, pickles that would run something, faults, restart."""

import json
import os
import pickle
import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import prepare_mosi
import pytest
from helpers.preparing import status_of

from dataset.prepare import pickles
from dataset.prepare.space import in_units
from utils.lock import Lock

COUNTS = {"train": 8, "valid": 3, "test": 5}
SCORES = [-3.0, 0.0, 1.2, -0.6, 3.0, 0.2, -1.0, 2.0]


def series(part, name, steps, features, dtype=np.float32):
    """Numbers that are never 0, other ones for each part and modality."""
    draws = np.random.default_rng([len(part), len(name), steps, features])
    return draws.uniform(0.5, 1.5, (COUNTS[part], steps, features)).astype(dtype)


def multibench(features=(35, 74, 300), steps=6, dtype=np.float64, labels=(1, 1)):
    """The layout of mosi_raw.pkl; with 20, 5, 300 features that of mosi_data.pkl."""
    data = {}
    for part, count in COUNTS.items():
        data[part] = {
            name: series(part, name, steps, d, dtype)
            for name, d in zip(("vision", "audio", "text"), features, strict=True)
        }
        for values in data[part].values():
            values[0, :2] = 0  # padding in front
        data[part]["labels"] = np.array(SCORES[:count], dtype).reshape(count, *labels)
        data[part]["id"] = np.array([[f"{part}video", f"{i}.5", i] for i in range(count)], object)
    return data


def mmsa(steps=(4, 9, 7)):
    """The layout of aligned_50.pkl (equal steps) and unaligned_50.pkl: text, audio, vision."""
    data = {}
    for part, count in COUNTS.items():
        fields = dict(zip(("text", "audio", "vision"), zip(steps, (768, 5, 20), strict=True), strict=True))
        data[part] = {name: series(part, name, *shape) for name, shape in fields.items()}
        data[part] |= {
            "raw_text": np.array(["what is said"] * count),
            "text_bert": np.ones((count, 3, steps[0])),
            "id": [f"{part}$_${i}" for i in range(count)],
            "annotations": ["Neutral"] * count,
            "classification_labels": np.zeros(count),
            "regression_labels": np.array(SCORES[:count], np.float32),
            "audio_lengths": [2] * count,
            "vision_lengths": [steps[2]] * count,
        }
        data[part]["audio"][:, 2:] = 0  # padding at the end
    return data


@pytest.fixture
def run(tmp_path, capfd):
    """run(data or path, **flags): exit status, stdout and stderr of the script; writes tmp_path/out."""

    def run(data, protocol=4, **flags):
        path = data
        if not isinstance(data, Path):
            path = tmp_path / "file.pkl"
            path.write_bytes(pickle.dumps(data, protocol))
        argv = ["--raw", str(path), "--out", str(tmp_path / "out")]
        argv += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        status = status_of(partial(prepare_mosi.main, argv))
        return status, *capfd.readouterr()

    return run


def written(folder):
    with np.load(folder / "out" / "series.npz", allow_pickle=False) as file:
        return dict(file)


def manifest(folder):
    return json.loads((folder / "out" / "manifest.json").read_text())


def refusal(run, *args, **flags):
    status, _, error = run(*args, **flags)
    message = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(message) == 1 and "Traceback" not in error, error
    return message[0]


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


def object_array(values):
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_arrays_of_every_protocol_and_numpy(tmp_path, protocol, module):
    held = {
        "c": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "texts": np.array(["a", "bé"]),
        "byte texts": np.array([b"a", b"bc"]),
        "objects": np.array([["a", 1], [b"c", None]], object),
        "half": np.float16([0.5]),
    }
    plain = {"scalar": np.float32(0.1), "list": [1, (2.5, "x"), None], "bytes": b"\xff\x00"}
    stored = pickle.dumps(held | plain | {"again": held["c"]}, protocol)
    if protocol < 4:  # names of a fixed length there would have to be counted anew
        stored = stored.replace(b"numpy._core", module)
    (tmp_path / "file.pkl").write_bytes(stored)
    found = pickles.load(tmp_path / "file.pkl")
    for name, array in held.items():
        read = found[name].read()
        assert read.dtype == array.dtype and read.shape == array.shape and np.array_equal(read, array), name
    assert found["again"] is found["c"]
    assert {name: found[name] for name in plain} == plain | {"scalar": float(np.float32(0.1))}


def test_what_python_2_has_written(tmp_path):
    # An array's bytes are a byte string there, which Python 3 would write as a call of _codecs.encode.
    array = np.array([1.5, -2.0, 1e-300])
    rebuild, args, (version, shape, dtype, fortran, raw) = array.__reduce__()
    placeholder = "x" * len(raw)
    stored = pickle.dumps(Calls(rebuild, *args, state=(version, shape, dtype, fortran, placeholder)), 2)
    length = len(raw).to_bytes(4, "little")
    old = stored.replace(b"X" + length + placeholder.encode(), b"T" + length + raw)
    assert old != stored
    (tmp_path / "file.pkl").write_bytes(old)
    assert np.array_equal(pickles.load(tmp_path / "file.pkl").read(), array)


# --- Pickles that would run something


class Calls:
    """Pickled as a call of `function` with `args`, and a `state` given to what it returns."""

    def __init__(self, function, *args, state=None):
        self.call = function, args, state

    def __reduce__(self):
        return self.call


HOSTILE = {
    "posix.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "builtins.eval": lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"),
    "builtins.getattr": lambda marker: Calls(getattr, "", "join"),
    "numpy.fromfile": lambda marker: Calls(np.fromfile, "/dev/null"),
    "numpy.load": lambda marker: Calls(np.load, "/dev/null"),
    "numpy.savetxt": lambda marker: Calls(np.savetxt, str(marker), [1]),
    "_codecs.decode": lambda marker: Calls(pickle.codecs.decode, b"00", "hex"),
    "collections.OrderedDict": lambda marker: Calls(__import__("collections").OrderedDict),
}


@pytest.mark.parametrize("nested", ["alone", "field", "array"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_would_call_anything_is_refused_by_name(run, tmp_path, name, nested):
    marker = tmp_path / "marker"
    hostile, data = HOSTILE[name](marker), multibench()
    if nested == "alone":
        data = hostile
    elif nested == "field":
        data["test"]["unused"] = [{"deep": (hostile,)}]
    else:
        data["valid"]["id"] = object_array(["a", hostile, "c"])
    message = refusal(run, data)
    asked = message.split("asks for ")[1].split(",")[0]
    assert asked.split(".")[0] in name.split(".")[0] or asked.startswith("numpy"), message
    assert asked.split(".")[-1] == name.split(".")[-1] and "refused" in message
    assert not marker.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("protocol", [0, 2])
def test_the_same_in_old_protocols(run, tmp_path, protocol):
    marker = tmp_path / "marker"
    assert "asks for" in refusal(run, {"train": Calls(os.system, f"touch {marker}")}, protocol=protocol)
    assert not marker.exists()


def program(*lines):
    """A pickle of protocol 0 to 4, opcode by opcode."""
    return b"\x80\x04" + b"".join(lines) + b"."


@pytest.mark.parametrize(
    "stored",
    [
        program(b"cnumpy\nndarray.tofile\n"),  # an attribute of what is allowed
        program(b"\x8c\x05numpy\x8c\x10ndarray.tostring\x93"),
        program(b"cnumpy.core.multiarray\nfromstring\n"),
        program(b"(S'true'\nios\nsystem\n"),  # INST
        program(b"(cposix\nsystem\nS'true'\no"),  # OBJ
        program(b"cevilnumpy._core.multiarray\n_reconstruct\n"),
    ],
    ids=["dotted", "stack", "numpy", "inst", "obj", "prefix"],
)
def test_every_way_to_name_a_function_is_watched(run, tmp_path, stored):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(stored)
    assert "asks for" in refusal(run, path)


@pytest.mark.parametrize(
    "stored",
    [
        program(b"cnumpy\nndarray\n(K\x02tR"),  # calls the class itself
        program(b"cnumpy\nndarray\n)\x81"),  # makes an object of it
        program(b"c_codecs\nencode\n(S'ab'\nS'hex'\ntR"),  # another codec
        program(b"Pnumber\n"),  # a persistent identifier
        program(b"\x82\x07"),  # an extension's number
        b"",
        b"no pickle",
        pickle.dumps(multibench())[:-40],
    ],
    ids=["call", "new", "codec", "persistent", "extension", "empty", "text", "cut"],
)
def test_what_is_no_whole_pickle_of_arrays_is_refused_in_one_line(run, tmp_path, stored):
    path = tmp_path / "odd.pkl"
    path.write_bytes(stored)
    assert "is not a whole pickle of arrays" in refusal(run, path) or "must hold" in refusal(run, path)
    assert not (tmp_path / "out").exists()


def test_bytes_cannot_pass_for_objects_nor_a_shape_for_more_than_there_is():
    kind = pickles.Kind("O8")
    with pytest.raises((TypeError, ValueError)):
        pickles.Array((2,), kind, False, None).read()
    read = pickles.Array((2,), kind, False, b"\x01\x02").read()
    assert read.tolist() == [1, 2]  # numbers, not addresses
    with pytest.raises(ValueError):
        pickles.Array((10**9,), pickles.Kind("f8"), False, b"\x00" * 16).read()
    for code in ("V8", "M8[ns]", "c16", "f16", "i3", 4):
        with pytest.raises(ValueError, match="type"):
            pickles.Array((1,), pickles.Kind(code), False, b"\x00" * 16).read()


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


# --- Utterance vectors


@pytest.fixture
def vectors(tmp_path):
    """save(**changes): an .npz of twelve utterances in one vector each."""

    def save(**changes):
        draws = np.random.default_rng(0)
        held = {name: draws.normal(size=(12, d)) for name, d in (("audio", 3), ("text", 4), ("video", 5))}
        held |= {"label": np.linspace(-3, 3, 12), "ids": np.array([f"u{i}" for i in range(12)])}
        held["split_two"] = np.array(["train", "train", "test"] * 4)
        held["split_three"] = np.array(["train", "valid", "test"] * 4)
        held = {name: value for name, value in (held | changes).items() if value is not None}
        np.savez(tmp_path / "vectors.npz", **held)
        return tmp_path / "vectors.npz", held

    return save


@pytest.mark.parametrize("split, parts", [("split_two", {"train", "test"}), ("split_three", set(COUNTS))])
def test_utterance_vectors_become_series_of_one_step(run, tmp_path, vectors, split, parts):
    path, held = vectors()
    assert run(path, split=split)[0] == 0
    found = written(tmp_path)
    assert {name.split("_")[0] for name in found} == parts
    for part in parts:
        chosen = held[split] == part
        for name, source in (("vision", "video"), ("audio", "audio"), ("text", "text")):
            assert np.array_equal(found[f"{part}_{name}"], held[source][chosen][:, None].astype(np.float32))
        assert found[f"{part}_id"].tolist() == held["ids"][chosen].tolist()
        assert np.array_equal(found[f"{part}_score"], held["label"][chosen].astype(np.float32))


@pytest.mark.parametrize(
    "changes, flags, said",
    [
        ({}, {}, ["--split must name", "split_two, split_three"]),
        ({}, {"split": "label2"}, ["split_two, split_three", "label2"]),
        ({"audio": None}, {"split": "split_two"}, ["has no audio"]),
        ({"label": np.zeros(11)}, {"split": "split_two"}, ["12 rows", "'label': 11"]),
        ({"split_two": np.array(["train"] * 12)}, {"split": "split_two"}, ["no utterance is in test"]),
        ({"split_two": np.array(["train", "dev"] * 6)}, {"split": "split_two"}, ["it says dev"]),
        ({"text": np.array([{}] * 12)}, {"split": "split_two"}, ["not an .npz of plain arrays"]),
    ],
    ids=["none", "unknown", "no audio", "lengths", "no test", "dev", "objects"],
)
def test_faults_of_utterance_vectors(run, vectors, changes, flags, said):
    path, _ = vectors(**changes)
    message = refusal(run, path, **flags)
    assert all(words in message for words in said), message


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
