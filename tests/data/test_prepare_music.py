"""MUSIC by its published lists: which videos there are, the lists of each stage, and the boxes at their frames."""

import json
import math
import shutil
from argparse import Namespace

import prepare_music
import pytest
import soundfile
from helpers.preparing import colours, manifest, rows, run, tree
from helpers.videos import BLUE, GREEN, RED, record, tone

from localisation.registry import LOCALISATION

SOLOS = {
    "violin": ["aaaaaaaaaa1", "ccccccccc_0", "gone_tester", "gone_violin"],
    "flute": ["aaaaaaaaaa2", "bbbbbbbbbb2"],
    "cello": ["bbbbbbbbbb1"],
}
DUETS = {"flute violin": ["dddddddddd1", "eeeeeeeeee1"]}
LISTS = {
    "solo_training_1.txt": ["aaaaaaaaaa1", "aaaaaaaaaa2", "gone_violin"],
    "solo_training_2.txt": ["bbbbbbbbbb1", "bbbbbbbbbb2"],
    "solo_testing.txt": ["ccccccccc_0", "gone_tester"],
    "duet_pairs_train.txt": ["dddddddddd1"],
    "duet_pairs_val.txt": ["eeeeeeeeee1"],
}
HAVE = [video for videos in (*SOLOS.values(), *DUETS.values()) for video in videos if "gone" not in video]


def entry(*boxes):
    return {"bbox": [{"box": [0] * 4, "normbox": box, "category_id": k} for k, box in boxes], "wdith": 64, "height": 48}


SOLO_BOXES = {
    "ccccccccc_0_0_1000/frame_000/00021.jpg": entry((11, [0.1, 0.2, 0.3, 0.4])),
    "ccccccccc_0_0_1000/frame_001/00030.jpg": entry(),
    "ccccccccc_0_0_1000/frame_001/00044.jpg": entry((11, [0.0, 0.0, 1.0, 1.0]), (11, [0.5, 0.5, 0.25, 0.25])),
    "ccccccccc_0_0_1000/frame_009/00270.jpg": entry((11, [0.1, 0.2, 0.3, 0.4])),
    "aaaaaaaaaa1_0_1000/frame_000/00000.jpg": entry((11, [0.1, 0.2, 0.3, 0.4])),  # of training
    "gone_tester_0_1000/frame_000/00000.jpg": entry((11, [0.1, 0.2, 0.3, 0.4])),
}
DUET_BOXES = {
    "eeeeeeeeee1_0_1000/frame_000/00000.jpg": entry((12, [0.1, 0.2, 0.3, 0.4]), (11, [0.5, 0.2, 0.3, 0.4])),
    "not_in_list_0_1000/frame_000/00000.jpg": entry((12, [0.1, 0.2, 0.3, 0.4])),
}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Blue for a second, then green, red from 2 s on; 1 kHz in the second second; 2.4 s long."""
    path = tmp_path_factory.mktemp("video") / "x.mp4"
    record(path, [BLUE] * 25 + [GREEN] * 25 + [RED] * 10, tone(length=2.4))
    return path


def write(folder):
    """The public lists and boxes below `folder`, as clones of the two repositories have them."""
    (folder / "names").mkdir(parents=True)
    (folder / "lists" / "deep").mkdir(parents=True)
    for kind, videos in (("solo", SOLOS), ("duet", DUETS)):
        (folder / "names" / f"MUSIC_{kind}_videos.json").write_text(json.dumps({"version": 1.0, "videos": videos}))
    for name, videos in LISTS.items():
        (folder / "lists" / "deep" / name).write_text("\n".join(f"{v}_0_1000.flac {v}_0_1000.mp4" for v in videos))
    for name, boxes in (("solotest.json", SOLO_BOXES), ("duettest.json", DUET_BOXES)):
        (folder / "lists" / name).write_text(json.dumps(boxes))


@pytest.fixture
def public(tmp_path):
    write(tmp_path)
    return tmp_path


def fill(folder, video):
    (folder / "raw" / "more").mkdir(parents=True)
    for number, name in enumerate(HAVE):
        place = f"{name}.mp4" if number % 2 else f"more/{name}_0_1000.MP4"
        shutil.copy(video, folder / "raw" / place)


def prepare(folder, capfd, **flags):
    places = {name: folder / name for name in ("raw", "names", "lists", "out")}
    return run(prepare_music.main, capfd, **places, size=24, **flags)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, video):
    folder = tmp_path_factory.mktemp("music")
    write(folder)
    fill(folder, video)
    argv = [word for name in ("raw", "names", "lists", "out") for word in (f"--{name}", str(folder / name))]
    prepare_music.main([*argv, "--size", "24", "--workers", "1", "--allow_missing"])
    return folder / "out"


def test_whole_videos_are_prepared_and_the_lists_of_each_stage_written(prepared):
    assert rows(prepared / "train_solo.csv") == [("aaaaaaaaaa1", "violin"), ("aaaaaaaaaa2", "flute")]
    assert rows(prepared / "train_synthetic.csv") == [("bbbbbbbbbb1", "cello"), ("bbbbbbbbbb2", "flute")]
    assert rows(prepared / "test_solo.csv") == rows(prepared / "test_synthetic.csv") == [("ccccccccc_0", "violin")]
    assert rows(prepared / "train_duet.csv") == [("dddddddddd1", "flute violin")]
    assert rows(prepared / "test_duet.csv") == [("eeeeeeeeee1", "flute violin")]
    for name in HAVE:
        assert colours(prepared / "Image-04-FPS" / name) == list("BBBBGGGGRR")
        assert soundfile.info(prepared / "AudioWAV" / f"{name}.wav").samplerate == 16000
    found = manifest(prepared)
    assert found["list"]["without_file"] == ["gone_tester", "gone_violin"] == sorted(found["failed"])
    assert found["list"]["videos"] == 9


def test_boxes_stand_at_the_frames_that_are_there(prepared):
    assert json.loads((prepared / "boxes.json").read_text()) == {
        "ccccccccc_0": {
            "4": [["violin", 0.1, 0.2, 0.3, 0.4]],
            "5": [],
            "7": [["violin", 0.0, 0.0, 1.0, 1.0], ["violin", 0.5, 0.5, 0.25, 0.25]],
        },
        "eeeeeeeeee1": {"1": [["flute", 0.1, 0.2, 0.3, 0.4], ["violin", 0.5, 0.2, 0.3, 0.4]]},
    }


def test_frames_are_those_of_a_quarter_of_a_second(tmp_path):
    numbers = [60, 67, 74, 81, 89, 90]
    keys = [f"ccccccccc_0_0_1000/frame_{number // 30:03d}/{number:05d}.jpg" for number in numbers]
    for key, place in zip(keys, [9, 10, 11, 12, 12, 13], strict=True):
        (tmp_path / "boxes.json").write_text(json.dumps({key: entry()}))
        assert prepare_music.read_boxes(tmp_path / "boxes.json") == {"ccccccccc_0": {place: []}}


def test_what_is_prepared_is_read(prepared):
    args = Namespace(data_root=str(prepared), image_size=16, mixed="duet")
    solo, duet = (getattr(LOCALISATION["MUSIC"], kind)(args, "test") for kind in ("solo", "mixed"))
    assert [item.frame for item in solo.items] == [4, 5, 7] and len(duet) == 1
    assert [item.category for item in duet.objects(0)] == [5, 9]
    train = LOCALISATION["MUSIC"].solo(args, "train")
    assert train.videos.tolist() == [0, 0, 1, 1] and train.labels.tolist() == [9, 9, 5, 5]
    loud = [float(train.sound(i).mean()) for i in (0, 1)]
    assert loud[1] > loud[0] + 5  # the tone is in the second second
    for position, channel in ((0, 2), (1, 1)):  # blue, then green
        assert train.frame(position).mean(dim=(1, 2)).argmax() == channel


def test_absent_videos_are_counted_and_have_to_be_allowed_for(public, capfd, video):
    fill(public, video)
    (public / "raw" / "intro.mp4").write_bytes(b"x")
    shutil.copy(video, public / "raw" / "unlisted001.mp4")
    status, said, faults = prepare(public, capfd)
    assert status == 2 and "2 of 9 clips could not be prepared" in faults and "--allow_missing" in faults
    assert "train_solo: 1 of 3 videos have no file (33.3%)" in said and "test_duet: 0 of 1" in said
    assert (
        "neither <id> nor <id>_0_1000: 1: intro.mp4" in said
        and "in no list, so not prepared: 1: unlisted001.mp4" in said
    )
    status, said, faults = prepare(public, capfd, allow_missing=True)
    assert status == 0 and "failed: gone_violin: raw/gone_violin.mp4 is missing" in faults
    assert "boxes.json: 4 frames of 2 videos; 1 frames lie after their video's end" in said
    assert "test videos without boxes" not in said
    before = tree(public / "out")
    assert prepare(public, capfd, allow_missing=True)[0] == 0 and tree(public / "out") == before


def test_a_damaged_video_costs_itself_alone(public, capfd, video):
    fill(public, video)
    next((public / "raw").rglob("ccccccccc_0*")).write_bytes(b"no video at all, but some bytes")
    status, _, faults = prepare(public, capfd, allow_missing=True)
    said = [line for line in faults.splitlines() if "ccccccccc_0" in line]
    assert len(said) == 1 and said[0].startswith("failed: ccccccccc_0: ") and "does not decode" in said[0]
    assert status == 2 and "no clip is left for test_solo.csv" in faults  # it was the only one


def test_solos_alone_need_no_duets(public, capfd, video):
    fill(public, video)
    for path in (*(public / "lists").rglob("duet*"), public / "names" / "MUSIC_duet_videos.json"):
        path.unlink()
    status, said, _ = prepare(public, capfd, allow_missing=True, no_duets=True)
    assert status == 0 and not list((public / "out").glob("*duet*")) and "3 frames of 1 videos" in said
    status, _, faults = prepare(public, capfd, allow_missing=True)
    assert status == 2 and "has no MUSIC_duet_videos.json below it" in faults


SOLO_KEY = "ccccccccc_0_0_1000/frame_000/00021.jpg"
FAULTS = {
    "a row": ("lists/deep/solo_testing.txt", "hello world\n", "line 1: expected `<id>_0_1000.flac"),
    "a list": ("lists/deep/solo_testing.txt", None, "has no solo_testing.txt below it"),
    "two lists": ("lists/solo_testing.txt", "aaaaaaaaaa1_0_1000.mp4\n", "differ: name with --lists"),
    "seen": ("lists/deep/solo_testing.txt", "aaaaaaaaaa1_0_1000.mp4\n", "1 clips are in both solo_training_1.txt"),
    "json": ("names/MUSIC_solo_videos.json", "[1", "is not the JSON object that is published"),
    "deep": ("names/MUSIC_solo_videos.json", "[" * 100_000, "is not the JSON object that is published"),
    "no names": ("names/MUSIC_solo_videos.json", '{"videos": {"violin": "abc"}}', "must hold {'videos'"),
    "instrument": ("names/MUSIC_solo_videos.json", '{"videos": {"kazoo": []}}', "kazoo is none of accordion, "),
    "a key": ("lists/solotest.json", '{"x/y.jpg": {"bbox": []}}', "'x/y.jpg' is not `<id>_0_1000/frame_"),
    "digits": ("lists/solotest.json", json.dumps({SOLO_KEY.replace("021", "1" * 5000): entry()}), "is not `<id>_0"),
    "a second": ("lists/solotest.json", json.dumps({SOLO_KEY.replace("021", "031"): entry()}), "frame 31 of "),
    "a number": ("lists/solotest.json", json.dumps({SOLO_KEY: entry((2, [0, 0, 1, 1]))}), "`category_id` of 1, 3, 8"),
    "a box": ("lists/solotest.json", json.dumps({SOLO_KEY: entry((1, [0.5, 0, 0.6, 1]))}), "in [0, 1]"),
    "no box": ("lists/solotest.json", json.dumps({SOLO_KEY: entry((1, [0.5, 0, 0.1]))}), "in [0, 1]"),
    "outside": ("lists/solotest.json", json.dumps({SOLO_KEY: entry((1, [-0.1, 0, 0.5, 1]))}), "in [0, 1]"),
    "not a number": ("lists/solotest.json", json.dumps({SOLO_KEY: entry((1, [0, 0, 0.1, math.nan]))}), "in [0, 1]"),
    "too large": ("lists/solotest.json", json.dumps({SOLO_KEY: entry((1, [10**400, 0, 0.1, 1]))}), "in [0, 1]"),
    "flat": ("lists/solotest.json", json.dumps({SOLO_KEY: entry((1, [0.5, 0, 0.1, 0]))}), "in [0, 1]"),
    "no list": ("lists/solotest.json", json.dumps({SOLO_KEY: {}}), "must have a `bbox`"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_not_as_published_is_refused_in_a_sentence(public, capfd, video, kind):
    fill(public, video)
    place, text, said = FAULTS[kind]
    (public / place).unlink() if text is None else (public / place).write_text(text)
    status, _, faults = prepare(public, capfd, allow_missing=True)
    assert status == 2 and said in faults and faults.count("error: ") == 1
    assert not (public / "out").exists()  # it is said before the work


def test_two_files_of_one_video_and_none_of_the_lists_are_refused(public, capfd, video):
    (public / "raw").mkdir()
    shutil.copy(video, public / "raw" / "unlisted001.mp4")
    assert "has no video <id>.mp4 of the lists" in prepare(public, capfd)[2]
    for name in ("aaaaaaaaaa1.mp4", "aaaaaaaaaa1_0_1000.mkv"):
        shutil.copy(video, public / "raw" / name)
    assert "are one video: remove one of them" in prepare(public, capfd)[2]
    for flag in ({"sample_rate": 8000}, {"fps": 2}):
        assert "of MUSIC 4 and 16000 are read" in prepare(public, capfd, **flag)[2]


def test_a_listed_video_of_no_instrument_is_left_out_and_said(public, capfd, video):
    fill(public, video)
    with (public / "lists" / "deep" / "solo_training_1.txt").open("a") as file:
        file.write("\nnobodyknows_0_1000.flac nobodyknows_0_1000.mp4\n")
        file.write("aaaaaaaaaa1_0_1000.flac aaaaaaaaaa1_0_1000.mp4\n")  # again
    status, said, _ = prepare(public, capfd, allow_missing=True)
    assert status == 0 and "left out: 1: nobodyknows" in said
    assert "nobodyknows" not in manifest(public / "out")["failed"]
    assert [name for name, _ in rows(public / "out" / "train_solo.csv")] == ["aaaaaaaaaa1", "aaaaaaaaaa2"]
