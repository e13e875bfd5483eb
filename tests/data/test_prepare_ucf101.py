"""The preparation of UCF101 on videos whose motion is known: flow, moments, lists, faults, restart."""

import signal
import subprocess
import sys
import time
from fractions import Fraction

import cv2
import numpy as np
import prepare_ucf101
import pytest
from helpers.places import ROOT
from helpers.preparing import manifest, rows, run, tree, write_video

CLASSES = ("ApplyLipstick", "HandstandPushups")  # the clips of the second are called v_HandStandPushups
MOTION = {"ApplyLipstick": (3, -2), "HandstandPushups": (-2, 1)}  # pixels a frame, to the right and downwards
SIZE = (96, 80)
LENGTH = 13  # frames at 25 a second: 0.52 s


def texture(side=240):
    """Smooth noise, which has a slope to follow everywhere."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def moving(motion, count=LENGTH, size=SIZE, side=240):
    """Frames whose content moves by `motion` from each to the next."""
    whole, (width, height) = texture(side), size
    for k in range(count):
        left, top = side // 3 - k * motion[0], side // 3 - k * motion[1]
        yield whole[top : top + height, left : left + width]


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """{class: an .avi of its motion}."""
    folder = tmp_path_factory.mktemp("avi")
    for label, motion in MOTION.items():
        write_video(folder / f"{label}.avi", "mpeg4", 25, moving(motion), size=SIZE)
    return {label: folder / f"{label}.avi" for label in MOTION}


def make_ucf101(raw, videos, groups=4, clips=1):
    """The published layout: in split k group k of every class is for testing."""
    lists = raw / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{n} {label}\r\n" for n, label in enumerate(CLASSES, 1)))
    names = {}
    for label in CLASSES:
        (raw / "UCF-101" / label).mkdir(parents=True)
        for group in range(1, groups + 1):
            for clip in range(1, clips + 1):
                name = f"v_{label.replace('stand', 'Stand')}_g{group:02d}_c{clip:02d}"
                names[name] = label
                (raw / "UCF-101" / label / f"{name}.avi").write_bytes(videos[label].read_bytes())
    for split in (1, 2, 3):
        tested = {name: f"_g{split:02d}_" in name for name in names}
        train = [f"{names[n]}/{n}.avi {CLASSES.index(names[n]) + 1}\n" for n in names if not tested[n]]
        (lists / f"trainlist{split:02d}.txt").write_text("".join(train))
        (lists / f"testlist{split:02d}.txt").write_text("".join(f"{names[n]}/{n}.avi\n" for n in names if tested[n]))
    return names


@pytest.fixture
def ucf(tmp_path, videos):
    return tmp_path / "raw", tmp_path / "out", make_ucf101(tmp_path / "raw", videos)


def stored_flow(path):
    """(height, width, 2) in pixels, by the rule that the script states."""
    both = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert both.dtype == np.uint8 and both.ndim == 2
    return np.stack(np.split((both.astype(float) - 128) * 20 / 127, 2), axis=2)


def test_the_flow_is_the_motion_and_the_frames_those_on_the_screen(ucf, capfd):
    raw, out, names = ucf
    assert run(prepare_ucf101.main, capfd, raw=raw, out=out, fps=8)[0] == 0
    shown = [i * 25 // 8 for i in range(5)]  # 0, 3, 6, 9, 12: at 0, 0.125, 0.25, 0.375 and 0.5 s
    for name, label in names.items():
        pictures = sorted((out / "Image-08-FPS" / name).iterdir())
        flows = sorted((out / "Flow-08-FPS" / name).iterdir())
        assert [path.name for path in pictures] == [f"{i:05d}.jpg" for i in range(1, 6)]
        assert [path.name for path in flows] == [f"{i:05d}.png" for i in range(1, 6)]
        drawn = np.stack(list(moving(MOTION[label]))).astype(float)
        for k, path in zip(shown, pictures, strict=True):
            distance = np.abs(drawn - cv2.imread(str(path))).mean(axis=(1, 2, 3))
            assert distance.argmin() == k and distance[k] < 8
        for path in flows:
            flow = stored_flow(path)
            assert flow.shape == (SIZE[1], SIZE[0], 2)
            inner = flow[12:-12, 12:-12]
            assert np.median(inner, axis=(0, 1)) == pytest.approx(MOTION[label], abs=0.16)
            assert np.abs(inner - MOTION[label]).mean() < 0.3
    assert not list(out.rglob("*.part"))


def test_the_flow_does_not_depend_on_the_rate(ucf, capfd):
    raw, out, names = ucf
    for fps in (5, 25):
        assert run(prepare_ucf101.main, capfd, raw=raw, out=out, fps=fps)[0] == 0
    for name in names:
        slow, fast = (sorted((out / f"Flow-{fps}-FPS" / name).iterdir()) for fps in ("05", "25"))
        assert len(slow) == 3 and len(fast) == LENGTH
        assert [p.read_bytes() for p in slow] == [p.read_bytes() for p in fast[::5]]
    counts = dict.fromkeys(["Flow-05-FPS", "Flow-25-FPS", "Image-05-FPS", "Image-25-FPS"], len(names))
    assert manifest(out)["clips"] == counts


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(10)])
@pytest.mark.parametrize("fps", [1, 3, 12, 25])
@pytest.mark.parametrize("count", [2, 25, 31])
def test_the_frames_that_are_sampled(rate, fps, count):
    frames = [np.full((16, 16, 3), number, np.uint8) for number in range(count)]
    pictures, flows = prepare_ucf101.sample(iter(frames), rate, fps)
    wanted, i = [], 0
    while Fraction(i, fps) < count / rate:  # frame k is on the screen from k / rate to (k + 1) / rate
        wanted.append(next(k for k in range(count) if k / rate <= Fraction(i, fps) < (k + 1) / rate))
        i += 1
    assert [picture[0, 0, 0] for picture in pictures] == wanted and len(flows) == len(wanted)


def test_what_is_stored_of_a_flow():
    values = np.array([0.0, 1.0, -1.0, 19.99, 20, 25, -20, -300, 0.07, 0.09])
    stored = prepare_ucf101.levels(np.stack([values, -values], axis=1)[None])
    assert stored.shape == (2, len(values)) and stored.dtype == np.uint8
    assert stored[0].tolist() == [128, 134, 122, 255, 255, 255, 1, 1, 128, 129]
    assert (stored[0].astype(int) + stored[1] == 256).all()
    fine = np.linspace(-20, 20, 4001)
    back = (prepare_ucf101.levels(np.stack([fine, fine], axis=1)[None])[0].astype(float) - 128) * 20 / 127
    assert np.abs(back - fine).max() <= 10 / 127 + 1e-9


def test_the_three_published_splits_and_the_classes(ucf, capfd):
    raw, out, names = ucf
    (raw / "UCF-101" / CLASSES[0] / "v_ApplyLipstick_g09_c01.avi").write_bytes(b"in no list")
    status, said, _ = run(prepare_ucf101.main, capfd, raw=raw, out=out)
    assert status == 0 and "no list has them: 1, v_ApplyLipstick_g09_c01" in said
    for split in (1, 2, 3):
        train, test = (rows(out / f"{part}{split:02d}.csv") for part in ("train", "test"))
        assert dict(train + test) == names and len(train + test) == len(names)
        assert [name for name, _ in test] == [name for name in names if f"_g{split:02d}_" in name]
    assert (out / "classInd.txt").read_text() == "1 ApplyLipstick\n2 HandstandPushups\n"
    held = manifest(out)
    assert sorted(held["splits"]) == sorted(f"{part}0{split}.csv" for part in ("train", "test") for split in (1, 2, 3))
    assert held["splits"]["test01.csv"]["classes"] == dict.fromkeys(CLASSES, 1)


LIST_FAULTS = {
    "no list": ("testlist03.txt", None, "testlist03.txt"),
    "empty list": ("testlist03.txt", "", "testlist03.txt is empty"),
    "no clip": ("testlist01.txt", "ApplyLipstick\n", "testlist01.txt, line 1"),
    "path": ("testlist01.txt", "../x/v_A_g01_c01.avi\n", "testlist01.txt, line 1"),
    "twice": ("testlist01.txt", "ApplyLipstick/v_ApplyLipstick_g01_c01.avi\n" * 2, "line 2: v_ApplyLipstick_g01_c01"),
    "unknown class": ("testlist01.txt", "Typing/v_Typing_g01_c01.avi\n", "line 1: 'Typing/"),
    "other number": (
        "trainlist01.txt",
        "ApplyLipstick/v_ApplyLipstick_g02_c01.avi 2\n",
        "line 1: 'ApplyLipstick/",
    ),
    "group in both": ("testlist01.txt", "ApplyLipstick/v_ApplyLipstick_g02_c07.avi\n", "v_ApplyLipstick_g02 among"),
    "class numbers": ("classInd.txt", "1 ApplyLipstick\n3 HandstandPushups\n", "classInd.txt, line 2"),
    "class twice": ("classInd.txt", "1 ApplyLipstick\n2 ApplyLipstick\n", "classInd.txt, line 2"),
}


@pytest.mark.parametrize("kind", LIST_FAULTS)
def test_faulty_lists_are_refused(ucf, capfd, kind):
    raw, out, _ = ucf
    name, text, named = LIST_FAULTS[kind]
    path = raw / "ucfTrainTestlist" / name
    path.unlink() if text is None else path.write_text(text)
    status, _, error = run(prepare_ucf101.main, capfd, raw=raw, out=out)
    assert status == 2 and named in error and len(error.splitlines()) == 1 and not out.exists(), error


@pytest.mark.parametrize("folder", ["UCF-101", "ucfTrainTestlist"])
def test_an_incomplete_download_is_named(ucf, capfd, folder):
    raw, out, _ = ucf
    (raw / folder).rename(raw / "elsewhere")
    status, _, error = run(prepare_ucf101.main, capfd, raw=raw, out=out)
    assert status == 2 and f"{raw / folder} is not there" in error and len(error.splitlines()) == 1


def test_bad_clips_are_named_and_left_out_only_when_allowed(ucf, capfd):
    raw, out, names = ucf
    bad = dict(zip(names, ["is missing", "is empty", "is truncated", "does not decode", "needs two"], strict=False))
    paths = [raw / "UCF-101" / names[name] / f"{name}.avi" for name in bad]
    whole = paths[0].read_bytes()
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(whole[: len(whole) * 6 // 10])
    paths[3].write_bytes(b"no video" * 200)
    write_video(paths[4], "mpeg4", 25, moving((0, 0), count=1), size=SIZE)
    status, _, error = run(prepare_ucf101.main, capfd, raw=raw, out=out)
    assert status == 2 and "5 of 8 clips" in error and "--allow_missing" in error and "Traceback" not in error
    failures = dict(line.split(": ", 2)[1:] for line in error.splitlines() if line.startswith("failed: "))
    assert failures.keys() == bad.keys()
    assert {name: reason for name, reason in bad.items() if reason not in failures[name]} == {}, failures
    left = sorted(names.keys() - bad.keys())
    for kind in ("Image", "Flow"):
        assert sorted(path.name for path in (out / f"{kind}-03-FPS").iterdir()) == left
    assert not list(out.glob("*.csv"))

    paths[0].write_bytes(whole)
    status, _, error = run(prepare_ucf101.main, capfd, raw=raw, out=out, allow_missing=True)
    assert status == 0
    listed = {name for name, _ in rows(out / "train02.csv") + rows(out / "test02.csv")}
    assert listed == {*left, next(iter(bad))} and sorted(manifest(out)["failed"]) == sorted(bad)[1:]


def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path):
    raw, out, whole = tmp_path / "raw", tmp_path / "killed", tmp_path / "whole"
    long = {label: tmp_path / f"{label}.avi" for label in CLASSES}
    for path in long.values():
        write_video(path, "mpeg4", 25, moving((1, 0), count=20, size=(240, 200), side=480), size=(240, 200))
    names = make_ucf101(raw, long, groups=5, clips=2)
    command = [sys.executable, "data/prepare_ucf101.py", "--raw", str(raw), "--fps", "25", "--workers", "2", "--out"]
    pictures, motion = out / "Image-25-FPS", out / "Flow-25-FPS"
    with subprocess.Popen([*command, str(out)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while len(list(pictures.glob("[!.]*"))) < 3 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL and not list(out.glob("*.csv"))
    finished = sorted(path.name for path in pictures.glob("[!.]*"))
    assert 3 <= len(finished) < len(names)
    # And what a kill at worse moments leaves: half a clip; flow in place and no pictures yet; pictures without flow.
    left = [name for name in sorted(names) if not (pictures / name).exists()]
    for kind in (pictures, motion):
        (kind / f".{left[0]}.part").mkdir(exist_ok=True)
        (kind / f".{left[0]}.part" / "00001.png").write_bytes(b"half")
    again = finished.pop()
    for path in (motion / again).iterdir():
        path.unlink()
    (motion / again).rmdir()
    alone = finished.pop()
    for path in (pictures / alone).iterdir():
        path.unlink()
    (pictures / alone).rmdir()
    stamps = {path: path.stat().st_mtime_ns for name in finished for path in (pictures / name).iterdir()}

    for target in (out, whole):
        done = subprocess.run([*command, str(target)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "clip/s" in done.stderr, done.stderr
    assert tree(out) == tree(whole) and len(tree(whole)) == 2 * 20 * len(names) + 6 + 4
    assert stamps and all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
