"""Any videos with sound: every container, the three layouts, faults, restart, disk, and training on the result."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple
from pathlib import Path

import cv2
import numpy as np
import prepare_videos
import pytest
import soundfile
from helpers import videos
from helpers.places import ROOT
from helpers.preparing import colours, manifest, rows, run, status_of, tree
from helpers.videos import BLUE, GREEN, RED, record, tone, touch

import main as program
from dataset import build
from dataset.prepare import media
from dataset.prepare.clips import Clip
from engine.parser import parse
from utils.errors import DataError


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One video in each container: blue, green from 0.8 s, red from 1.72 s; 1 kHz from 1 s to 2 s; 2.88 s long."""
    folder = tmp_path_factory.mktemp("clips")
    for suffix in videos.CODECS:
        record(folder / f"clip.{suffix}", videos.colours(), tone())
    return folder


@pytest.fixture(scope="module")
def prepared(clips, tmp_path_factory):
    """The containers as training clips of class `a, b`, and the mp4 four times over for the rest."""
    raw, out = (tmp_path_factory.mktemp("prepared") / name for name in ("raw", "out"))
    for place in ("train/a, b", "train/c", "test/a, b", "test/c"):
        (raw / place).mkdir(parents=True)
        shutil.copy(clips / "clip.mp4", raw / place / "x1.MP4")
    for suffix in videos.CODECS:
        shutil.copy(clips / f"clip.{suffix}", raw / "train" / "a, b" / f"in {suffix}.{suffix}")
    assert status_of(lambda: prepare_videos.main(f"--raw {raw} --out {out} --fps 2 --workers 1".split())) == 0
    return out


@pytest.mark.parametrize("suffix", videos.CODECS)
def test_pictures_and_sound_of_every_container_lie_where_they_were(prepared, suffix):
    name = f"train__a, b__in {suffix}"
    assert colours(prepared / "Image-02-FPS" / name) == list("BBGGRR")  # at 0, 0.5 ... 2.5 s
    picture = cv2.imread(str(prepared / "Image-02-FPS" / name / "00006.jpg"))
    assert picture.shape == (48, 64, 3) and np.abs(picture.mean(axis=(0, 1)) - RED).max() < 8
    sound, rate = soundfile.read(prepared / "AudioWAV" / f"{name}.wav", dtype="int16")
    assert (rate, sound.ndim, soundfile.info(prepared / "AudioWAV" / f"{name}.wav").subtype) == (16000, 1, "PCM_16")
    assert len(sound) / rate == pytest.approx(2.9, abs=0.05)
    loud = np.flatnonzero(np.abs(sound.astype(int)) > 3000) / rate
    assert loud[[0, -1]] == pytest.approx([1, 2], abs=0.03)  # mp3 and mp2 put a frame of silence first
    middle = sound[int(1.2 * rate) : int(1.8 * rate)].astype(float)
    assert np.abs(np.fft.rfft(middle)).argmax() * rate / len(middle) == pytest.approx(1000, abs=2)
    assert np.abs(middle).max() == pytest.approx(12000, rel=0.1)


def test_splits_classes_and_manifest_say_what_is_there(prepared):
    train, test = (dict(read_csv(prepared / f"{part}.csv")) for part in ("train", "test"))
    assert Counter(train.values()) == {"a, b": 6, "c": 1} and Counter(test.values()) == {"a, b": 1, "c": 1}
    assert test == {"test__a, b__x1": "a, b", "test__c__x1": "c"}
    assert (prepared / "classes.txt").read_text() == "a, b\nc\n"
    written = manifest(prepared)
    assert written["settings"] == {"dataset": "folder", "sample_rate": 16000, "size": 0, "min_frames": 3}
    assert written["splits"]["train.csv"]["classes"] == {"a, b": 6, "c": 1} and written["failed"] == {}
    assert written["clips"] == {"AudioWAV": 9, "Image-02-FPS": 9}
    assert sorted(path.name for path in prepared.iterdir() if path.is_file()) == [
        "Image-02-FPS.json", "classes.txt", "manifest.json", "sources.json", "test.csv", "train.csv",
    ]  # fmt: skip


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_rate_of_the_sound_and_size_of_the_pictures(clips, tmp_path):
    (tmp_path / "frames").mkdir()
    clip = Clip("x", "a", "", (clips / "clip.mp4",))
    media.prepare_clip(clip, tmp_path / "x.wav", tmp_path / "frames", fps=1, sample_rate=8000, size=24)
    assert soundfile.info(tmp_path / "x.wav").samplerate == 8000
    assert cv2.imread(str(tmp_path / "frames" / "00001.jpg")).shape == (24, 32, 3)
    image = np.zeros((48, 64, 3), np.uint8)
    assert media.shrink(image, 480) is image and media.shrink(image, 0) is image


# What files can be


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_variable_frame_rate_is_read_by_the_clock_not_by_counting(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    record(path, [BLUE, GREEN, RED, BLUE], tone(length=3), pts=[0, 400, 1300, 2600])
    with media.Media(path, 16000) as reader:
        shown = ["BGR"[int(image.mean(axis=(0, 1)).argmax())] for image in reader.shown(5)]
    assert reader.times == pytest.approx([0, 0.4, 1.3, 2.6], abs=2e-3)
    # At 0, 0.2 ...; the last frame stays for the mean distance, 0.87 s, so until 3.47 s.
    assert "".join(shown) == "BB" + "GGGGG" + "RRRRRR" + "BBBBB"


def test_a_film_that_a_telephone_turned_is_upright(tmp_path):
    path, picture = tmp_path / "clip.mp4", np.full((48, 64, 3), BLUE, np.uint8)
    picture[:24] = RED
    record(path, [picture] * 25, tone(length=1))
    videos.turn(path)
    with media.Media(path) as reader:
        image = next(reader.shown(1))
    # The matrix turns clockwise: what is stored at the top is seen on the right.
    assert image.shape == (64, 48, 3)
    assert np.abs(image[:, 28:].mean(axis=(0, 1)) - RED).max() < 12
    assert np.abs(image[:, :20].mean(axis=(0, 1)) - BLUE).max() < 12


def test_only_the_pictures_are_read_where_only_they_are_wanted(tmp_path):
    record(tmp_path / "silent.mp4", videos.colours())
    with media.Media(tmp_path / "silent.mp4") as reader:
        assert len(list(reader.shown(2))) == 6 and reader.end == pytest.approx(2.88)


@pytest.fixture
def faulty(clips, tmp_path):
    """{clip: what is said about it}, beside two sound ones, in train/a and test/b."""
    raw = tmp_path / "raw"
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (raw / place).mkdir(parents=True)
    for place in ("train/a", "train/b", "test/a"):
        shutil.copy(clips / "clip.mkv", raw / place / "good.mkv")
    record(raw / "test/b/fast.mp4", videos.colours(), tone(), movflags="faststart")
    for name in ("clip.mp4", "clip.flv", "clip.mkv", "clip.avi"):
        whole = (clips / name).read_bytes()
        (raw / "train/a" / name.replace("clip", f"cut_{name[-3:]}")).write_bytes(whole[: len(whole) // 2])
    whole = (raw / "test/b/fast.mp4").read_bytes()
    (raw / "train/a/cut_fast.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    (raw / "train/a/empty.mp4").write_bytes(b"")
    (raw / "train/a/renamed.mp4").write_text("this is no video\n" * 100)
    record(raw / "train/a/without_pictures.mkv", None, tone())
    record(raw / "train/a/without_frames.mp4", [], tone())
    record(raw / "train/a/without_sound.mp4", videos.colours())
    videos.record_cover(raw / "train/a/cover.mp4")
    record(raw / "train/a/short.mp4", [BLUE] * 30, tone(length=1.2))
    (raw / "train/a/renamed_too.avi").write_bytes((clips / "clip.mp4").read_bytes())  # is read by content: no fault
    reasons = {
        "cut_mp4": "does not decode",
        "cut_flv": "is truncated",
        "cut_mkv": "is truncated",
        "cut_avi": "is truncated",
        "cut_fast": "does not decode|is truncated",
        "empty": "is empty",
        "renamed": "does not decode",
        "without_pictures": "holds no pictures",
        "without_frames": "holds no pictures|holds no frames",
        "without_sound": "holds no sound",
        "cover": "holds no pictures",
        "short": "gives 2 frames at --fps 1 .*--min_frames 3",
    }
    return raw, {f"train__a__{name}": reason for name, reason in reasons.items()}


def test_faulty_files_are_named_and_left_out_only_on_demand(faulty, tmp_path, capfd):
    raw, reasons = faulty
    out = tmp_path / "out"
    status, _, error = run(prepare_videos.main, capfd, raw=raw, out=out)
    assert status == 2 and f"{len(reasons)} of {len(reasons) + 5} clips" in error and "Traceback" not in error
    said = dict(line.split(": ", 2)[1:] for line in error.splitlines() if line.startswith("failed: "))
    assert said.keys() == reasons.keys()
    assert [name for name, reason in reasons.items() if not re.search(reason, said[name])] == [], said
    assert manifest(out)["failed"] == said and not (out / "train.csv").exists()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    status, told, _ = run(prepare_videos.main, capfd, raw=raw, out=out, allow_missing=True)
    assert status == 0 and f"{len(reasons)} left out" in told
    assert stamps and all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    listed = {name for name, _ in rows(out / "train.csv") + rows(out / "test.csv")}
    assert listed == {f"{x}__good" for x in ("train__a", "train__b", "test__a")} | {
        "test__b__fast",
        "train__a__renamed_too",
    }


def test_a_report_of_thousands_prints_twenty(tmp_path, capfd):
    for number in range(30):
        folder = tmp_path / "raw" / ("train", "test")[number % 2] / "ab"[number // 2 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"x{number}.mp4").write_bytes(b"")
    status, _, error = run(prepare_videos.main, capfd, raw=tmp_path / "raw", out=tmp_path / "out")
    assert status == 2 and error.count("failed: ") == 20 and "and 10 more" in error
    assert len(manifest(tmp_path / "out")["failed"]) == 30


def test_a_run_that_prepared_nothing_binds_nothing(clips, tmp_path, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(4):
        folder = raw / ("train", "test")[number % 2] / "ab"[number // 2]
        folder.mkdir(parents=True)
        shutil.copy(clips / "clip.mp4", folder / f"{number}.mp4")
    for flags in ({}, {"allow_missing": True}):
        status, _, error = run(prepare_videos.main, capfd, raw=raw, out=out, min_frames=9, **flags)
        assert (
            status == 2
            and error.splitlines()[-1].startswith("error: none of the 4 clips")
            and len(manifest(out)["failed"]) == 4
        )
    assert run(prepare_videos.main, capfd, raw=raw, out=out, size=24)[0] == 0
    assert manifest(out)["settings"] == {"dataset": "folder", "sample_rate": 16000, "size": 24, "min_frames": 3}
    status, _, error = run(prepare_videos.main, capfd, raw=raw, out=out)
    assert status == 2 and "choose another --out" in error and manifest(out)["settings"]["size"] == 24


def test_other_suffixes_are_read_and_what_is_no_video_is_said(clips, tmp_path, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    touch(
        raw, "train/a/notes.txt", "train/a/more.TXT", "train/b/script.swf", "train/b/.hidden.xyz", "train/void/README"
    )
    touch(raw, "test/a/notes.txt")
    (raw / "test" / "c").mkdir()
    codecs = {
        "m4v": ("libx264", "aac"),
        "3gp": ("libx264", "aac"),
        "ts": ("libx264", "aac"),
        "m2ts": ("libx264", "aac"),
    }
    codecs |= {"vob": ("mpeg2video", "mp2"), "wmv": ("wmv2", "libmp3lame")}
    for suffix, pair in codecs.items():
        record(raw / "train" / "a" / f"{suffix}.{suffix}", videos.colours(), tone(), codecs=pair)
    shutil.copy(clips / "clip.mp4", raw / "train" / "b" / "x.mp4")
    shutil.copy(clips / "clip.mp4", raw / "test" / "a" / "x.mp4")
    shutil.copy(clips / "clip.mp4", raw / "test" / "c" / "x.mp4")
    status, told, error = run(prepare_videos.main, capfd, raw=raw, out=out, fps=2)
    assert status == 0, error
    assert "4 files of other types passed over: .swf 1, .txt 2, README 1" in told
    assert "1 files of other types passed over: .txt 1" in told and f"without a video in {raw / 'train'}" in told
    assert "no classes: void" in told
    assert "without a training clip, so that no method can find them: c" in told
    assert "without a test clip, so that no method can be measured on them: b" in told
    for suffix in codecs:
        assert colours(out / "Image-02-FPS" / f"train__a__{suffix}") == list("BBGGRR")
        sound, rate = soundfile.read(out / "AudioWAV" / f"train__a__{suffix}.wav", dtype="int16")
        loud = np.flatnonzero(np.abs(sound.astype(int)) > 3000) / rate
        assert loud[[0, -1]] == pytest.approx([1, 2], abs=0.03)


def test_classes_without_splits_get_a_seeded_one(clips, tmp_path, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for label in "ab":
        (raw / label).mkdir(parents=True)
        for number in range(4):
            shutil.copy(clips / "clip.mp4", raw / label / f"{number}.mp4")
    assert run(prepare_videos.main, capfd, raw=raw, out=out, test_fraction=0.25)[0] == 0
    parts = [Counter(label for _, label in rows(out / f"{part}.csv")) for part in ("train", "test")]
    assert parts == [{"a": 3, "b": 3}, {"a": 1, "b": 1}] and not (out / "train_by_group.csv").exists()


# Restart and disk


def test_a_killed_run_goes_on_and_gives_the_bytes_of_an_uninterrupted_one(clips, tmp_path):
    raw, out, whole = tmp_path / "raw", tmp_path / "killed", tmp_path / "whole"
    for number in range(24):
        folder = raw / ("train" if number % 4 else "test") / "ab"[number // 4 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        source = clips / f"clip.{list(videos.CODECS)[number % 5]}"
        shutil.copy(source, folder / f"{number:02d}{source.suffix}")
    command = [sys.executable, "data/prepare_videos.py", "--raw", str(raw), "--fps", "25", "--workers", "2", "--out"]
    with subprocess.Popen([*command, str(out)], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        while len(list((out / "Image-25-FPS").glob("[!.]*"))) < 7 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=300)  # the pipe closes when the last worker has left too
    assert process.returncode == -signal.SIGKILL and not (out / "train.csv").exists()
    finished = list((out / "Image-25-FPS").glob("[!.]*"))
    assert 7 <= len(finished) < 24  # five of them in the main process, the others by the workers
    stamps = {path: path.stat().st_mtime_ns for folder in finished for path in folder.iterdir()}
    for target in (out, whole):
        done = subprocess.run([*command, str(target)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "clip/s" in done.stderr or "s/clip" in done.stderr
    assert tree(out) == tree(whole) and (out / "classes.txt").read_text() == "a\nb\n"
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_second_preparation_of_the_same_folder_waits_for_the_living_first(clips, tmp_path, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    record(tmp_path / "long.mp4", [BLUE] * 600, tone(length=24))
    for number in range(4):
        folder = raw / ("train", "test")[number % 2] / "ab"[number // 2]
        folder.mkdir(parents=True)
        shutil.copy(tmp_path / "long.mp4", folder / f"{number}.mp4")
    command = [sys.executable, "data/prepare_videos.py", "--raw", str(raw), "--fps", "25", "--workers", "1", "--out"]
    with subprocess.Popen([*command, str(out)], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE) as first:
        while len(list(out.glob("Image-25-FPS/.*.part/*"))) < 50 and first.poll() is None:
            time.sleep(0.002)
        status, _, error = run(prepare_videos.main, capfd, raw=raw, out=out, fps=25)
        assert first.poll() is None, "the first has ended before the second came"
        assert status == 2 and f"another preparation (process {first.pid} on " in error and "wait for it" in error
        assert len(error.splitlines()) == 1
        first.communicate(timeout=300)
    assert first.returncode == 0
    assert [len(list(folder.iterdir())) for folder in sorted((out / "Image-25-FPS").iterdir())] == [600] * 4
    status, told, _ = run(prepare_videos.main, capfd, raw=raw, out=out, fps=25)
    assert status == 0 and "4 already there" in told and not list(out.glob(".*"))


def test_a_disk_that_is_too_small_is_refused_before_the_work(clips, tmp_path, capfd, monkeypatch):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(12):
        folder = raw / ("train", "test")[number % 2] / "ab"[number // 2 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips / "clip.mp4", folder / f"{number:02d}.mp4")
    disk = namedtuple("usage", "total used free")
    # A clip: the sound, 2.9 s of 16 kHz in 23 blocks of 4096 bytes, and three pictures in one block each.
    needed = 8 * (23 + 3) * 4096
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**9, 0, needed - 1))
    status, _, error = run(prepare_videos.main, capfd, raw=raw, out=out)
    figures = "8 more clips need about 852 kB (106 kB each, the mean of 4)"
    assert status == 2 and figures in error and "has 852 kB" in error and "--out" in error
    assert len(list((out / "Image-01-FPS").glob("[!.]*"))) == 4 and not (out / "train.csv").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**9, 0, needed))
    status, told, error = run(prepare_videos.main, capfd, raw=raw, out=out)
    assert status == 0 and "8 to do" in told and len(rows(out / "train.csv")) == 6


# Training


@pytest.mark.parametrize("method", ["joint", "inforeg"])
@pytest.mark.parametrize("audio", ["spectrogram", "fbank"])
def test_an_epoch_on_the_prepared_videos(prepared, tmp_path, method, audio):
    flags = f"--dataset folder --data_root {prepared} --out {tmp_path} --method {method} --audio {audio} --fps 2"
    flags += " --seconds 1.5 --encoder convnet --image_size 16 --batch_size 4 --epochs 1 --workers 0 --device cpu"
    result = program.main(flags.split())
    assert 0 <= result["last"]["accuracy"] <= 1 and {"audio", "visual"} <= result["last"].keys()


def test_one_modality_alone_and_the_shapes_of_both_recipes(prepared, tmp_path):
    flags = f"--dataset folder --data_root {prepared} --fps 2 --image_size 16 --seconds 2".split()
    for audio, shape in (("spectrogram", (1, 257, 1 + 44100 // 353)), ("fbank", (1, 200, 128))):
        splits = build(parse([*flags, "--audio", audio]), ("audio", "visual"))
        inputs, target, _ = splits.train[0]
        assert inputs["audio"].shape == shape and inputs["visual"].shape == (3, 3, 16, 16)
        assert splits.classes == ["a, b", "c"] and target == 0
    alone = [*flags, "--method", "unimodal", "--modality", "visual", "--encoder", "convnet", "--epochs", "1"]
    result = program.main([*alone, "--workers", "0", "--device", "cpu", "--out", str(tmp_path)])
    assert "visual" in result["last"]


def test_missing_or_doubled_class_names_stop_the_run(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / "data")
    args = parse(["--dataset", "folder", "--data_root", str(root), "--fps", "2"])
    for text, said in (("a, b\na, b\n", "each once"), ("", "two class names"), (None, "prepare_videos.py")):
        (root / "classes.txt").unlink(missing_ok=True)
        if text is not None:
            (root / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=said):
            build(args, ("audio", "visual"))


# Real videos


def test_real_videos_agree_with_another_decoder(tmp_path, capfd):
    if "REAL_DATA" not in os.environ:
        pytest.skip("REAL_DATA is not set: the folder that holds grid_raw_sample/ (16 GRID clips)")
    raw, out = Path(os.environ["REAL_DATA"]) / "grid_raw_sample", tmp_path / "out"
    names = sorted(path.stem for path in (raw / "s1").iterdir())
    listed = [f"s1/{name}.mpg,{name[0]},{'test' if i % 4 == 0 else 'train'}\n" for i, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("".join(listed))
    status, _, error = run(prepare_videos.main, capfd, raw=raw, out=out, list=tmp_path / "list.csv", fps=5, workers=2)
    assert status == 0 and "16 clips" not in error
    assert len(rows(out / "train.csv")) == 12 and len(rows(out / "test.csv")) == 4
    for name in names:
        files = sorted((out / "Image-05-FPS" / f"s1__{name}").iterdir())
        sound, rate = soundfile.read(out / "AudioWAV" / f"s1__{name}.wav")
        assert len(files) == 15 and rate == 16000 and len(sound) / rate == pytest.approx(3, abs=0.05)
        assert 0.005 < np.sqrt(np.mean(sound**2)) < 0.5
    video = cv2.VideoCapture(str(raw / "s1" / f"{names[0]}.mpg"))
    theirs = [image for there, image in (video.read() for _ in range(75)) if there]
    assert len(theirs) == 75
    for number, file in enumerate(sorted((out / "Image-05-FPS" / f"s1__{names[0]}").iterdir())):
        ours = cv2.imread(str(file)).astype(int)
        near = [np.abs(ours - image).mean() for image in theirs[max(0, 5 * number - 2) : 5 * number + 3]]
        # JPEG costs about 1 of 255; the file's first picture begins a little before or after its sound.
        assert min(near) < 2 and abs(int(np.argmin(near)) - min(2, 5 * number)) <= 1
