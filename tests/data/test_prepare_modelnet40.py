"""The preparation of ModelNet40: views in order, incomplete objects named, splits by the folders."""

import cv2
import numpy as np
import prepare_modelnet40
import pytest
from helpers.preparing import manifest, rows, run, tree
from PIL import Image

OBJECTS = {"train": ("bed_0001", "bed_0002", "cup_0001"), "test": ("bed_0003", "cup_0002")}


@pytest.fixture
def raw(tmp_path):
    for part, names in OBJECTS.items():
        for name in names:
            folder = tmp_path / "raw" / name.split("_")[0] / part
            folder.mkdir(parents=True, exist_ok=True)
            for view in range(1, 13):
                picture = Image.fromarray(np.full((40, 40), 20 * view, np.uint8))
                number = view if name == "bed_0001" else f"{view:03d}"  # by the alphabet 10 comes before 2
                picture.save(folder / f"{name}.obj.shaded_v{number}.png")
    return tmp_path / "raw"


def prepare(raw, out, capfd, **flags):
    return run(prepare_modelnet40.main, capfd, raw=raw, out=out, **{"size": 32, "allow_missing": True} | flags)


def test_views_are_in_order_and_the_folders_are_the_splits(raw, tmp_path, capfd):
    out = tmp_path / "out"
    status, said, _ = prepare(raw, out, capfd)
    assert status == 0 and "no object in train of 38: airplane, bathtub, bench" in said
    for part, names in OBJECTS.items():
        assert rows(out / f"{part}.csv") == [(name, name.split("_")[0]) for name in names]
        for name in names:
            files = sorted((out / "Image-01-FPS" / name).iterdir())
            assert [file.name for file in files] == [f"{view:05d}.jpg" for view in range(1, 13)]
            for view, file in enumerate(files, 1):
                picture = cv2.imread(str(file))
                assert picture.shape == (32, 32, 3) and abs(picture.mean() - 20 * view) < 2
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"Image-01-FPS"}
    assert manifest(out)["splits"]["train.csv"]["classes"] == {"bed": 2, "cup": 1}
    before = tree(out)
    assert prepare(raw, out, capfd)[0] == 0 and tree(out) == before


def test_what_is_incomplete_is_named_and_left_out_where_that_is_allowed(raw, tmp_path, capfd):
    (raw / "bed" / "train" / "bed_0002.obj.shaded_v007.png").unlink()
    (raw / "cup" / "test" / "cup_0002.obj.shaded_v003.png").write_bytes(b"\x89PNG cut")
    status, _, faults = prepare(raw, tmp_path / "out", capfd)
    assert status == 0 and "failed: bed_0002: train/bed_0002.obj.shaded_v007.png is missing" in faults
    assert "failed: cup_0002: cup_0002.obj.shaded_v003.png does not decode" in faults
    assert manifest(tmp_path / "out")["failed"].keys() == {"bed_0002", "cup_0002"}
    assert [name for name, _ in rows(tmp_path / "out" / "test.csv")] == ["bed_0003"]
    # Mended, they are made, and no other: the rest is finished.
    for name in ("bed/train/bed_0002.obj.shaded_v007.png", "cup/test/cup_0002.obj.shaded_v003.png"):
        Image.fromarray(np.full((40, 40), 99, np.uint8)).save(raw / name)
    status, said, _ = prepare(raw, tmp_path / "out", capfd, resplit=True)
    assert status == 0 and "3 already there, 2 to do" in said and len(rows(tmp_path / "out" / "train.csv")) == 3


def test_a_download_that_is_not_whole_is_refused(raw, tmp_path, capfd):
    status, _, faults = run(prepare_modelnet40.main, capfd, raw=raw, out=tmp_path / "out", size=32)
    assert status == 2 and "no object in train of 38: airplane" in faults and "--allow_missing" in faults
    assert "leave --fps and --min_frames away" in prepare(raw, tmp_path / "out", capfd, fps=3)[2]
    (raw / "bed" / "train" / "bed_0009.png").write_bytes(b"x")
    assert "bed_0009.png is not named <object>.obj.shaded_v<number>.png" in prepare(raw, tmp_path / "out", capfd)[2]
    (raw / "bed" / "train" / "bed_0009.png").rename(raw / "bed" / "train" / "bed_0002.obj.shaded_v013.png")
    assert "bed_0002.obj.shaded_v013.png is not named" in prepare(raw, tmp_path / "out", capfd)[2]


def test_suffixes_in_capitals_are_read_and_folders_of_no_class_named(raw, tmp_path, capfd):
    for path in (raw / "cup" / "test").iterdir():
        path.rename(path.with_suffix(".PNG"))
    (raw / "Airplane" / "train").mkdir(parents=True)
    status, said, _ = prepare(raw, tmp_path / "out", capfd)
    assert status == 0 and rows(tmp_path / "out" / "test.csv") == [("bed_0003", "bed"), ("cup_0002", "cup")]
    assert "none of the 40 classes: 1: Airplane" in said


def test_two_pictures_of_one_view_are_refused(raw, tmp_path, capfd):
    folder = raw / "bed" / "train"
    (folder / "bed_0002.shaded_v003.png").write_bytes((folder / "bed_0001.obj.shaded_v3.png").read_bytes())
    status, _, faults = prepare(raw, tmp_path / "out", capfd)
    assert status == 2 and "bed_0002.obj.shaded_v003.png and bed_0002.shaded_v003.png are the same view" in faults


def test_an_object_in_both_splits_is_refused(raw, tmp_path, capfd):
    for view in range(1, 13):
        name = f"bed_0001.obj.shaded_v{view}.png"
        (raw / "bed" / "test" / name).write_bytes((raw / "bed" / "train" / name).read_bytes())
    assert "1 clips are in both splits, bed_0001" in prepare(raw, tmp_path / "out", capfd)[2]
