"""AV-MNIST in both layouts: prepared pairs, and the files that circulate, which are read with a warning."""

import numpy as np
import pytest
import torch
from helpers.instances import make_avmnist

from dataset import build
from engine.parser import parse
from utils.errors import DataError

NAMES = ("audio", "image")


def load(root, *more):
    return build(parse(["--dataset", "AVMNIST", "--data_root", str(root), *more]), NAMES)


def make_circulating(root, flat=True, counts=(("train", 30), ("test", 20))):
    draws = np.random.default_rng(0)
    for name in NAMES:
        (root / name).mkdir(parents=True)
    for split, count in counts:
        image = draws.integers(0, 256, (count, 28, 28), np.uint8)
        np.save(root / "image" / f"{split}_data.npy", image.reshape(count, 784) if flat else image)
        np.save(root / "audio" / f"{split}_data.npy", draws.integers(0, 256, (count, 14, 14), np.uint8))
        np.save(root / f"{split}_labels.npy", np.arange(count) % 10)
    return root


def test_a_sample_is_its_pair_standardised_by_the_training_split(tmp_path):
    root = make_avmnist(tmp_path / "data")
    splits = load(root)
    assert splits.classes == tuple("0123456789") and splits.val is None
    held = {part: np.load(root / f"{part}.npz") for part in ("train", "test")}
    for part, data in (("train", splits.train), ("test", splits.test)):
        assert data.names == held[part]["ids"].tolist() and data.targets == held[part]["label"].tolist()
        for name in NAMES:
            known = held["train"][name].astype(np.float64)
            wanted = (held[part][name] - known.mean()) / known.std()
            for i in (0, 7):
                x = data[i][0][name]
                assert x.shape == (1, *wanted.shape[1:])
                np.testing.assert_allclose(x[0].numpy(), wanted[i], atol=1e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_the_files_that_circulate_are_read_with_a_warning(tmp_path, capsys, flat):
    root = make_circulating(tmp_path / "data", flat)
    splits = load(root)
    assert "wrongly" in (said := capsys.readouterr().err) and "prepare_avmnist.py" in said and said.count("\n") == 1
    assert (len(splits.train), len(splits.test)) == (30, 20)
    image = np.load(root / "image" / "train_data.npy").reshape(30, 28, 28).astype(np.float64)
    inputs, target, _ = splits.train[13]
    assert target == 3 and inputs["audio"].shape == (1, 14, 14)
    np.testing.assert_allclose(inputs["image"][0].numpy(), (image[13] - image.mean()) / image.std(), atol=1e-5)


def resave(root, name, change):
    np.save(root / name, change(np.load(root / name)), allow_pickle=True)


def archive(path):
    with path.open("wb") as file:
        np.savez(file, np.zeros((30, 784)))


FAULTS = {
    "missing": (lambda root: (root / "test_labels.npy").unlink(), "test_labels.npy is missing"),
    "cut": (lambda root: (root / "audio/test_data.npy").write_bytes(b"\x93NUMPY"), "audio/test_data.npy is damaged"),
    "objects": (lambda root: resave(root, "train_labels.npy", lambda x: x.astype(object)), "train_labels.npy is dama"),
    "fewer": (lambda root: resave(root, "image/train_data.npy", lambda x: x[:-1]), "not 30 squares"),
    "no square": (lambda root: resave(root, "image/train_data.npy", lambda x: x[:, :-1]), "not 30 squares"),
    "tall": (lambda root: resave(root, "image/train_data.npy", lambda x: x.reshape(30, 56, 14)), "not 30 squares"),
    "scalar": (lambda root: resave(root, "image/train_data.npy", lambda x: x[0, 0]), "not 30 squares"),
    "sides": (lambda root: resave(root, "audio/test_data.npy", lambda x: x[:, 1:, 1:]), "of 14 in train, 13 in test"),
    "archive": (lambda root: archive(root / "image/train_data.npy"), "image/train_data.npy is damaged"),
    "cut archive": (
        lambda root: (root / "test_labels.npy").write_bytes(b"PK\x03\x04"),
        "test_labels.npy is damaged",
    ),
    "no digit": (lambda root: resave(root, "test_labels.npy", lambda x: x + 5), "must be .N,. digits"),
    "NaN": (lambda root: resave(root, "audio/test_data.npy", lambda x: x * np.float32("nan")), "not finite"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_of_the_files_that_circulate(tmp_path, kind):
    root = make_circulating(tmp_path / "data")
    change, said = FAULTS[kind]
    change(root)
    with pytest.raises(DataError, match=said):
        load(root)


def test_faults_of_prepared_pairs(tmp_path):
    with pytest.raises(DataError, match="train.npz does not exist: prepare"):
        load(tmp_path / "nowhere")
    root = make_avmnist(tmp_path / "data")
    arrays = dict(np.load(root / "test.npz"))
    np.savez(root / "test.npz", **arrays | {"ids": np.load(root / "train.npz")["ids"][:20]})
    with pytest.raises(DataError, match="in both train and test, 20: "):
        load(root)
    del arrays["audio"]
    np.savez(root / "train.npz", **arrays)
    with pytest.raises(DataError, match="no audio .N, height, width"):
        load(root)


def test_noise_is_on_the_standardised_values(tmp_path):
    root = make_avmnist(tmp_path / "data")
    clean, noisy = load(root).train, load(root, "--train_noise", "image:gaussian_feat:2").train
    noise = noisy[0][0]["image"] - clean[0][0]["image"]
    assert noise.std().item() == pytest.approx(2, rel=0.1)
    assert torch.equal(noisy[0][0]["audio"], clean[0][0]["audio"])
