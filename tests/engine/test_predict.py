"""Clips outside of any data set, by a checkpoint alone: what is predicted is what the run's evaluation predicted."""

import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import prepare_videos
import pytest
import torch
from helpers import videos
from helpers.places import ROOT
from helpers.runs import SMALL, make_demo, train
from helpers.three import Three
from helpers.videos import record, tone
from helpers.written import table_of

import main as program
from dataset import DATASETS
from dataset.demo import Demo
from dataset.folder import Folder
from engine.predict import load
from scripts import predict
from utils.errors import DataError, RunError
from utils.runs.predictions import read_predictions


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    return train(demo, tmp_path_factory.mktemp("results"), "--method", "joint", "--epochs", "2", "--lr", "0.1")


@pytest.fixture
def alone(run, tmp_path, monkeypatch):
    """The run's checkpoint elsewhere, as if its data set were no more."""
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    state = torch.load(run / "last.pt", weights_only=True)
    state["args"]["data_root"] = "/nowhere"
    torch.save(state, tmp_path / "alone.pt")
    return tmp_path / "alone.pt"


def agree(found, run, names=None):
    """Predicted clips, in the order of the test split or of `names` in it, beside the run's own predictions."""
    kept = read_predictions(run)
    at = [kept["names"].tolist().index(name) for name in names] if names else slice(None)
    assert list(found.probabilities) == kept["heads"].tolist()
    for k, shares in enumerate(found.probabilities.values()):
        np.testing.assert_allclose(shares, kept["last_probabilities"][at, k].astype(float), rtol=1e-3, atol=1e-6)
        assert shares.argmax(dim=1).tolist() == kept["last_by_head"][at, k].tolist()
        assert shares.sum(dim=1).tolist() == pytest.approx([1.0] * len(shares))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_clips_of_the_test_split_are_predicted_as_the_run_did(demo, run, alone, capsys, workers):
    names = read_predictions(run)["names"].tolist()
    clips = [str(demo / "AudioWAV" / f"{name}.wav") for name in names]
    found = predict.main([str(alone), *clips, "--format", "csv", "--workers", workers, "--device", "cpu"])
    assert found.clips == clips
    agree(found, run)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["clip"], row["by"]) for row in rows] == [(c, by) for c in clips for by in found.probabilities]
    for k, row in enumerate(rows):
        shares = found.probabilities[row["by"]][k // 3].tolist()
        assert [float(row[name]) for name in Demo.classes] == shares
        assert row["predicted"] == Demo.classes[int(np.argmax(shares))]


def test_a_folder_in_the_layout_of_a_data_set(demo, run, alone):
    found = load(alone).predict([demo])
    assert found.clips == sorted(path.stem for path in (demo / "AudioWAV").iterdir())
    names = read_predictions(run)["names"].tolist()
    at = [found.clips.index(name) for name in names]
    found.probabilities.update({head: shares[at] for head, shares in found.probabilities.items()})
    agree(found, run)


def test_sounds_beside_their_frames_and_the_table(demo, run, alone, tmp_path, capsys):
    clips, names = tmp_path / "clips", read_predictions(run)["names"].tolist()[:3]
    for name in names:
        shutil.copytree(demo / "Image-04-FPS" / name, clips / name)
        shutil.copy(demo / "AudioWAV" / f"{name}.wav", clips)
    for paths in ([clips], [clips / f"{name}.wav" for name in names], [clips / name for name in names]):
        agree(predict.main([str(alone), *map(str, paths), "--top", "2", "--workers", "0"]), run, names)
    capsys.readouterr()
    found = predict.main([str(alone), str(clips), "--top", "2", "--workers", "0"])
    rows = table_of(capsys.readouterr().out)
    assert [row["by"] for row in rows] == ["fused", "audio", "visual"] * 3 and list(rows[0]) == ["clip", "by", "1", "2"]
    first = found.probabilities["fused"][0]
    assert rows[0]["1"] == f"{Demo.classes[int(first.argmax())]} {float(first.max()):.1%}"


def test_a_model_of_one_modality_needs_that_one_alone(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    for name, clip in (("audio", "AudioWAV/clip00024.wav"), ("visual", "Image-04-FPS/clip00024")):
        argv = ["--method", "unimodal", "--modality", name, "--epochs", "1"]
        folder = train(demo, tmp_path, *argv, "--tag", name)
        (tmp_path / name).mkdir()
        path = Path(shutil.copytree(demo / clip, tmp_path / name / "x") if name == "visual" else
                    shutil.copy(demo / clip, tmp_path / name / "x.wav"))  # fmt: skip
        agree(load(folder / "last.pt").predict([path]), folder, ["clip00024"])


def test_taught_methods_predict_without_their_teachers(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    folder = train(demo, tmp_path, "--method", "g2d", "--epochs", "1")
    shutil.rmtree(tmp_path / "teachers")
    agree(load(folder / "last.pt").predict([demo / "AudioWAV" / "clip00024.wav"]), folder, ["clip00024"])


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Raw videos and the run of a `folder` set that was prepared of them, small and at a rate of its own."""
    place = tmp_path_factory.mktemp("filmed")
    for part, label, count in (("train", "low", 4), ("train", "high", 4), ("test", "low", 1), ("test", "high", 1)):
        (place / "raw" / part / label).mkdir(parents=True)
        for number in range(count):
            sound = tone(pitch=300 if label == "low" else 2000, begin=0.1 * number, end=2.5)
            record(place / "raw" / part / label / f"{number}.mp4", videos.colours(), sound)
    recipe = "--fps 2 --sample_rate 8000 --size 24 --workers 1".split()
    prepare_videos.main(["--raw", str(place / "raw"), "--out", str(place / "data"), *recipe])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "encoders", lambda args: SMALL)
        argv = f"--dataset folder --data_root {place / 'data'} --method joint --out {place} --tag t --fps 2 --frames 2"
        program.main([*argv.split(), *"--seconds 1 --image_size 32 --epochs 2 --workers 0 --device cpu".split()])
    (place / "data").rename(place / "moved")  # the data set is not needed
    return place


def test_raw_videos_are_predicted_as_the_prepared_clips_were(filmed, monkeypatch):
    monkeypatch.setattr(Folder, "encoders", lambda args: SMALL)
    folder = filmed / "folder" / "joint" / "t" / "seed0"
    names = ["test__high__0", "test__low__0"]
    paths = [filmed / "raw" / "test" / label / "0.mp4" for label in ("high", "low")]
    model = load(folder / "last.pt")
    assert model.classes == ("high", "low") and model.prepared["sample_rate"] == 8000 and model.prepared["size"] == 24
    agree(model.predict(paths), folder, names)
    agree(model.predict(paths[1:], workers=1), folder, names[1:])
    assert len(model.predict([filmed / "raw" / "train" / "low"]).clips) == 4


def test_a_video_that_does_not_decode_is_named_in_one_sentence(filmed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Folder, "encoders", lambda args: SMALL)
    broken, short = tmp_path / "broken.mp4", tmp_path / "short.mp4"
    broken.write_bytes((filmed / "raw" / "test" / "low" / "0.mp4").read_bytes()[:2000])
    record(short, videos.colours()[:10], tone(length=0.4))
    checkpoint = filmed / "folder" / "joint" / "t" / "seed0" / "last.pt"
    for path, said in ((broken, "broken.mp4"), (short, "1 frames at 2 a second")):
        for workers in ("0", "1"):
            with pytest.raises(SystemExit), predict.one_sentence():
                predict.main([str(checkpoint), str(path), "--workers", workers])
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("error: clip ") and said in line


@pytest.mark.parametrize(
    "name, said",
    [
        ("missing.mp4", "does not exist: name a video"),
        ("notes.txt", "is no clip: name a video"),
        ("empty", "holds no clip: name a video"),
        ("lonely.wav", "has 0 frames in .*lonely at 4 a second, and the model looks at 1"),
        ("silent", "its sound .*silent.wav is missing"),
        ("outer", "outer holds no clip itself, and its folders are not searched: name .*outer/inner, say$"),
        ("slow", "no frames at .*Image-04-FPS; .*slow has Image-02-FPS, and the model looks at 4 a second: prepare"),
    ],
)
def test_what_is_no_clip_is_refused(demo, alone, tmp_path, name, said):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    shutil.copy(demo / "AudioWAV" / "clip00024.wav", tmp_path / "lonely.wav")
    shutil.copytree(demo / "Image-04-FPS" / "clip00024", tmp_path / "silent")
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    shutil.copytree(demo / "Image-04-FPS" / "clip00024", tmp_path / "slow" / "Image-02-FPS" / "clip00024")
    (tmp_path / "slow" / "AudioWAV").mkdir()
    shutil.copy(demo / "AudioWAV" / "clip00024.wav", tmp_path / "slow" / "AudioWAV")
    with pytest.raises(DataError, match=said):
        load(alone).predict([tmp_path / name])


def test_data_sets_without_clips_are_refused(run, tmp_path):
    for dataset, said in (("MOSI", "no clips in files of their own; predictions.npz"), ("mine", "is not registered")):
        state = torch.load(run / "last.pt", weights_only=True)
        state["args"]["dataset"] = dataset
        torch.save(state, tmp_path / "last.pt")
        with pytest.raises(RunError, match=said):
            load(tmp_path / "last.pt")


class Filed(Three):
    """Three modalities whose samples are also files, one a sample."""

    reads_clips = True

    @classmethod
    def of_files(cls, args, paths, modalities, prepared):
        data = cls(args, range(len(paths)), modalities, train=False)
        held = [torch.load(path, weights_only=True) for path in paths]
        data.inputs = {name: torch.stack([inputs[name] for inputs in held]) for name in modalities}
        data.names = [Path(path).stem for path in paths]
        return data


def test_a_registered_data_set_of_three_modalities(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "three", Filed)
    program.main(f"--dataset three --method joint --out {tmp_path} --workers 0 --device cpu".split())
    folder = tmp_path / "three" / "joint" / "default" / "seed0"
    test = Filed(None, Filed.read_splits(None)[1], Three.modalities, train=False)
    for k, name in enumerate(test.names):
        torch.save(test[k][0], tmp_path / f"{name}.pt")
    paths = [str(tmp_path / f"{name}.pt") for name in test.names]
    found = predict.main([str(folder / "last.pt"), *paths, "--workers", "0", "--device", "cpu"])
    assert found.clips == test.names
    agree(found, folder)


def test_the_documents_say_how_python_does_it(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(
        r"```python\n(from engine\.predict .*?)```", (ROOT / "docs" / "RUNNING.md").read_text(), re.DOTALL
    )
    assert len(code.splitlines()) == 3
    make_demo(tmp_path / "data" / "demo")
    folder = train(tmp_path / "data" / "demo", tmp_path / "results", "--method", "inforeg", "--epochs", "1")
    folder.parent.rename(folder.parent.with_name("default"))
    monkeypatch.setattr(Demo, "encoders", lambda args: SMALL)
    monkeypatch.chdir(tmp_path)
    exec(code, names := {})
    found = names["found"]
    assert found.probabilities["fused"].shape == (len(found.clips), 8) and str(found.clips) in capsys.readouterr().out
