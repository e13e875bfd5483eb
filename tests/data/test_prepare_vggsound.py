"""VGGSound by its published list: which rows have a file, what they are called, and how many are missing."""

import shutil

import cv2
import prepare_vggsound
import pytest
import soundfile
from helpers.preparing import colours, manifest, rows, run, tree
from helpers.videos import BLUE, GREEN, record, tone

from dataset import build
from engine.parser import parse

ROWS = [
    ("-a_b_0000001", 30, "pigeon, dove cooing", "train"), ("yodelling_2", 1, "yodelling", "train"),
    ("c0123456789", 0, "singing", "test"), ("gone0000001", 7, "yodelling", "train"),
    ("gone0000002", 7, "abseiling", "test"), ("gone0000003", 11, "singing", "test"),
]  # fmt: skip
PLACES = ("00/-a_b_0000001_000030.mp4", "01/deep/yodelling_2_1.MP4", "c0123456789_000000.mp4")
PREPARED = ["-a_b_0000001_000030", "c0123456789_000000", "yodelling_2_000001"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "x.mp4"
    record(path, [BLUE] * 30 + [GREEN] * 20, tone(length=2.0))
    return path


@pytest.fixture
def raw(tmp_path, video):
    for place in PLACES:
        path = tmp_path / "raw" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path)
    return tmp_path / "raw"


def write(path, listed=ROWS):
    path.write_text("".join(f'{video},{start},"{label}",{part}\n' for video, start, label, part in listed))
    return path


@pytest.fixture
def listed(tmp_path):
    return write(tmp_path / "vggsound.csv")


def prepare(raw, listed, capfd, **flags):
    out = flags.pop("out", raw.parent / "out")
    return run(prepare_vggsound.main, capfd, raw=raw, out=out, list=listed, **{"fps": 2, "size": 24} | flags)


def test_rows_with_a_file_are_prepared_and_the_share_without_is_recorded(raw, listed, capfd):
    out = raw.parent / "out"
    status, said, _ = prepare(raw, listed, capfd, allow_missing=True)
    assert status == 0
    assert "train: 1 of 3 rows have no file (33.3%)" in said and "test: 2 of 3 rows have no file (66.7%)" in said
    assert sorted(path.name for path in (out / "Image-02-FPS").iterdir()) == PREPARED
    assert [name for name, *_ in rows(out / "train.csv")] == ["-a_b_0000001_000030", "yodelling_2_000001"]
    assert rows(out / "test.csv") == [("c0123456789_000000", "singing")]
    assert (out / "classes.txt").read_text().splitlines() == [
        "abseiling",
        "pigeon, dove cooing",
        "singing",
        "yodelling",
    ]
    found = manifest(out)
    assert found["list"]["train"] == {"rows": 3, "without_file": 1, "share": pytest.approx(1 / 3)}
    assert found["list"]["test"] == {"rows": 3, "without_file": 2, "share": pytest.approx(2 / 3)}
    assert set(found["failed"]) == {f"gone000000{n}_{start:06d}" for n, start in ((1, 7), (2, 7), (3, 11))}
    for name in PREPARED:
        assert colours(out / "Image-02-FPS" / name) == list("BBBG")
        assert cv2.imread(str(out / "Image-02-FPS" / name / "00001.jpg")).shape == (24, 32, 3)
        assert soundfile.info(out / "AudioWAV" / f"{name}.wav").samplerate == 16000
    before = tree(out)
    assert prepare(raw, listed, capfd, allow_missing=True)[0] == 0 and tree(out) == before


def test_what_is_prepared_is_trained_on_as_a_folder(raw, listed, capfd):
    prepare(raw, listed, capfd, allow_missing=True)
    argv = ["--dataset", "folder", "--data_root", str(raw.parent / "out"), "--fps", "2", "--image_size", "16"]
    data = build(parse(argv), ("visual",))
    assert (data.train.targets, data.test.targets) == ([1, 3], [2])
    assert data.train[0][0]["visual"].shape == (3, 3, 16, 16)


def test_missing_rows_have_to_be_allowed_and_the_rest_goes_on_when_they_come(raw, listed, capfd, video):
    status, _, faults = prepare(raw, listed, capfd)
    assert status == 2 and "3 of 6 clips could not be prepared" in faults and "--allow_missing" in faults
    assert "failed: gone0000002_000007: raw/gone0000002_000007.mp4 is missing" in faults
    assert manifest(raw.parent / "out")["list"]["test"]["without_file"] == 2
    for number, start in ((1, 7), (2, 7), (3, 11)):
        shutil.copy(video, raw / f"gone000000{number}_{start}.mp4")
    status, said, _ = prepare(raw, listed, capfd)
    assert status == 0 and "3 already there, 3 to do" in said
    assert manifest(raw.parent / "out")["list"]["test"] == {"rows": 3, "without_file": 0, "share": 0.0}


def test_files_that_are_no_rows_and_videos_of_both_splits_are_said(raw, tmp_path, capfd, video):
    for name in ("c0123456789_000099.mp4", "intro.mp4", "notes.txt"):
        shutil.copy(video, raw / name)
    listed = write(tmp_path / "list.csv", [*ROWS, ("c0123456789", 50, "singing", "train")])
    status, said, _ = prepare(raw, listed, capfd, allow_missing=True)
    assert status == 0 and "in no row, so not prepared: 1: c0123456789_000099.mp4" in said
    assert "not called <video>_<start>: 1: intro.mp4" in said and ".txt 1" in said
    assert "videos with clips in train and in test: 1: c0123456789" in said


def test_a_clip_that_does_not_decode_is_named(raw, listed, capfd):
    (raw / PLACES[0]).write_bytes(b"no video")
    status, said, faults = prepare(raw, listed, capfd, allow_missing=True)
    assert status == 0 and "failed: -a_b_0000001_000030: " in faults and "train: 1 of 3 rows" in said
    assert "no method can find them: abseiling, pigeon, dove cooing, singing" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,30,x\n", "line 1: expected `video,start,class,split`"),
        ("a,1,x,train\na,-1,x,train\n", "line 2: expected"),
        (f"a,{'1' * 5000},x,train\n", "line 1: expected"),
        ("a,1,x,val\n", "line 1: expected"),
        ("a,1,,train\n", "line 1: expected"),
        ("a,1,x,train\na,01,y,test\n", "line 2: a from 1 s on is there twice"),
        ("a,1,x,train\nb,1,x,test\n", "has no file <video>_<start>.mp4 of a row"),
    ],
)
def test_a_list_that_is_not_the_published_one_is_refused(raw, tmp_path, capfd, text, said):
    (tmp_path / "list.csv").write_text(text)
    status, _, faults = prepare(raw, tmp_path / "list.csv", capfd)
    assert status == 2 and said in faults and not (tmp_path / "out").exists()


def test_two_files_of_one_clip_are_refused(raw, listed, capfd):
    shutil.copy(raw / PLACES[2], raw / "c0123456789_0.mkv")
    status, _, faults = prepare(raw, listed, capfd)
    assert status == 2 and "1 clips are there twice" in faults and "c0123456789_0.mkv" in faults
