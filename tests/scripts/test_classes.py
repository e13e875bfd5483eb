"""A trained model on data whose classes have other numbers: labels are names, or the data are refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.runs import SMALL
from PIL import Image

import main as program
from dataset.folder import Folder
from engine.parser import parse
from scripts import ensemble, evaluate, gradients, linear_probe, robustness, tsne
from utils.errors import RunError
from utils.runs.setting import run_folder

CLASSES = ("bark", "meow", "moo")
COLOURS = {"bark": (230, 20, 20), "meow": (20, 20, 230), "moo": (20, 230, 20)}
MACHINE = ["--device", "cpu", "--workers", "0"]
SAMPLES = 12  # of each split


def prepare(root):
    """A folder data set: the picture tells the class, the sound nothing."""
    noise = np.random.default_rng(0)
    (root / "AudioWAV").mkdir(parents=True)
    for part in ("train", "test"):
        clips = [(f"{part}{i}", CLASSES[i % 3]) for i in range(SAMPLES)]
        (root / f"{part}.csv").write_text("".join(f"{clip},{label}\n" for clip, label in clips))
        for clip, label in clips:
            soundfile.write(root / "AudioWAV" / f"{clip}.wav", 0.1 * noise.standard_normal(8000), 16000)
            (root / "Image-01-FPS" / clip).mkdir(parents=True)
            Image.new("RGB", (40, 40), COLOURS[label]).save(root / "Image-01-FPS" / clip / "00001.jpg")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{what: last.pt} of an epoch of training on these data, which lie in `data` beside the results, and two others."""
    folder = tmp_path_factory.mktemp("classes")
    data = prepare(folder / "data")
    for name, classes in {"turned": ("moo", "bark", "meow"), "strange": ("bark", "meow", "zebra")}.items():
        shutil.copytree(data, folder / name)
        (folder / name / "classes.txt").write_text("\n".join(classes))
        for part in ("train.csv", "test.csv"):
            text = (data / part).read_text()
            (folder / name / part).write_text(text.replace("moo", "zebra") if name == "strange" else text)
    settings = {"joint": "--method joint", "audio": "--method unimodal --modality audio"}
    settings["visual"] = "--method unimodal --modality visual"
    found = {"folder": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "encoders", lambda args: SMALL)
        for name, flags in settings.items():
            argv = [*words(folder), *flags.split()]
            program.main(argv)
            found[name] = run_folder(parse(argv)) / "last.pt"
    return found


def words(folder, data="data"):
    small = "--frames 1 --image_size 32 --batch_size 4 --epochs 2 --lr 0.05 --lr_step 9".split()
    return ["--dataset", "folder", "--data_root", str(folder / data), "--out", str(folder / "out"), *small, *MACHINE]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(Folder, "encoders", lambda args: SMALL)


def shares(runs, place):
    clean = evaluate.main([str(runs["joint"]), *place])["clean"]
    assert clean["visual"] not in (0.0, 1 / 3)  # so that other numbers would show
    return clean


def averaged(runs, place):
    out = runs["folder"] / "averaged" / Path(place[1]).name
    return ensemble.main([str(runs["audio"]), str(runs["visual"]), "--out", str(out), *place])


def cosines(runs, place):
    return {name: matrix.tolist() for name, matrix in gradients.main([str(runs["joint"]), *place]).items()}


def separated(runs, place):
    silhouettes = tsne.main([str(runs["joint"]), *place])
    return silhouettes, (runs["joint"].parent / "figures" / "tsne_visual.csv").read_text()


def table(runs, place):
    for kept in (runs["folder"] / "out").rglob("robustness.json"):
        kept.unlink()
    return robustness.main([str(runs["folder"] / "out"), "--corruptions", "missing:visual:0.5", "conflict:1", *place])


PROGRAMS = {
    "evaluate": shares, "ensemble": averaged, "gradients": cosines, "tsne": separated, "robustness": table,
    "linear_probe": lambda runs, place: linear_probe.main([str(runs["joint"]), *place]),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_classes_in_another_order_give_the_same_and_others_are_named(runs, small, name):
    look, folder = PROGRAMS[name], runs["folder"]
    expected = look(runs, place(folder / "data"))
    assert look(runs, place(folder / "turned")) == expected
    with pytest.raises(RunError, match="on other classes than .*strange: it does not know 1: zebra .* not have 1: moo"):
        look(runs, place(folder / "strange"))


def place(data):
    return ["--data_root", str(data), *MACHINE]


def test_a_run_is_not_resumed_on_classes_in_another_order(runs, small, monkeypatch):
    argv = [*words(runs["folder"], "turned"), "--method", "joint", "--resume"]
    with pytest.raises(RunError, match="holds a run on other data: classes.txt of .*turned"):
        program.main(argv)
