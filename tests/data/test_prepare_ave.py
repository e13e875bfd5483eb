"""The preparation of AVE: events cut out of real videos, each video in one list, and lists with a fault."""

import shutil

import prepare_ave
import pytest
import soundfile
from helpers.preparing import colours, manifest, rows, run, tree
from helpers.videos import colours as pictures
from helpers.videos import record, tone

RATE = 16000
LENGTH = 6.0  # s: blue, green from 2 s on, red from 4 s on; a tone from 2 s to 4 s
LISTS = {
    "train": ["Bark&both_test&good&0&6", "Male speech, man speaking&cut&good&1&5", "Bark&both_val&good&0&6",
              "Clock&cut&good&0&2", "Bark&-end&good&4&10", "Cat&late&good&7&9", "Cat&never&good&0&0"],
    "val": ["Bark&both_val&good&2&6", "Clock&tick&good&0&3"],
    "test": ["Clock&both_test&good&2&4"],
}  # fmt: skip
VIDEOS = ("both_test", "both_val", "cut", "-end", "late", "never", "tick", "unlisted")
FLAGS = dict(fps=2, size=32)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    record(path, pictures(LENGTH, (2.0, 4.0)), tone(begin=2.0, end=4.0, length=LENGTH))
    return path


@pytest.fixture
def raw(video, tmp_path):
    (tmp_path / "raw" / "AVE").mkdir(parents=True)
    for name in VIDEOS:
        shutil.copy(video, tmp_path / "raw" / "AVE" / f"{name}.mp4")
    for part, lines in LISTS.items():
        (tmp_path / "raw" / f"{part}Set.txt").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "raw"


def prepare(raw, out, capfd, **flags):
    return run(prepare_ave.main, capfd, raw=raw, out=out, **FLAGS | flags)


def test_every_video_is_in_one_split_and_what_is_left_out_is_told(raw, tmp_path, capfd):
    for name in ("tick", "unlisted"):
        (raw / "AVE" / f"{name}.mp4").rename(raw / "AVE" / f"{name}.MP4")
    status, said, faults = prepare(raw, tmp_path / "out", capfd)
    assert status == 2 and "--allow_missing" in faults
    assert "in train and in test and val, too, so kept out of train: 2: both_test, both_val" in said
    assert "named again in train, where the first row stands: 1: cut" in said
    assert "in no list, so not prepared: 1: unlisted.MP4" in said
    assert "failed: never: its event lasts from 0 to 0 s, which is no time" in faults
    assert "failed: late: its event begins at 7 s, after the end of the video" in faults
    assert prepare(raw, tmp_path / "out", capfd, allow_missing=True)[0] == 0
    found = {part: (tmp_path / "out" / f"{part}.csv").read_text() for part in LISTS}
    assert found == {
        "train": 'cut,"Male speech, man speaking"\n-end,Bark\n',
        "val": "both_val,Bark\ntick,Clock\n",
        "test": "both_test,Clock\n",
    }
    held = manifest(tmp_path / "out")
    assert held["failed"].keys() == {"never", "late"} and held["splits"]["val.csv"]["clips"] == 2
    before = tree(tmp_path / "out")
    assert prepare(raw, tmp_path / "out", capfd, allow_missing=True)[0] == 0 and tree(tmp_path / "out") == before


EVENTS = {
    "both_test": "GGGG",  # 2 to 4 s
    "cut": "BBGGGGRR",  # 1 to 5 s
    "-end": "RRRR",  # from 4 s to the end of the video, at 6 s
    "tick": "BBBBGG",  # 0 to 3 s
}


def test_an_event_is_what_is_seen_and_heard_between_its_seconds(raw, tmp_path, capfd):
    for segment in ("event", "clip"):
        assert prepare(raw, tmp_path / segment, capfd, segment=segment, allow_missing=True)[0] == 0
    for name, event in EVENTS.items():
        for segment, seen in (("event", event), ("clip", "BBBBGGGGRRRR")):
            assert "".join(colours(tmp_path / segment / "Image-02-FPS" / name)) == seen
            sound, rate = soundfile.read(tmp_path / segment / "AudioWAV" / f"{name}.wav")
            assert rate == RATE and len(sound) / RATE == pytest.approx(len(seen) / 2, abs=0.1)
            for number, colour in enumerate(seen):  # the tone is where green is
                part = sound[round((number + 0.1) * RATE / 2) : round((number + 0.9) * RATE / 2)]
                assert (abs(part).max() > 0.2) == (colour == "G"), (name, segment, number)
    # The whole video needs no event, so one that cannot be cut out is there.
    assert manifest(tmp_path / "clip")["failed"] == {}


def test_too_short_an_event_fails_and_one_folder_holds_one_segment(raw, tmp_path, capfd):
    assert prepare(raw, tmp_path / "out", capfd, allow_missing=True)[0] == 0
    _, _, faults = prepare(raw, tmp_path / "out", capfd, allow_missing=True, segment="clip")
    assert "choose another --out" in faults
    (raw / "valSet.txt").write_text("Bark&both_val&good&0&6\nClock&tick&good&1&3\n")
    _, _, faults = prepare(raw, tmp_path / "out", capfd, allow_missing=True)
    assert "choose another --out" in faults  # another event of the same video
    _, _, faults = prepare(raw, tmp_path / "slow", capfd, fps=1)
    assert "failed: both_test: gives 2 frames at --fps 1 and needs --min_frames 4" in faults


@pytest.mark.parametrize(
    "line", ["Bark&x&good&0", "Dog&x&good&0&1", "Bark&&good&0&1", "Bark&../x&good&0&1", "Bark&x&good&0&ten",
             "Bark&x&good&-1&2", "Bark&x&good&0&inf", "Bark&x&good&nan&2"]
)  # fmt: skip
def test_a_row_that_is_none_is_named(raw, tmp_path, capfd, line):
    with (raw / "trainSet.txt").open("a") as file:
        file.write(f"{line}\n")
    status, _, faults = prepare(raw, tmp_path / "out", capfd)
    assert status == 2 and "trainSet.txt, line 8: expected `class&video&quality&start&end`" in faults


def test_a_heading_is_passed_over_and_a_list_that_is_missing_is_named(raw, tmp_path, capfd):
    path = raw / "testSet.txt"
    path.write_text("Category&VideoID&Quality&StartTime&EndTime\n" + path.read_text())
    assert prepare(raw, tmp_path / "out", capfd, allow_missing=True)[0] == 0
    assert rows(tmp_path / "out" / "test.csv") == [("both_test", "Clock")]
    path.unlink()
    assert "testSet.txt is not there" in prepare(raw, tmp_path / "two", capfd)[2]
