"""The preparation of an .npz of utterance vectors, as one of series of one step."""

import pickle

import numpy as np
import pytest
from helpers.mosi import COUNTS, multibench, refusal, written


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
        ({"label": np.float64(1)}, {"split": "split_two"}, ["12 rows", "'label': 0"]),
        ({"split_two": np.full((12, 2), "train")}, {"split": "split_two"}, ["the shape (12, 2)"]),
        ({"text": np.array([{}] * 12)}, {"split": "split_two"}, ["not an .npz of plain arrays"]),
    ],
    ids=["none", "unknown", "no audio", "lengths", "no test", "dev", "scalar", "two", "objects"],
)
def test_faults_of_utterance_vectors(run, vectors, changes, flags, said):
    path, _ = vectors(**changes)
    message = refusal(run, path, **flags)
    assert all(words in message for words in said), message


def flipped(content):
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], flipped], ids=["cut", "flipped"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives_are_refused(run, vectors, damage, save):
    path, held = vectors()
    save(path, **held)
    path.write_bytes(damage(path.read_bytes()))
    assert "is not an .npz of plain arrays" in refusal(run, path, split="split_two")


def test_files_are_known_by_what_is_in_them(run, tmp_path, vectors):
    path, _ = vectors()
    assert run(path.rename(tmp_path / "vectors.pkl"), split="split_two", out=tmp_path / "one")[0] == 0
    (tmp_path / "series.npz").write_bytes(pickle.dumps(multibench(), 4))
    assert run(tmp_path / "series.npz", out=tmp_path / "two")[0] == 0
