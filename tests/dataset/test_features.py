"""features: arrays of any modalities as they come out of .npz files, standardised, encoded and trained on."""

import os
import re

import numpy as np
import pytest
import torch
from helpers.instances import FEATURES, make_features, save_features
from helpers.places import ROOT
from helpers.runs import folder_of, rows_of

import main as program
from dataset import build
from dataset.features import Features
from dataset.loader import make_loader
from engine.parser import parse
from models.encoders import MLP, Projection, Transformer
from utils.errors import DataError, RunError

NAMES = tuple(FEATURES)
WITH_VAL = (("train", 36), ("test", 12), ("val", 9))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return save_features(tmp_path_factory.mktemp("data") / "features", make_features())


def flags(root, out, *more):
    small = "--hidden 8 --batch_size 12 --epochs 1 --workers 0 --device cpu --tag test".split()
    return ["--dataset", "features", "--data_root", str(root), "--out", str(out), *small, *more]


def load(root, *more, modalities=NAMES, held_out=0.0):
    return build(parse(flags(root, "nowhere", *more)), modalities, held_out)


def train(root, out, *more):
    argv = flags(root, out, *more)
    program.main(argv)
    return folder_of(argv)


# --- What is read


def test_a_sample_is_its_rows_of_the_file(tmp_path):
    arrays = make_features(WITH_VAL)
    splits = load(save_features(tmp_path / "data", arrays), "--standardise", "none")
    assert splits.classes == ["cat", "dog", "été"]
    for split, data in (("train", splits.train), ("test", splits.test), ("val", splits.val)):
        assert data.names == arrays[split]["ids"].tolist() and len(data) == len(arrays[split]["label"])
        for i in range(len(data)):
            inputs, target, position = data[i]
            assert tuple(inputs) == NAMES and position == i and target == arrays[split]["label"][i]
            for name, x in inputs.items():
                assert x.dtype == torch.float32 and x.shape == FEATURES[name]
                assert np.array_equal(x.numpy(), arrays[split][name][i].astype(np.float32))


def test_values_are_standardised_by_those_of_the_training_split(tmp_path):
    arrays = make_features(WITH_VAL)
    for split in arrays.values():
        split["speech"] = split["speech"] * [1, 100, 0.01] + [5, 0, 10]
        split["image"][:, 2] = 7
    splits = load(save_features(tmp_path / "data", arrays))
    axes = {"image": 0, "speech": (0, 1), "text": 0}
    for split, data in (("train", splits.train), ("test", splits.test), ("val", splits.val)):
        for name, x in data.arrays.items():
            known, wanted = (arrays[s][name].astype(np.float64) for s in ("train", split))
            deviation = known.std(axis=axes[name])
            wanted = (wanted - known.mean(axis=axes[name])) / np.where(deviation > 1e-9, deviation, 1)
            # Of the seven digits of float32 the offset of the speech takes three.
            np.testing.assert_allclose(x.numpy(), wanted, rtol=0, atol=1e-3 if name == "speech" else 1e-5)
    assert (splits.test.arrays["image"][:, 2] == 0).all()


def test_a_share_withheld_is_of_the_same_values(root):
    splits = load(root, "--val_fraction", "0.25", held_out=0.25)
    assert (len(splits.train), len(splits.held_out), len(splits.val)) == (18, 9, 9)
    whole = load(root).train
    for part in (splits.train, splits.plain, splits.held_out, splits.val):
        for inputs, target, position in (part[i] for i in range(len(part))):
            assert target == whole.targets[position]
            assert all(torch.equal(x, whole.arrays[name][position]) for name, x in inputs.items())


def test_modalities_are_chosen_and_ordered_by_flag(root):
    for words, wanted in (([], NAMES), (["--modalities", "text,image"], ("text", "image"))):
        args = parse(flags(root, "nowhere", *words))
        assert tuple(Features.encoders(args)) == wanted
        assert tuple(build(args, wanted).train[0][0]) == wanted
    assert tuple(load(root, modalities=("text",)).train[0][0]) == ("text",)


def test_class_names_come_from_a_list_an_array_or_the_numbers(tmp_path):
    arrays = make_features()
    root = save_features(tmp_path / "data", arrays)
    assert load(root).classes == ["cat", "dog", "été"]
    (root / "classes.txt").write_text("a b\n\nc\nd\n")
    assert load(root).classes == ["a b", "c", "d"]
    (root / "classes.txt").unlink()
    del arrays["train"]["classes"]
    assert load(save_features(root, arrays)).classes == ["0", "1", "2"]


def test_batches_are_the_samples_whatever_reads_them(root):
    splits = load(root, held_out=0.25)
    for data in (splits.train, splits.test):  # a Subset and the data set itself
        samples = {position: (inputs, target) for inputs, target, position in (data[i] for i in range(len(data)))}
        for workers in (0, 1):
            batches = list(make_loader(data, 5, workers, shuffle=True))
            assert sorted(i for batch in batches for i in batch.index.tolist()) == sorted(samples)
            for batch in batches:
                for row, position in enumerate(batch.index.tolist()):
                    inputs, target = samples[position]
                    assert batch.target[row] == target
                    assert all(torch.equal(batch.inputs[name][row], x) for name, x in inputs.items())


def test_noise_is_in_units_of_the_deviation_and_goes_with_the_sample(root):
    clean, noisy = load(root), load(root, "--train_noise", "image:gaussian_feat:0.5")
    (batch,) = make_loader(noisy.train, 36, 0)
    noise = batch.inputs["image"] - clean.train.arrays["image"]
    assert noise.std().item() == pytest.approx(0.5, rel=0.15)
    assert torch.equal(batch.inputs["text"], clean.train.arrays["text"])
    assert torch.equal(noisy.train[3][0]["image"], batch.inputs["image"][3])
    every = load(root, "--train_noise", "any:gaussian_feat:0.5").train
    assert all(not torch.equal(every[3][0][name], clean.train[3][0][name]) for name in NAMES)
    with pytest.raises(
        DataError, match="--train_noise 'smell:gaussian_feat:1': the modalities are image, speech, text"
    ):
        load(root, "--train_noise", "smell:gaussian_feat:1")


# --- Encoders


def test_encoders_follow_from_the_arrays_and_the_flags(root):
    def made(*words):
        return [make() for make in Features.encoders(parse(flags(root, "nowhere", *words))).values()]

    assert [type(encoder) for encoder in made()] == [MLP] * 3
    assert [encoder.widths for encoder in made("--layers", "2")] == [(8, 8)] * 3
    assert [type(encoder) for encoder in made("--encoder", "linear")] == [Projection] * 3
    series = made("--encoder", "transformer", "--layers", "2")
    assert [type(encoder) for encoder in series] == [MLP, Transformer, MLP]
    assert len(series[1].transform.layers) == 2
    for encoder, shape in zip(made() + made("--encoder", "linear") + series, list(FEATURES.values()) * 3, strict=True):
        assert encoder.dim == 8 and encoder(torch.randn(4, *shape)).shape == (4, 8)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_mlp_against_its_formula(layers):
    torch.manual_seed(0)
    encoder, x = MLP(5, 3, layers), torch.randn(7, 4, 5)
    wanted = x.mean(dim=1)
    weights = [p for name, p in encoder.named_parameters() if p.ndim == 2]
    assert len(weights) == layers
    for weight in weights:
        wanted = wanted @ weight.T
        wanted = ((wanted - wanted.mean(0)) / (wanted.var(0, correction=0) + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(encoder(x), wanted)
    torch.testing.assert_close(encoder(x.mean(dim=1)), wanted)


@pytest.mark.parametrize(
    "words, said",
    [
        ("--encoder transformer --hidden 6", "4 heads"), ("--batch_size 1", "--encoder linear"),
        ("--modalities image", "two names or more"), ("--modalities image,image", "two names or more"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(root, capsys, words, said):
    with pytest.raises(SystemExit):
        parse(flags(root, "nowhere", *words.split()))
    assert said in capsys.readouterr().err
    parse(flags(root, "nowhere", "--batch_size", "1", "--encoder", "linear"))


# --- Training


def test_joint_training_learns_from_the_modality_that_tells(root, tmp_path):
    for encoder in ("mlp", "linear", "transformer"):
        argv = ["--method", "joint", "--encoder", encoder, "--epochs", "15", "--lr", "0.05"]
        last = rows_of(train(root, tmp_path / encoder, *argv))[-1]["test"]
        assert last["accuracy"] == last["text"] == 1.0
        assert max(last["image"], last["speech"]) < 0.9


def test_mmtm_units_need_layers_between_which_they_stand(root, tmp_path):
    with pytest.raises(RunError, match="equally many stages, two or more"):
        program.main(flags(root, tmp_path, "--method", "greedy"))
    with pytest.raises(RunError, match="that of image, speech, text has none"):
        program.main(flags(root, tmp_path, "--method", "greedy", "--encoder", "linear"))


# --- Faults


def without(split, *names):
    return lambda splits: [splits[split].pop(name) for name in names]


def changed(split, name, change):
    def apply(splits):
        splits[split][name] = change(splits[split][name])

    return apply


def put(split, name, value, *place):
    def change(splits):
        splits[split][name][place] = value

    return change


def renamed(word):
    return changed("train", "ids", lambda names: np.array([*names[:2], word, *names[3:]]))


def objects(array):
    return np.array(array.tolist(), dtype=object)


FAULTS = {
    "no label": (without("test", "label"), ["test.npz: no array label"]),
    "no modality": (without("test", "speech"), ["test.npz: no array speech, which train.npz has"]),
    "one modality": (without("train", "speech", "text"), ["train.npz: only image; two arrays"]),
    "lengths": (changed("train", "text", lambda x: x[:-1]), ["train.npz: text is (35, 5), not (36, 5)"]),
    "other D": (changed("test", "text", lambda x: x[:, :4]), ["test.npz: text is (12, 4), not (12, 5)"]),
    "other T": (changed("test", "speech", lambda x: x[:, 1:]), ["test.npz: speech is (12, 3, 3), not (12, 4, 3)"]),
    "flat": (changed("train", "image", lambda x: x[:, 0]), ["(N, D) or (N, T, D)", "1: image (36,)", "--modalities"]),
    "no values": (changed("train", "image", lambda x: x[:, :0]), ["none of it 0", "image (36, 0)"]),
    "no samples": (
        lambda s: s.update(test={k: v[:0] for k, v in s["test"].items()}),
        ["test.npz: label", "at least 1"],
    ),
    "NaN": (put("test", "image", np.nan, 3, 1), ["test.npz: image is not finite", "rows 1: 3"]),
    "infinite": (put("train", "text", np.inf, slice(2, 9)), ["train.npz: text", "rows 7: 2, 3, 4, 5, 6, ..."]),
    "beyond float32": (changed("train", "speech", lambda x: x * 1e300), ["train.npz: speech", "as float32"]),
    "complex": (changed("train", "image", lambda x: x + 1j), ["image holds complex", "not numbers"]),
    "texts": (changed("test", "image", lambda x: x.astype(str)), ["image holds <U", "not numbers"]),
    "fractional labels": (changed("train", "label", lambda x: x.astype(float)), ["float64", "label.astype(int)"]),
    "one-hot labels": (changed("train", "label", lambda x: np.eye(3, dtype=int)[x]), ["label must be (N,)"]),
    "negative label": (put("test", "label", -1, 0), ["test.npz: label", "from 0"]),
    "unknown label": (put("test", "label", 3, 0), ["test.npz: label has 1: 3; the classes are 0 to 2"]),
    "class absent": (lambda s: put("train", "label", 0, s["train"]["label"] == 1)(s), ["no sample of 1: dog"]),
    "class doubled": (put("train", "classes", "cat", 1), ["two class names or more, each once"]),
    "huge label": (lambda s: (s["train"].pop("classes"), put("train", "label", 10**12, 0)(s)), ["has 1000000000000"]),
    "named twice": (put("test", "ids", "test-2", 3), ["ids must name each of the 12 samples, and none twice"]),
    "empty id": (renamed(""), ["ids has texts that a list of one a line cannot hold, 1: [2] ''"]),
    "blank after an id": (renamed("c "), ["ids has", "[2] 'c '"]),
    "line feed in an id": (renamed("c\nd"), [r"[2] 'c\nd'", "line ends"]),
    "carriage return after an id": (renamed("c\r"), [r"[2] 'c\r'"]),
    "surrogate in an id": (renamed("c\ud800"), [r"[2] 'c\ud800'", "unpaired surrogates"]),
    "in both": (put("test", "ids", "train-7", 3), ["train.npz and test.npz have samples in common, 1: train-7"]),
    "metric's name": (lambda s: [x.update(loss=x["image"]) for x in s.values()], ["'loss' cannot be a modality's"]),
    "odd name": (lambda s: [x.update({"a.b": x["image"]}) for x in s.values()], ["'a.b' cannot be", "--modalities"]),
    "objects": (changed("train", "image", objects), ["image holds Python objects", "not read"]),
    "object labels": (changed("train", "label", objects), ["label holds Python objects"]),
    "object ids": (changed("test", "ids", objects), ["test.npz: ids holds Python objects", "np.array(list_of_str)"]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_file_with_a_fault_is_refused_in_one_sentence(tmp_path, kind):
    change, said = FAULTS[kind]
    splits = make_features()
    change(splits)
    root = save_features(tmp_path / "data", splits)
    with pytest.raises(DataError) as refused:
        program.main(flags(root, tmp_path, "--method", "joint"))
    message = str(refused.value)
    assert str(root) in message and all(words in message for words in said) and "\n" not in message, message
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04"], ids=["missing", "empty", "text", "cut"])
def test_a_file_that_is_missing_or_damaged(tmp_path, split, content):
    root = save_features(tmp_path / "data", make_features())
    (root / f"{split}.npz").unlink()
    if content is not None:
        (root / f"{split}.npz").write_bytes(content)
    with pytest.raises(DataError, match=rf"{split}\.npz (does not exist: prepare|is damaged .*: write it again)"):
        program.main(flags(root, tmp_path, "--method", "joint"))


def test_a_pickle_within_the_archive_is_not_executed(tmp_path):
    class Calls:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    splits = make_features()
    splits["train"]["image"] = np.array([[Calls()]] * 36)
    with pytest.raises(DataError, match="Python objects"):
        program.main(flags(save_features(tmp_path / "data", splits), tmp_path, "--method", "joint"))
    assert not (tmp_path / "marker").exists()


def test_what_is_asked_for_and_not_there(root, tmp_path):
    for words, said in (
        (["--modalities", "text,smell"], "no array smell, which --modalities names; there are image, speech, text"),
        (["--modalities", "text,image", "--encoder", "transformer"], "text, image are vectors: use --encoder mlp"),
    ):
        with pytest.raises(DataError, match=said):
            program.main(flags(root, tmp_path, "--method", "joint", *words))


# --- The example of data/README.md


def test_the_documented_program_writes_what_is_trained_on(tmp_path, monkeypatch):
    text = (ROOT / "data" / "README.md").read_text().split("## Precomputed features")[1].split("\n## ")[0]
    program_text = re.search(r"python - <<'END'\n(.*?)    END\n", text, re.S)[1]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line[4:] for line in program_text.splitlines()), {})
    command = re.search(r"python main\.py (.*)", text)[1].split("#")[0].split()
    result = program.main([*command, "--epochs", "1", "--device", "cpu"])
    assert result["last"].keys() >= {"image", "text"}
