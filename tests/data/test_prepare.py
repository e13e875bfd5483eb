"""The preparation of CREMA-D, and what all scripts share, on real codecs: timing, content, restart, faults, splits."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import prepare_cremad
import pytest
import soundfile
from helpers.places import ROOT
from helpers.preparing import BLUE, GREEN, RED, colours, manifest, rows, run, tree, write_video
from sklearn.model_selection import StratifiedShuffleSplit

from dataset.classes import EMOTIONS
from dataset.prepare.clips import Clip
from dataset.prepare.media import Media
from dataset.prepare.splits import check_split, split
from utils.errors import DataError


@pytest.fixture(scope="session")
def flv(tmp_path_factory):
    """2 s at 30 frames/s: blue, from frame 20 (2/3 s, which FLV stamps 0.667 s) green, from 1.5 s red."""
    path = tmp_path_factory.mktemp("flv") / "clip.flv"
    write_video(path, "flv", 30, [BLUE] * 20 + [GREEN] * 25 + [RED] * 15)
    return path


def make_cremad(raw, flv, actors=2, sentences=("DFA",), labels=EMOTIONS):
    names = [f"{1001 + a}_{s}_{label}_XX" for a in range(actors) for s in sentences for label in labels]
    for folder in ("AudioWAV", "VideoFlash"):
        (raw / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        sound = np.sin(np.arange(8000) * 0.01 * (number + 1)).astype(np.float32) / 2
        soundfile.write(raw / "AudioWAV" / f"{name}.wav", sound, 16000)
        shutil.copy(flv, raw / "VideoFlash" / f"{name}.flv")
    return sorted(names)


@pytest.fixture
def cremad(tmp_path, flv):
    return tmp_path / "raw", tmp_path / "out", make_cremad(tmp_path / "raw", flv)


# --- CREMA-D


def test_cremad_frames_are_those_on_the_screen_and_the_sound_is_the_raw_one(cremad, capfd):
    raw, out, names = cremad
    assert run(prepare_cremad.main, capfd, raw=raw, out=out, fps=3, test_fraction=0.5)[0] == 0
    for name in names:
        assert [p.name for p in sorted((out / "Image-03-FPS" / name).iterdir())] == [
            f"{i:05d}.jpg" for i in range(1, 7)
        ]
        assert colours(out / "Image-03-FPS" / name) == list("BBGGGR")
        assert (out / "AudioWAV" / f"{name}.wav").read_bytes() == (raw / "AudioWAV" / f"{name}.wav").read_bytes()
    assert dict(rows(out / "train.csv") + rows(out / "test.csv")) == {name: name.split("_")[2] for name in names}
    assert not list(out.rglob("*.part"))


def test_duration_that_is_no_whole_number_of_frames(tmp_path):
    write_video(tmp_path / "clip.flv", "flv", 30, [BLUE] * 71)  # 2.37 s: instants 0, 1/3 ... 7/3
    with Media(tmp_path / "clip.flv") as media:
        shown = list(media.shown(3))
    assert media.end == pytest.approx(71 / 30, abs=2e-3) and len(media.times) == 71 and len(shown) == 8
    (tmp_path / "frames").mkdir()
    soundfile.write(tmp_path / "clip.wav", np.zeros(100), 16000)
    clip = Clip("clip", "NEU", "1", (tmp_path / "clip.wav", tmp_path / "clip.flv"))
    prepare_cremad.prepare_clip(clip, tmp_path / "linked.wav", tmp_path / "frames", fps=3)
    assert len(list((tmp_path / "frames").iterdir())) == 8


def test_another_frame_rate_leaves_the_first_alone(cremad, capfd):
    raw, out, names = cremad
    assert run(prepare_cremad.main, capfd, raw=raw, out=out, fps=3, test_fraction=0.5)[0] == 0
    before, stamps = tree(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    assert run(prepare_cremad.main, capfd, raw=raw, out=out, fps=10, test_fraction=0.5)[0] == 0
    after = tree(out)
    assert {path for path in before if before[path] != after[path]} == {"manifest.json"}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert colours(out / "Image-10-FPS" / names[0]) == list("B" * 7 + "G" * 8 + "R" * 5)
    assert manifest(out)["clips"] == {"AudioWAV": 12, "Image-03-FPS": 12, "Image-10-FPS": 12}


def test_splits_are_stratified_seeded_and_beside_them_actor_disjoint(tmp_path, flv, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    names = make_cremad(raw, flv, actors=5, sentences=("DFA", "IEO"))
    assert run(prepare_cremad.main, capfd, raw=raw, out=out, fps=1, test_fraction=0.2)[0] == 0
    counts = {path: entry["classes"] for path, entry in manifest(out)["splits"].items()}
    assert counts["test.csv"] == dict.fromkeys(sorted(EMOTIONS), 2)
    assert counts["train.csv"] == dict.fromkeys(sorted(EMOTIONS), 8)
    for suffix in ("", "_by_actor"):
        train, test = rows(out / f"train{suffix}.csv"), rows(out / f"test{suffix}.csv")
        assert sorted(train + test) == sorted((name, name.split("_")[2]) for name in names)
    train, test = ({name[:4] for name, _ in rows(out / f"{part}_by_actor.csv")} for part in ("train", "test"))
    assert not train & test and len(test) == 1

    clips = [Clip(name, name.split("_")[2], name[:4], ()) for name in names]
    for by_group in (False, True):
        again = [split(clips, 0.2, seed, by_group) for seed in (0, 0, 1, 2, 3)]
        assert again[0] == again[1] and any(other != again[0] for other in again[2:])


@pytest.mark.parametrize("counts", [(2, 2), (2, 9), (7, 8, 5), (2,) * 12, (3, 40)])
def test_the_fractions_that_are_offered_are_all_that_split(counts):
    clips = [Clip(f"{label}{i}", str(label), "", ()) for label, n in enumerate(counts) for i in range(n)]
    able = []
    for fraction in (number / 1000 for number in range(1, 1000)):
        try:
            next(StratifiedShuffleSplit(1, test_size=fraction, random_state=0).split(clips, [c.label for c in clips]))
            able.append(fraction)
        except ValueError:
            with pytest.raises(DataError, match="choose one from") as refused:
                check_split(clips, fraction)
            assert f"--test_fraction {fraction} of {sum(counts)} clips of {len(counts)} classes" in str(refused.value)
    assert str(refused.value).endswith(f"choose one from {able[0]} to {able[-1]}")
    for fraction in able:
        check_split(clips, fraction)


def test_an_impossible_split_is_refused_before_the_work(tmp_path, flv, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_cremad(raw, flv)
    flags = dict(raw=raw, out=out)
    status, told, error = run(prepare_cremad.main, capfd, **flags, test_fraction=0.1)
    assert status == 2 and "choose one from 0.417 to 0.5" in error and "to do" not in told and not out.exists()
    status, _, error = run(prepare_cremad.main, capfd, **flags, test_fraction=0.6)
    assert status == 2 and "choose one from 0.417 to 0.5" in error
    for name in ("1001_DFA_SAD_XX", "1001_DFA_HAP_XX"):
        (raw / "AudioWAV" / f"{name}.wav").unlink()
        (raw / "VideoFlash" / f"{name}.flv").unlink()
    status, told, error = run(prepare_cremad.main, capfd, **flags, test_fraction=0.5)
    assert status == 2 and "there is one of HAP, SAD: add clips" in error and "to do" not in told
    assert len(error.splitlines()) == 1 and not out.exists()
    # With lists the seeded split is that of actors alone.
    rest = [path.stem for path in sorted((raw / "AudioWAV").iterdir())]
    for part, names in (("train", rest[1:]), ("test", rest[:1])):
        (tmp_path / f"{part}.csv").write_text("".join(f"{name},{name.split('_')[2]}\n" for name in names))
    lists = {f"{part}_csv": tmp_path / f"{part}.csv" for part in ("train", "test")}
    status, told, error = run(prepare_cremad.main, capfd, **flags, **lists, test_fraction=0.9)
    assert status == 2 and "of 2 groups" in error and "from 0.001 to 0.5" in error and "to do" not in told
    assert run(prepare_cremad.main, capfd, **flags, **lists, test_fraction=0.5)[0] == 0


def test_published_lists_are_kept_as_they_are(cremad, capfd, tmp_path):
    raw, out, names = cremad
    train, test = tmp_path / "published_train.csv", tmp_path / "published_test.csv"
    train.write_text("".join(f"{name},{name.split('_')[2]}\n" for name in names[:3:-1]))
    test.write_text("".join(f"{name},{name.split('_')[2]}\n" for name in names[:3]))
    status, said, _ = run(
        prepare_cremad.main, capfd, raw=raw, out=out, train_csv=train, test_csv=test, test_fraction=0.5
    )
    assert status == 0 and f"1 clips of {raw} are in neither list" in said
    assert (out / "train.csv").read_text() == train.read_text() and (out / "test.csv").read_text() == test.read_text()
    assert len(rows(out / "train_by_actor.csv") + rows(out / "test_by_actor.csv")) == len(names)
    # Another frame rate without the lists must not replace them by a seeded split.
    status, _, error = run(prepare_cremad.main, capfd, raw=raw, out=out, fps=1, test_fraction=0.5)
    assert status == 2 and "--resplit" in error and (out / "train.csv").read_text() == train.read_text()


@pytest.mark.parametrize(
    ("train_row", "named"),
    [
        ("1099_DFA_ANG_XX,ANG", "1099_DFA_ANG_XX"),
        ("1001_DFA_ANG_XX,anger", "'anger'"),
        ("1001_DFA_ANG_XX,SAD", "does not say SAD"),
        ("1001_DFA_ANG_XX", "line 2"),
        ("1001_DFA_ANG_XX,ANG,5", "line 2"),
        ("1001_DFA_NEU_XX,NEU", "there twice"),
        ("1002_DFA_SAD_XX,SAD", "in both lists"),
    ],
)
def test_faulty_published_lists_are_refused(cremad, capfd, tmp_path, train_row, named):
    raw, out, _ = cremad
    train, test = tmp_path / "published_train.csv", tmp_path / "published_test.csv"
    train.write_text(f"1001_DFA_NEU_XX,NEU\n{train_row}\n")
    test.write_text("1002_DFA_SAD_XX,SAD\n")
    status, _, error = run(prepare_cremad.main, capfd, raw=raw, out=out, train_csv=train, test_csv=test)
    assert status == 2 and named in error and "Traceback" not in error
    assert not out.exists()


def test_clips_that_do_not_decode_are_named_with_the_reason(tmp_path, flv, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    names = make_cremad(raw, flv, actors=4)
    sounds, videos = raw / "AudioWAV", raw / "VideoFlash"
    whole_video, whole_sound = (videos / f"{names[0]}.flv").read_bytes(), (sounds / f"{names[4]}.wav").read_bytes()
    (videos / f"{names[0]}.flv").write_bytes(whole_video[: len(whole_video) // 2])
    (videos / f"{names[1]}.flv").write_bytes(b"")
    (videos / f"{names[2]}.flv").unlink()
    (sounds / f"{names[3]}.wav").unlink()
    (sounds / f"{names[4]}.wav").write_bytes(whole_sound[:-5000])
    (videos / f"{names[5]}.flv").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (sounds / f"{names[6]}.wav").write_bytes(bytes(1000))
    reasons = [
        "is truncated",
        "is empty",
        "is missing",
        "is missing",
        "is truncated",
        "git lfs pull",
        "does not decode",
    ]
    status, _, error = run(prepare_cremad.main, capfd, raw=raw, out=out, test_fraction=0.5)
    assert status == 2 and "7 of 24 clips" in error and "--allow_missing" in error and "Traceback" not in error
    failures = dict(line.split(": ", 2)[1:] for line in error.splitlines() if line.startswith("failed: "))
    assert list(failures) == names[:7]
    assert all(reason in failures[name] for name, reason in zip(names, reasons, strict=False))
    assert {path.name for path in (out / "Image-03-FPS").iterdir()} == set(names[7:])  # nothing computed is lost
    assert not list(out.glob("*.csv")) and not list(out.rglob("*.part"))

    # Two of them repaired, the others allowed to be missing.
    (videos / f"{names[0]}.flv").write_bytes(whole_video)
    (sounds / f"{names[4]}.wav").write_bytes(whole_sound)
    left_out = [names[i] for i in (1, 2, 3, 5, 6)]
    status, _, error = run(prepare_cremad.main, capfd, raw=raw, out=out, test_fraction=0.4, allow_missing=True)
    assert status == 0 and all(f"failed: {name}" in error for name in left_out)
    listed = {name for name, _ in rows(out / "train.csv") + rows(out / "test.csv")}
    assert sorted(manifest(out)["failed"]) == left_out and not listed & set(left_out)
    assert listed == {path.name for path in (out / "Image-03-FPS").iterdir()} and names[0] in listed


def test_a_repaired_clip_changes_the_splits_only_on_demand(cremad, capfd):
    raw, out, names = cremad
    video = raw / "VideoFlash" / f"{names[0]}.flv"
    whole = video.read_bytes()
    video.write_bytes(b"")
    flags = dict(raw=raw, out=out, fps=1, test_fraction=0.5, allow_missing=True)
    assert run(prepare_cremad.main, capfd, **flags)[0] == 2  # ANG has one clip left
    shutil.copy(video.with_name(f"{names[1]}.flv"), raw / "VideoFlash" / f"{names[0][:-2]}HI.flv")
    shutil.copy(raw / "AudioWAV" / f"{names[0]}.wav", raw / "AudioWAV" / f"{names[0][:-2]}HI.wav")
    assert run(prepare_cremad.main, capfd, **flags)[0] == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    assert not any(names[0] in text.decode() for text in before.values())
    video.write_bytes(whole)
    status, _, error = run(prepare_cremad.main, capfd, **flags)
    assert status == 2 and "--resplit" in error and "other clips are good now than when train.csv" in error
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == before
    assert (out / "Image-01-FPS" / names[0]).is_dir()
    status, told, _ = run(prepare_cremad.main, capfd, **flags, resplit=True)
    assert status == 0 and "13 already there" in told
    assert names[0] in {name for name, _ in rows(out / "train.csv") + rows(out / "test.csv")}


def test_clips_of_other_raw_files_are_not_taken_for_those_that_are_there(cremad, capfd, tmp_path):
    raw, out, names = cremad
    flags = dict(out=out, test_fraction=0.5)
    for fps in (3, 5):
        assert run(prepare_cremad.main, capfd, raw=raw, fps=fps, **flags)[0] == 0
    other = shutil.copytree(raw, tmp_path / "other")  # the same files elsewhere, with their times
    status, told, _ = run(prepare_cremad.main, capfd, raw=other, fps=3, **flags)
    assert status == 0 and "12 already there" in told
    write_video(other / "VideoFlash" / f"{names[3]}.flv", "flv", 30, [RED] * 60)
    os.utime(other / "AudioWAV" / f"{names[5]}.wav", (0, 0))
    (other / "AudioWAV" / f"{names[7]}.wav").unlink()  # gone, but its clip is there
    before = tree(out)
    status, _, error = run(prepare_cremad.main, capfd, raw=other, fps=3, **flags)
    assert status == 2 and f"2 clips in {out} were made from other files" in error and "--redo" in error
    assert names[3] in error and len(error.splitlines()) == 1 and tree(out) == before
    status, told, _ = run(prepare_cremad.main, capfd, raw=other, fps=3, redo=True, **flags)
    assert status == 0 and "made again" in told and "10 already there, 2 to do" in told
    assert colours(out / "Image-03-FPS" / names[3]) == list("RRRRRR") and not (out / "Image-05-FPS" / names[3]).exists()
    assert {path for path, held in tree(out).items() if before.get(path) != held} == {
        "manifest.json", "sources.json",
        *(f"Image-03-FPS/{names[3]}/{i:05d}.jpg" for i in range(1, 6)),  # the sixth was red before
    }  # fmt: skip
    status, told, _ = run(prepare_cremad.main, capfd, raw=other, fps=3, **flags)
    assert status == 0 and "12 already there" in told


def test_damaged_clips_are_made_again_on_demand(cremad, capfd):
    raw, out, names = cremad
    flags = dict(raw=raw, out=out, fps=1, test_fraction=0.5)
    assert run(prepare_cremad.main, capfd, **flags)[0] == 0
    whole = tree(out)
    (out / "AudioWAV" / f"{names[0]}.wav").unlink()  # which may be a link to the raw file
    (out / "AudioWAV" / f"{names[0]}.wav").write_bytes(b"")
    (out / "Image-01-FPS" / names[1] / "00002.jpg").unlink()
    (out / "Image-01-FPS" / names[2] / "00001.jpg").write_bytes(b"cut")
    shutil.rmtree(out / "Image-01-FPS" / names[3])  # missing, which needs no leave
    before = tree(out)
    status, _, error = run(prepare_cremad.main, capfd, **flags)
    assert status == 2 and f"3: {', '.join(names[:3])}: make them again with --redo" in error and tree(out) == before
    status, told, _ = run(prepare_cremad.main, capfd, **flags, redo=True)
    assert status == 0 and "3: " + ", ".join(names[:3]) + ": made again" in told
    assert "8 already there, 4 to do" in told and tree(out) == whole


def test_a_clip_of_too_few_frames_fails_in_the_preparation_and_not_in_training(tmp_path, flv, capfd):
    raw, out = tmp_path / "raw", tmp_path / "out"
    names = make_cremad(raw, flv, actors=4)
    write_video(raw / "VideoFlash" / f"{names[0]}.flv", "flv", 30, [BLUE] * 15)  # 0.5 s: two frames at 3 a second
    flags = dict(raw=raw, out=out, test_fraction=0.4)
    assert run(prepare_cremad.main, capfd, **flags, fps=1)[0] == 0  # the recipes of one frame take it
    assert run(prepare_cremad.main, capfd, **flags, min_frames=2)[0] == 0  # and here it is finished, for less
    status, _, error = run(prepare_cremad.main, capfd, **flags)
    assert status == 2 and "1 of 24 clips" in error and "--allow_missing" in error
    assert f"failed: {names[0]}: gives 2 frames at --fps 3 and needs --min_frames 3" in error.splitlines()
    assert run(prepare_cremad.main, capfd, **flags, allow_missing=True, resplit=True)[0] == 0
    listed = [name for name, _ in rows(out / "train.csv") + rows(out / "test.csv")]
    assert len(listed) == 23 and names[0] not in listed and list(manifest(out)["failed"]) == [names[0]]
    status, _, error = run(prepare_cremad.main, capfd, **flags, min_frames=0)
    assert status == 2 and "--min_frames 0: must be at least 1" in error


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission"),
        (errno.EPERM, "permission"),
        (errno.EROFS, "choose an --out"),
        (errno.EIO, "put it right"),
    ],
)
def test_errors_of_the_system_name_the_remedy(cremad, capfd, monkeypatch, number, remedy):
    raw, out, _ = cremad

    def fail(*_):
        raise OSError(number, os.strerror(number), "that/file")

    with monkeypatch.context() as patch:
        patch.setattr(prepare_cremad, "write_frames", fail)
        status, _, error = run(prepare_cremad.main, capfd, raw=raw, out=out, test_fraction=0.5)
    last = error.splitlines()[-1]
    assert status == 2 and "that/file" in last and remedy in last and "same command again" in last
    assert run(prepare_cremad.main, capfd, raw=raw, out=out, test_fraction=0.5)[0] == 0


def test_an_out_that_is_a_file_and_a_list_that_is_not_there(cremad, capfd, tmp_path):
    raw, _, _ = cremad
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        status, _, error = run(prepare_cremad.main, capfd, raw=raw, out=out, test_fraction=0.5)
        assert status == 2 and error.endswith(f"{tmp_path / 'file'} is a file, not a folder: choose another --out\n")
        assert len(error.splitlines()) == 1 and (tmp_path / "file").read_text() == "mine"
    lists = dict(train_csv=tmp_path / "absent.csv", test_csv=tmp_path / "absent.csv")
    status, _, error = run(prepare_cremad.main, capfd, raw=raw, out=tmp_path / "out", **lists)
    assert status == 2 and f"cannot read the list {tmp_path / 'absent.csv'}" in error and "give the path" in error


def test_run_after_a_kill_gives_the_same_bytes(tmp_path, capfd):
    raw, out, whole = tmp_path / "raw", tmp_path / "killed", tmp_path / "whole"
    big = tmp_path / "big.flv"
    write_video(big, "flv", 30, [BLUE, GREEN, RED] * 10, size=(320, 240))
    names = make_cremad(raw, big, actors=4, sentences=("DFA", "IEO"))
    command = [sys.executable, "data/prepare_cremad.py", "--raw", str(raw), "--fps", "30", "--workers", "2"]
    command += ["--test_fraction", "0.25", "--out"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with subprocess.Popen([*command, str(out)], cwd=ROOT, **pipes) as process:
        while len(list((out / "Image-30-FPS").glob("[!.]*"))) < 4 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)  # the pipe closes when the last worker has left too
    assert process.returncode == -signal.SIGKILL and not (out / "train.csv").exists()
    finished = sorted((out / "Image-30-FPS").glob("[!.]*"))
    assert 4 <= len(finished) < len(names)
    # And what a kill at a worse moment leaves.
    left = next(name for name in names if not (out / "Image-30-FPS" / name).exists())
    (out / "Image-30-FPS" / f".{left}.part").mkdir(exist_ok=True)
    (out / "Image-30-FPS" / f".{left}.part" / "00001.jpg").write_bytes(b"half")
    part = out / "AudioWAV" / f".{left}.wav.part"
    part.unlink(missing_ok=True)  # the killed run may have left it as a link to the raw file
    part.write_bytes(b"half")
    (out / "AudioWAV" / f"{finished.pop().name}.wav").unlink()  # frames without sound are no finished clip
    stamps = {path: path.stat().st_mtime_ns for folder in finished for path in folder.iterdir()}

    for target in (out, whole):
        done = subprocess.run([*command, str(target)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "clip/s" in done.stderr
    assert tree(out) == tree(whole) and len(tree(whole)) == 48 + 48 * 30 + 7
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_other_settings_and_other_peoples_folders_are_refused(cremad, capfd, tmp_path):
    raw, out, _ = cremad
    flags = dict(raw=raw, out=out, fps=1, test_fraction=0.5)
    assert run(prepare_cremad.main, capfd, **flags)[0] == 0
    before = tree(out)
    status, _, error = run(prepare_cremad.main, capfd, **flags, seed=1)
    assert status == 2 and "--resplit" in error and tree(out) == before
    assert run(prepare_cremad.main, capfd, **flags, seed=1, resplit=True)[0] == 0
    after = tree(out)
    assert {path for path in after if after[path] != before[path]} >= {"train.csv", "test.csv", "manifest.json"}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "train.csv").write_text("mine")
    status, _, error = run(prepare_cremad.main, capfd, **{**flags, "out": foreign})
    assert status == 2 and "choose another --out" in error and (foreign / "train.csv").read_text() == "mine"
    for fault in ({"fps": 0}, {"test_fraction": 1.5}, {"raw": tmp_path / "absent"}, {"workers": 0}, {"raw": foreign}):
        status, _, error = run(prepare_cremad.main, capfd, **{**flags, **fault})
        assert status == 2 and error.startswith("error: ") and len(error.splitlines()) == 1
    (raw / "AudioWAV" / "notes.wav").write_bytes(b"x")
    status, _, error = run(prepare_cremad.main, capfd, **flags, seed=1)
    assert status == 2 and "notes" in error


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "data").glob("*.py")))
def test_help_loads_nothing_that_only_the_work_needs(recipe):
    """A bound on what is loaded, since a clock would tell of the machine."""
    program = "import runpy, sys\ntry:\n    runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
    program += "finally:\n    print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", program, f"data/{recipe}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0 and "--out" in done.stdout, done.stderr
    assert not {"torch", "torchaudio", "librosa", "sklearn", "webdataset"} & set(done.stderr.split())
