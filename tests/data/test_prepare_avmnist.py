"""The preparation of AV-MNIST: pairs of one digit, speakers apart, pictures degraded, faults of both downloads."""

import gzip
import struct
from functools import partial

import numpy as np
import prepare_avmnist
import pytest
import soundfile
from helpers.preparing import manifest, rows, status_of, tree
from sklearn.decomposition import PCA

SPEAKERS = ("ann", "bob", "cleo")
EACH = 3  # recordings of a digit by a speaker, and four times as many pictures
STEMS = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}


def write_idx(path, array):
    path.write_bytes(struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.tobytes())


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """MNIST of noise, whose first pixel is the digit and whose second one the part, and recordings of noise."""
    root, draws = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    (root / "mnist").mkdir()
    for number, (images, labels) in enumerate(STEMS.values()):
        digits = np.resize(np.arange(10, dtype=np.uint8), 120)
        pictures = draws.integers(0, 256, (120, 28, 28), np.uint8)
        pictures[:, 0, 0], pictures[:, 0, 1] = digits, number
        write_idx(root / "mnist" / f"{images}-idx3-ubyte", pictures)
        write_idx(root / "mnist" / f"{labels}-idx1-ubyte", digits)
    (root / "recordings").mkdir()
    for digit in range(10):
        for speaker in SPEAKERS:
            for number in range(EACH):
                wave = 0.1 * draws.standard_normal(draws.integers(2000, 9000))
                soundfile.write(root / "recordings" / f"{digit}_{speaker}_{number}.wav", wave, 8000)
    return root


def prepare(sources, out, *more, mnist=None):
    argv = ["--raw", str(sources), "--mnist", str(mnist or sources / "mnist"), "--out", str(out)]
    return status_of(partial(prepare_avmnist.main, [*argv, "--test_speakers", "cleo", *more]))


def arrays(out, part):
    with np.load(out / f"{part}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_pairs_are_of_one_digit_and_their_speakers_and_pictures_apart(sources, tmp_path):
    assert prepare(sources, tmp_path / "out", "--components", "0", "--pictures", "2") == 0
    for number, (part, each, speakers) in enumerate((("train", 2, {"ann", "bob"}), ("test", 1, {"cleo"}))):
        held = arrays(tmp_path / "out", part)
        count = 10 * EACH * len(speakers) * each
        assert held["image"].shape == (count, 28, 28) and held["audio"].shape == (count, 40, 51)
        recordings, pictures = zip(*(name.split("+") for name in held["ids"].tolist()), strict=True)
        assert {name.split("_")[1] for name in recordings} == speakers
        assert [int(name[0]) for name in recordings] == held["label"].tolist() == held["image"][:, 0, 0].tolist()
        assert (held["image"][:, 0, 1] == number).all()
        assert len(set(pictures)) == count and len(set(recordings)) * each == count
        _, source = STEMS[part], sources / "mnist" / f"{STEMS[part][0]}-idx3-ubyte"
        raw = np.frombuffer(source.read_bytes()[16:], np.uint8).reshape(-1, 28, 28)
        assert np.array_equal(held["image"], raw[[int(picture) for picture in pictures]])
        listed = [(name, str(digit)) for name, digit in zip(held["ids"], held["label"], strict=True)]
        assert rows(tmp_path / "out" / f"{part}.csv") == listed
        assert manifest(tmp_path / "out")["counts"][part] == {str(d): count // 10 for d in range(10)}


def test_the_sound_is_cut_and_padded_around_its_middle():
    whole = np.arange(1.0, 7001)
    assert np.array_equal(prepare_avmnist.centred(whole), whole[300:6700])
    short = prepare_avmnist.centred(whole[:101])
    assert len(short) == 6400 and np.array_equal(np.flatnonzero(short), 3149 + np.arange(101))


def test_how_loud_a_recording_is_does_not_matter():
    wave = np.zeros(6400, np.float32)
    wave[2000:4000] = 0.05 * np.random.default_rng(0).standard_normal(2000)
    found = prepare_avmnist.heard(wave)
    assert abs(found.mean()) < 1e-5 and found.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(prepare_avmnist.heard(4 * wave), found, atol=1e-3)
    with pytest.raises(ValueError, match="silent"):
        prepare_avmnist.heard(0 * wave)


def test_what_is_taken_off_the_pictures_are_principal_components_of_the_training_ones():
    draws = np.random.default_rng(0)
    mixed = draws.normal(size=(80, 9)) @ draws.normal(size=(9, 9)) * 15 + 128
    pictures = {"train": mixed[:60].reshape(-1, 3, 3), "test": mixed[60:].reshape(-1, 3, 3)}
    pictures = {part: np.rint(x.clip(0, 255)).astype(np.uint8) for part, x in pictures.items()}
    found, lost = prepare_avmnist.degrade(pictures, 2)
    pca = PCA(2).fit(pictures["train"].reshape(60, 9))
    assert lost == pytest.approx(pca.explained_variance_ratio_.sum())
    for part, x in pictures.items():
        flat = x.reshape(-1, 9).astype(float)
        wanted = flat - pca.transform(flat) @ pca.components_
        np.testing.assert_array_equal(found[part], np.rint(wanted.clip(0, 255)).reshape(x.shape))
    same, none = prepare_avmnist.degrade(pictures, 0)
    assert none == 0 and all(same[part] is pictures[part] for part in pictures)


def test_the_same_sources_give_the_same_bytes_and_another_seed_other_pairs(sources, tmp_path, capsys):
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in (sources / "mnist").iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert prepare(sources, tmp_path / "one") == prepare(sources, tmp_path / "two", mnist=packed) == 0
    assert prepare(sources, tmp_path / "other", "--seed", "1") == 0
    one, two, other = (arrays(tmp_path / name, "train") for name in ("one", "two", "other"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert set(one["ids"]) != set(other["ids"])
    before = tree(tmp_path / "one")
    assert prepare(sources, tmp_path / "one") == 0 and tree(tmp_path / "one") == before
    assert "already there" in capsys.readouterr().out
    assert prepare(sources, tmp_path / "one", "--seed", "1") == 2
    assert "choose another --out" in capsys.readouterr().err
    (tmp_path / "one" / "test.npz").write_bytes(before["test.npz"][:1000])  # as a killed run, or a bad disk, leaves it
    assert prepare(sources, tmp_path / "one") == 0 and tree(tmp_path / "one") == before


def test_recordings_that_cannot_be_used_are_named(sources, tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in (sources / "recordings").iterdir():
        (raw / path.name).hardlink_to(path)
    cut = (raw / "3_bob_0.wav").read_bytes()[:-1000]
    for name, content in (("7_ann_1", b"RIFF"), ("3_bob_0", cut), ("seven", b"")):
        (raw / f"{name}.wav").unlink(missing_ok=True)
        (raw / f"{name}.wav").write_bytes(content)
    assert prepare(raw, tmp_path / "out", mnist=sources / "mnist") == 2
    said = capsys.readouterr().err
    assert "failed: 3_bob_0: 3_bob_0.wav is truncated: " in said
    assert "failed: 7_ann_1: " in said and "failed: seven: its name is not" in said and "--allow_missing" in said
    assert not (tmp_path / "out" / "train.npz").exists()
    assert prepare(raw, tmp_path / "out", "--allow_missing", mnist=sources / "mnist") == 0
    assert set(manifest(tmp_path / "out")["failed"]) == {"3_bob_0", "7_ann_1", "seven"}
    assert len(arrays(tmp_path / "out", "train")["label"]) == 58


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


FAULTS = {
    "missing": (lambda mnist: (mnist / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels-idx1-ubyte.gz is missing"),
    "cut": (lambda mnist: cut(mnist / "train-images-idx3-ubyte"), "train-images-idx3-ubyte is damaged"),
    "other": (lambda mnist: write_idx(mnist / "train-images-idx3-ubyte", np.zeros(9, np.uint8)), "3 dimensions"),
    "shape": (
        lambda mnist: write_idx(mnist / "train-images-idx3-ubyte", np.zeros((120, 14, 56), np.uint8)),
        "of 14 x 56 pixels",
    ),
    "fewer": (lambda mnist: write_idx(mnist / "train-labels-idx1-ubyte", np.zeros(9, np.uint8)), "not of one download"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_of_mnist(sources, tmp_path, capsys, kind):
    change, said = FAULTS[kind]
    (tmp_path / "mnist").mkdir()
    for path in (sources / "mnist").iterdir():
        (tmp_path / "mnist" / path.name).write_bytes(path.read_bytes())
    change(tmp_path / "mnist")
    assert prepare(sources, tmp_path / "out", mnist=tmp_path / "mnist") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--pictures", "3"], "digit 0: 6 recordings with 3 pictures each, and 12 pictures"),
        (["--test_speakers", "dora"], "--test_speakers dora: not some of ann, bob, cleo"),
        (["--test_speakers", "ann,bob,cleo"], "not some of"), (["--components", "784"], "from 0 to 783"),
        (["--pictures", "0"], "--pictures 0: must be"), (["--mnist", "nowhere"], "--mnist nowhere is not a folder"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_followed(sources, tmp_path, capsys, words, said):
    assert prepare(sources, tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err
