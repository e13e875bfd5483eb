"""Which clips are of which class and split: as the folders of the videos say, or a list."""

import shutil

import prepare_videos
import pytest
from helpers.preparing import run
from helpers.videos import touch

from utils.errors import DataError


def divided(raw, val=None):
    parts = prepare_videos.divide(prepare_videos.find_clips(raw), val)
    return parts and tuple([clip.name for clip in part] for part in parts)


def test_folders_name_the_split_and_the_class(tmp_path, capsys):
    raw = touch(tmp_path, "train/a/1.mp4", "train/b/2.avi", "val/a/3.mkv", "train/a/notes.txt", "train/a/.4.mp4")
    assert divided(raw) == (["train__a__1", "train__b__2"], ["val__a__3"])
    assert "val is the test" in capsys.readouterr().out
    touch(tmp_path, "test/b/5.flv", "extra/b/6.mpg")
    with pytest.raises(DataError, match="1 clips in val .*--val"):
        divided(raw)
    assert "extra" in capsys.readouterr().out
    assert divided(raw, "none") == (["train__a__1", "train__b__2"], ["test__b__5"])
    assert divided(raw, "train") == (["train__a__1", "train__b__2", "val__a__3"], ["test__b__5"])
    assert divided(raw, "test") == (["train__a__1", "train__b__2"], ["test__b__5", "val__a__3"])
    shutil.rmtree(raw / "train")
    with pytest.raises(DataError, match="no clips in train"):
        divided(raw, "test")


def test_a_list_names_paths_labels_and_splits(tmp_path):
    raw = touch(tmp_path / "raw", "x/1.mp4", "2.mp4", "3.mp4")
    text = 'path,label,split\nx/1.mp4,"dove, pigeon",train\n2.mp4,b,test\n'
    (tmp_path / "list.csv").write_text(text)
    found = prepare_videos.read_clips(tmp_path / "list.csv", raw)
    assert {split: [(clip.name, clip.label) for clip in part] for split, part in found.items()} == {
        "train": [("x__1", "dove, pigeon")],
        "test": [("2", "b")],
    }
    for heading in ("", "Path,Label\n", "video,class\n"):
        (tmp_path / "list.csv").write_text(f"{heading}x/1.mp4,a\n2.mp4,b\n")
        ((split, clips),) = prepare_videos.read_clips(tmp_path / "list.csv", raw).items()
        assert split == "" and [clip.label for clip in clips] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("path,label\n", "is empty"),
        ("a.mp4\n", "line 1"),
        ("a.mp4,x,train\nb.mp4,x\n", "line 2"),
        ("a.mp4,x,training\n", "'training' is none of train, val, test"),
        ("../a.mp4,x,train\n", "not a path below"),
        ("/etc/a.mp4,x,train\n", "not a path below"),
        ("a.mp4,,train\n", "line 1"),
        ("a\tb.mp4,x,train\n", "control character"),
        ("a.mp4,x,train\na.avi,x,test\n", "there twice"),
        ("a.mp4,x,train\n./a.mp4,x,test\n", "a.mp4 among them: remove a row"),
        ("a.mp4,x,train\nb.mp4,x,test\n", "one class"),
    ],
)
def test_a_faulty_list_is_refused_with_its_line(tmp_path, capfd, text, said):
    raw = touch(tmp_path / "raw", "a.mp4", "b.mp4", "a.avi")
    (tmp_path / "list.csv").write_text(text)
    status, _, error = run(prepare_videos.main, capfd, raw=raw, out=tmp_path / "out", list=tmp_path / "list.csv")
    assert status == 2 and said in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_files_out_of_place_and_bad_flags_are_refused(tmp_path, capfd):
    raw = touch(tmp_path / "raw", "train/a/1.mp4", "test/b/2.mp4", "train/a/deep/3.mp4")
    flags = dict(raw=raw, out=tmp_path / "out")
    status, _, error = run(prepare_videos.main, capfd, **flags)
    assert status == 2 and "deep/3.mp4" in error and "--list" in error
    for fault in ({"sample_rate": 0}, {"size": -1}, {"min_frames": 0}, {"list": tmp_path / "absent.csv"}):
        status, _, error = run(prepare_videos.main, capfd, **flags, **fault)
        assert status == 2 and error.startswith("error: ") and len(error.splitlines()) == 1, fault
