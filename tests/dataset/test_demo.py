"""The generated data set: what is in it, that it is always the same, and that it never overwrites anything."""

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from dataset import build, demo
from dataset.demo import FPS, SECONDS, SIDE, Demo, generate
from engine.parser import parse
from utils.errors import DataError

CLASSES = len(Demo.classes)
SETTING = dict(demo_clips=64, demo_detune=0.9, demo_picture_noise=0.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("generated") / "demo"
    generate(root, **SETTING)
    return root


def rows(root, name):
    return [line.split(",") for line in (root / f"{name}.csv").read_text().splitlines()]


def number_of(root):
    return {clip: Demo.classes.index(label) for name in ("train", "test") for clip, label in rows(root, name)}


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def flags(root, **changes):
    setting = SETTING | changes
    return parse(
        ["--dataset", "demo", "--data_root", str(root), *(f"--{name}={value}" for name, value in setting.items())]
    )


def pitch(path):
    """Fundamental frequency by autocorrelation: the first lag, after it has once been negative, near its highest."""
    wave, rate = soundfile.read(path)
    power = np.abs(np.fft.rfft(wave[:2048], 4096)) ** 2
    fine = 8  # lags in eighths of a sample, by zeros behind the power spectrum
    lags = np.fft.irfft(power, fine * 4096)[: fine * rate // 100]
    begin = np.argmax(lags < 0)
    near = begin + np.argmax(lags[begin:] > 0.85 * lags[begin:].max())
    return fine * rate / (near + np.argmax(lags[near : near + 2 * fine]))


def steps_off(root, name):
    """How far each clip of a split is from its class's pitch, in distances to the next class's."""
    pitches = {clip: pitch(root / "AudioWAV" / f"{clip}.wav") for clip, _ in rows(root, name)}
    return np.array([np.log2(hertz / 200) * 7 / 2 - number_of(root)[clip] for clip, hertz in pitches.items()])


def test_layout_and_balance(root):
    train, test = rows(root, "train"), rows(root, "test")
    assert (len(train), len(test)) == (48, 16)
    assert Counter(label for _, label in train) == dict.fromkeys(Demo.classes, 6)
    assert Counter(label for _, label in test) == dict.fromkeys(Demo.classes, 2)
    clips = {clip for clip, _ in train + test}
    assert len(clips) == 64
    assert {path.stem for path in (root / "AudioWAV").iterdir()} == clips
    assert {path.name for path in (root / f"Image-{FPS:02d}-FPS").iterdir()} == clips
    for clip in clips:
        info = soundfile.info(root / "AudioWAV" / f"{clip}.wav")
        assert (info.duration, info.channels, info.samplerate) == (SECONDS, 1, Demo.audio.sample_rate)
        pictures = sorted((root / f"Image-{FPS:02d}-FPS" / clip).iterdir())
        assert [path.name for path in pictures] == [f"{i:05d}.jpg" for i in range(1, int(FPS * SECONDS) + 1)]
    with Image.open(pictures[0]) as image:
        assert (image.size, image.mode, image.format) == ((SIDE, SIDE), "RGB", "JPEG")


def test_it_is_read_like_any_other_set(root):
    data = build(flags(root), ("audio", "visual"))
    assert (len(data.train), len(data.test), data.classes) == (48, 16, Demo.classes)
    inputs = data.test[0][0]
    assert inputs["audio"].shape == Demo.audio.shape and inputs["visual"].shape == (2, 3, 32, 32)


def test_training_sounds_are_in_tune_and_test_sounds_as_far_off_as_the_flag_says(tmp_path):
    generate(tmp_path / "demo", 400, demo_detune=0.9, demo_picture_noise=0.0)
    train, test = (steps_off(tmp_path / "demo", name) for name in ("train", "test"))
    measured = 0.03  # the error of the measurement, in the same unit
    assert np.abs(train).max() < 0.1 + measured
    assert 0.8 < np.abs(test).max() < 0.9 + measured
    # Uniform on both sides: of 160 clips a share 0.5 / 0.9 is nearest to its own class, but for three deviations.
    assert abs((np.abs(test) < 0.5).mean() - 0.5 / 0.9) < 3 * (0.55 * 0.45 / 160) ** 0.5
    assert abs(test.mean()) < 3 * 0.9 / (3 * 160) ** 0.5


def test_the_picture_always_shows_the_class(root):
    frequency = np.fft.fftfreq(512)
    for clip, k in number_of(root).items():
        with Image.open(root / f"Image-{FPS:02d}-FPS" / clip / "00001.jpg") as image:
            grey = np.asarray(image.convert("L"), float)
        grey = (grey - grey.mean()) * np.outer(np.hanning(SIDE), np.hanning(SIDE))
        strength = np.abs(np.fft.fft2(grey, (512, 512)))
        y, x = np.unravel_index(strength.argmax(), strength.shape)
        angle = np.arctan2(frequency[y], frequency[x]) % np.pi
        assert round(angle / np.pi * CLASSES) % CLASSES == k


def test_noise_is_on_the_pictures_alone(root, tmp_path):
    spread = []
    for noise in (0.0, 60.0):
        generate(tmp_path / str(noise), 64, demo_detune=0.0, demo_picture_noise=noise)
        with Image.open(tmp_path / str(noise) / f"Image-{FPS:02d}-FPS" / "clip00000" / "00001.jpg") as image:
            spread.append(np.diff(np.asarray(image, float), axis=2).std())
    assert spread[0] < 1 and spread[1] > 20  # a grating alone is grey


def test_twice_the_same_bytes(root, tmp_path):
    np.random.seed(5)  # the global generator has no part in it
    generate(tmp_path / "again", **SETTING)
    assert files(root) == files(tmp_path / "again")
    assert json.loads((root / "demo.json").read_text()) == SETTING


def test_a_set_that_is_there_is_used_as_it_is(root):
    before = files(root)
    Demo.read_splits(flags(root))
    assert files(root) == before


@pytest.mark.parametrize("change", [dict(demo_clips=128), dict(demo_detune=0.2), dict(demo_picture_noise=1.0)], ids=str)
def test_another_setting_is_refused(root, change):
    before = files(root)
    with pytest.raises(DataError) as refused:
        Demo.read_splits(flags(root, **change))
    assert str(root) in str(refused.value) and "--data_root" in str(refused.value)
    assert files(root) == before


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_text("[1]"), lambda path: path.write_text("3"), Path.mkdir, os.mkfifo],
    ids=["list", "number", "folder", "pipe"],
)
def test_a_manifest_that_is_none_is_refused(root, tmp_path, spoil):
    manifest = shutil.copytree(root, tmp_path / "copy") / "demo.json"
    manifest.unlink()
    spoil(manifest)
    with pytest.raises(DataError, match=f"{manifest} cannot be read"):
        Demo.read_splits(flags(manifest.parent))


def test_an_unrelated_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not empty"):
        Demo.read_splits(flags(tmp_path))
    assert files(tmp_path) == {"thesis.txt": b"years of work"}


def test_an_empty_folder_is_filled(root, tmp_path):
    Demo.read_splits(flags(tmp_path))
    assert files(tmp_path) == files(root)


def test_too_few_clips_are_refused(tmp_path):
    with pytest.raises(DataError, match="--demo_clips 63"):
        Demo.read_splits(flags(tmp_path / "demo", demo_clips=63))
    assert not list(tmp_path.iterdir())


def stop_after_ten_clips(monkeypatch, stop):
    gratings, made = demo._gratings, []

    def some(*values):
        made.append(values)
        return stop() if len(made) > 10 else gratings(*values)

    monkeypatch.setattr(demo, "_gratings", some)


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    stop_after_ten_clips(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "demo", **SETTING)
    assert not list(tmp_path.iterdir())


def test_a_killed_generation_leaves_no_half_made_set(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after_ten_clips(patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
        forked = multiprocessing.get_context("fork")
        process = forked.Process(target=generate, args=(tmp_path / "demo",), kwargs=SETTING)
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "demo").exists()
    # In a container the next process has the same number, and meets what the killed one has left.
    (left,) = tmp_path.iterdir()
    left.rename(left.with_name(f".demo.{os.getpid()}"))
    Demo.read_splits(flags(tmp_path / "demo"))
    assert files(tmp_path / "demo") == files(root)
