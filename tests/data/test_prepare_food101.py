"""The preparation of Food-101: titles with commas and line breaks, pictures made smaller, rows without pictures."""

import numpy as np
import prepare_food101
import pytest
from helpers.preparing import manifest, rows, run, tree
from PIL import Image

TITLES = {
    "train": {
        "sushi_1": '"Sushi, rolls\nand more | ""Food"""', "sushi_2": "plain", "apple_pie_10": "Pie, not quoted",
        "apple_pie_3": '""',
    },
    "test": {"sushi_7": "été ©", "apple_pie_5": "x"},
}  # fmt: skip


@pytest.fixture
def raw(tmp_path):
    draws = np.random.default_rng(0)
    (tmp_path / "raw" / "texts").mkdir(parents=True)
    for part, titles in TITLES.items():
        lines = []
        for number, (name, title) in enumerate(titles.items()):
            label = name.rsplit("_", 1)[0]
            folder = tmp_path / "raw" / "images" / part / label
            folder.mkdir(parents=True, exist_ok=True)
            size = (40, 60, 3) if number else (20, 30, 3)
            Image.fromarray(draws.integers(0, 256, size, np.uint8)).save(folder / f"{name}.jpg")
            lines.append(f"{name}.jpg,{title},{label}\n")
        (tmp_path / "raw" / "texts" / f"{part}_titles.csv").write_text("".join(lines), newline="")
    return tmp_path / "raw"


def prepare(raw, out, capfd, **flags):
    return run(prepare_food101.main, capfd, raw=raw, out=out, size=32, **flags)


def test_titles_are_kept_as_they_are_and_pictures_made_smaller(raw, tmp_path, capfd):
    out = tmp_path / "out"
    assert prepare(raw, out, capfd)[0] == 0
    texts = {path.stem: path.read_bytes().decode() for path in (out / "Text").iterdir()}
    assert texts == {
        "sushi_1": 'Sushi, rolls\nand more | "Food"', "sushi_2": "plain", "apple_pie_10": "Pie,not quoted",
        "apple_pie_3": "", "sushi_7": "été ©", "apple_pie_5": "x",
    }  # fmt: skip
    assert (out / "classes.txt").read_text() == "apple_pie\nsushi\n"
    for part, titles in TITLES.items():
        assert rows(out / f"{part}.csv") == [(name, name.rsplit("_", 1)[0]) for name in titles]
    sizes = {name: Image.open(out / "Image-01-FPS" / name / "00001.jpg").size for name in texts}
    assert sizes["sushi_1"] == sizes["sushi_7"] == (30, 20) and sizes["sushi_2"] == (48, 32)
    assert manifest(out)["splits"]["train.csv"]["classes"] == {"apple_pie": 2, "sushi": 2}
    before = tree(out)
    assert prepare(raw, out, capfd)[0] == 0 and tree(out) == before


def test_rows_without_a_picture_and_pictures_without_a_row_are_named(raw, tmp_path, capfd):
    (raw / "images/train/sushi/sushi_2.jpg").unlink()
    (raw / "images/test/apple_pie/apple_pie_5.jpg").write_bytes(b"\xff\xd8 cut")
    for name in ("sushi_98.JPEG", "sushi_99.jpg"):
        Image.new("RGB", (9, 9)).save(raw / "images/train/sushi" / name)
    status, said, faults = prepare(raw, tmp_path / "out", capfd)
    assert status == 2 and "no title file has them: 2: sushi/sushi_98.JPEG, sushi/sushi_99.jpg" in said
    assert "failed: sushi_2: sushi/sushi_2.jpg is missing" in faults
    assert "failed: apple_pie_5: the picture does not decode" in faults and "--allow_missing" in faults
    assert prepare(raw, tmp_path / "out", capfd, allow_missing=True)[0] == 0
    assert set(manifest(tmp_path / "out")["failed"]) == {"sushi_2", "apple_pie_5"}
    assert [name for name, _ in rows(tmp_path / "out" / "test.csv")] == ["sushi_7"]


def changed(raw, part, old, new):
    path = raw / "texts" / f"{part}_titles.csv"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    "part, old, new, said",
    [
        ("train", "sushi_2.jpg,plain,sushi", "sushi_2.jpg,sushi", "train_titles.csv, line 3: expected"),
        ("train", "sushi_2.jpg,plain", "sushi_2,plain", "train_titles.csv, line 3: expected"),
        ("train", "plain,sushi", "plain,../sushi", "train_titles.csv, line 3: expected"),
        ("train", "sushi_1.jpg", "sushi_1.jpeg", "train_titles.csv, line 2: expected"),  # and not a heading
        (
            "train", "plain,sushi", '"plain,sushi',
            "the row of 'sushi_2.jpg', which ends in line 5, goes on over that of 'apple_pie_10.jpg'",
        ),
        ("test", "apple_pie_5", "sushi_7", "named more than once, 1: sushi_7"),
        ("test", "sushi_7", "sushi_1", "in both title files, 1: sushi_1"),
    ],
)  # fmt: skip
def test_title_files_with_a_fault(raw, tmp_path, capfd, part, old, new, said):
    changed(raw, part, old, new)
    status, _, faults = prepare(raw, tmp_path / "out", capfd)
    assert status == 2 and said in faults, faults


def test_a_heading_is_passed_over_and_said(raw, tmp_path, capfd):
    path = raw / "texts" / "test_titles.csv"
    path.write_text("image,title,class\n" + path.read_text())
    status, said, _ = prepare(raw, tmp_path / "out", capfd)
    assert status == 0 and "taken for a heading: image,title,class" in said


def test_other_settings_and_missing_title_files_are_refused(raw, tmp_path, capfd):
    assert prepare(raw, tmp_path / "out", capfd)[0] == 0
    changed(raw, "train", "plain", "other")
    status, _, faults = prepare(raw, tmp_path / "out", capfd)
    assert status == 2 and "choose another --out" in faults
    assert "leave the flag away" in prepare(raw, tmp_path / "two", capfd, fps=3)[2]
    (raw / "texts" / "test_titles.csv").unlink()
    assert "it is in the folder texts" in prepare(raw, tmp_path / "two", capfd)[2]
