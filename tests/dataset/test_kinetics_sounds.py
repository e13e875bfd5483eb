"""Kinetics-Sounds: its classes and lists, the preparation, Kaldi's filterbank from its definitions, and the frames."""

import hashlib
import shutil
from collections import Counter

import numpy as np
import prepare_kinetics_sounds as kinetics
import pytest
import soundfile
import torch
from helpers import videos
from helpers.preparing import colours, manifest, rows, run

import main as program
from dataset import build
from dataset.classes import ACTIONS
from dataset.kinetics_sounds import KineticsSounds
from dataset.recipes.audio import Filterbank
from dataset.recipes.frames import even_frames, segment_frames
from engine.parser import parse
from utils.errors import DataError

# Sound


def kaldi(wave, rate=16000, bands=128):
    """Kaldi's log-mel filterbank in float64, from its documentation: frames that fit, 25 ms every 10 ms, no dither."""
    length, shift = rate * 25 // 1000, rate * 10 // 1000
    frames = np.stack([wave[start : start + length] for start in range(0, len(wave) - length + 1, shift)])
    frames = frames - frames.mean(axis=1, keepdims=True)  # remove_dc_offset
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - 0.97 * before) * np.hanning(length)  # preemphasis_coefficient
    size = 1 << (length - 1).bit_length()  # round_to_power_of_two
    power = np.abs(np.fft.rfft(frames, size)) ** 2
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    corners = np.linspace(mel(20), mel(rate / 2), bands + 2)  # low_freq 20, high_freq Nyquist
    points = mel(np.arange(size // 2 + 1) * rate / size)[:, None]
    up = (points - corners[:-2]) / (corners[1:-1] - corners[:-2])
    down = (corners[2:] - points) / (corners[2:] - corners[1:-1])
    triangles = np.maximum(0, np.minimum(up, down))
    return np.log(np.maximum(power @ triangles, np.finfo(np.float32).eps))


def recipe(wave, rate=16000, frames=1024):
    features = kaldi(wave - wave.mean(), rate)[:frames]
    features = np.pad(features, ((0, frames - len(features)), (0, 0)))
    return (features + 4.503877) / (2 * 5.141276)


def noise(seconds, rate, seed=0):
    """A tone in noise with an offset, so that taking off the mean matters."""
    moments = np.arange(round(seconds * rate)) / rate
    draws = np.random.default_rng(seed).standard_normal(len(moments))
    return (0.3 * np.sin(2 * np.pi * 440 * moments) + 0.05 * draws + 0.2).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.025, 1.3, 10.0, 11.0])
def test_filterbank_is_kaldis(tmp_path, seconds):
    wave = noise(seconds, 16000)
    soundfile.write(tmp_path / "a.wav", wave, 16000, "FLOAT")
    found = Filterbank()(tmp_path / "a.wav")
    assert found.shape == Filterbank().shape == (1, 1024, 128) and found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), recipe(wave.astype(np.float64)), atol=2e-3)
    windows = min(1024, 1 + (len(wave) - 400) // 160)
    np.testing.assert_allclose(found[0, windows:].numpy(), np.float32(4.503877 / (2 * 5.141276)), rtol=1e-6)


def test_filterbank_of_a_tone_has_its_maximum_at_the_tone(tmp_path):
    wave = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "a.wav", wave, 16000, "FLOAT")
    band = int(Filterbank(frames=90)(tmp_path / "a.wav")[0].mean(dim=0).argmax())
    assert centres()[band] == pytest.approx(1000, rel=0.02)


def centres():
    """Of the bands, in Hz."""
    corners = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
    return 700 * (np.exp(corners[1:-1] / 1127) - 1)


def test_filterbank_takes_any_rate_and_refuses_less_than_a_window(tmp_path):
    for rate, channels in ((44100, 2), (22050, 1)):
        wave = noise(2, rate)
        soundfile.write(tmp_path / f"{rate}.wav", np.stack([wave] * channels, axis=1), rate, "FLOAT")
        features = Filterbank()(tmp_path / f"{rate}.wav")[0, :195]
        # The tone of 440 Hz; the noise is another at each rate.
        assert features.mean(dim=0).argmax() == np.abs(centres() - 440).argmin()
    soundfile.write(tmp_path / "short.wav", np.zeros(399), 16000)
    with pytest.raises(RuntimeError, match="25 ms"):
        Filterbank()(tmp_path / "short.wav")


# Frames


@pytest.mark.parametrize(("available", "wanted"), [(10, 3), (3, 3), (7, 3), (11, 4), (5, 1)])
def test_training_draws_one_frame_of_each_equal_part(available, wanted):
    torch.manual_seed(0)
    drawn = [segment_frames(available, wanted) for _ in range(2000)]
    ends = [part * available // wanted for part in range(wanted + 1)]
    for part, (first, end) in enumerate(zip(ends, ends[1:], strict=False)):
        counts = Counter(frames[part] for frames in drawn)
        assert set(counts) == set(range(first, end))  # every frame of the part, none of another
        assert min(counts.values()) > 0.8 * 2000 / (end - first)
        assert even_frames(available, wanted)[part] in range(first, end)
    torch.manual_seed(0)
    assert [segment_frames(available, wanted) for _ in range(3)] == drawn[:3]


# Preparation


def test_the_31_classes():
    assert KineticsSounds.classes == ACTIONS == tuple(sorted(ACTIONS)) and len(ACTIONS) == 31
    # The 34 of arXiv 1705.08168, A.1, less the three that no release has.
    music = "accordion,bagpipes,bass guitar,clarinet,drums,guitar,harmonica,keyboard,organ,piano,saxophone,trombone"
    paper = [f"playing {name}" for name in f"{music},trumpet,violin,xylophone".split(",")] + (
        "blowing nose,bowling,chopping wood,ripping paper,shuffling cards,singing,tapping pen,blowing out,"
        "dribbling ball,laughing,mowing the lawn by pushing lawnmower,shoveling snow,stomping,tap dancing,"
        "tapping guitar,tickling"
    ).split(",")
    assert sorted(map(kinetics.class_of, paper)) == list(ACTIONS)
    assert kinetics.class_of("Playing_Bass__Guitar ") == "playing bass guitar"
    for other in ("typing", "fingerpicking", "patting", "using computer", "strumming guitar", "karaoke"):
        assert kinetics.class_of(other) is None


def video_id(number):
    return f"-id_{number:07d}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    videos.record(path, videos.colours(4.0, (1.2, 2.2)), videos.tone(length=4.0))
    return path


@pytest.fixture
def raw(clip, tmp_path):
    """Two classes of the 31 under two spellings and one other; 4 and 2 clips of each; one val clip is truncated."""
    number = 0
    for split, count in (("train", 4), ("val", 2)):
        for label in ("playing_organ", "tapping pen", "abseiling"):
            folder = tmp_path / "k400" / split / label
            folder.mkdir(parents=True)
            for _ in range(count):
                shutil.copy(clip, folder / f"{video_id(number)}_{number:06d}_{number + 10:06d}.mp4")
                number += 1
    # Numbers: train organ 0-3, pen 4-7, abseiling 8-11; val organ 12-13, pen 14-15, abseiling 16-17.
    return tmp_path / "k400"


FLAGS = dict(fps=1, size=32)


def test_the_clips_of_the_classes_are_prepared_and_no_others(raw, tmp_path, capfd):
    out = tmp_path / "out"
    status, _, error = run(kinetics.main, capfd, raw=raw, out=out, **FLAGS)
    assert status == 2 and "29 of the 31 classes: blowing nose" in error and "--allow_missing" in error
    status, said, _ = run(kinetics.main, capfd, raw=raw, out=out, allow_missing=True, **FLAGS)
    assert status == 0 and "1 folders of other classes passed over" in said
    name = f"{video_id(0)}_000000_000010"
    assert colours(out / "Image-01-FPS" / name) == list("BBGR")  # at 0, 1, 2 and 3 s
    assert soundfile.info(out / "AudioWAV" / f"{name}.wav").samplerate == 16000
    splits = manifest(out)["splits"]
    assert splits["train.csv"]["classes"] == {"playing organ": 4, "tapping pen": 4}
    assert splits["test.csv"]["classes"] == {"playing organ": 2, "tapping pen": 2}
    assert splits["test.csv"]["sha256"] == hashlib.sha256((out / "test.csv").read_bytes()).hexdigest()
    assert rows(out / "test.csv")[0] == (f"{video_id(12)}_000012_000022", "playing organ")


def test_videos_in_deeper_folders_are_found_and_those_of_no_class_named(raw, capsys):
    (raw / "val/tapping pen/deep").mkdir()
    for number, place in ((14, "tapping pen/deep"), (12, ".")):
        name = f"{video_id(number)}_{number:06d}_{number + 10:06d}.mp4"
        (found,) = (raw / "val").glob(f"*/{name}")
        found.rename(raw / "val" / place / name)
    clips = kinetics.find_clips(raw / "val")
    assert sorted(start for _, start in clips) == [13, 14, 15]
    assert f"in the folder of no class: 1: {video_id(12)}_000012_000022.mp4" in capsys.readouterr().out


def listed(path, numbers, form="{id}_{start},10,{label}", header=""):
    path.write_text(
        header + "".join(form.format(id=video_id(n), start=n, label=label, end=n + 10) + "\n" for n, label in numbers)
    )
    return path


@pytest.mark.parametrize(
    "form", ["{id}_{start},10,{label}", "{id}_{start:06d}_{end:06d}.mp4 300 {label}", "val/{id}_{start} {label}"]
)
def test_published_lists_choose_the_clips_and_name_what_is_missing(raw, tmp_path, capfd, form):
    out = tmp_path / "out"
    train = listed(tmp_path / "train.txt", [(5, 22), (0, 15), (1, 15), (99, 15), (14, 22)], form)
    test = listed(tmp_path / "test.txt", [(12, 15), (15, 22)], form)
    whole = (raw / "val" / "tapping pen" / f"{video_id(15)}_000015_000025.mp4").read_bytes()
    (raw / "val" / "tapping pen" / f"{video_id(15)}_000015_000025.mp4").write_bytes(whole[: len(whole) // 2])
    flags = dict(raw=raw, out=out, train_list=train, test_list=test, allow_missing=True, **FLAGS)
    status, said, error = run(kinetics.main, capfd, **flags)
    assert status == 0 and "6 clips" in said and "are in neither list" in said
    assert f"failed: {video_id(99)}_000099_000109: k400/{video_id(99)}_000099_000109.mp4 is missing" in error
    assert f"failed: {video_id(15)}_000015_000025: " in error and "does not decode" in error
    assert [name[4:11] for name, _ in rows(out / "train.csv")] == [f"{n:07d}" for n in (5, 0, 1, 14)]
    assert dict(rows(out / "test.csv")) == {f"{video_id(12)}_000012_000022": "playing organ"}
    assert len(manifest(out)["failed"]) == 2


def test_kinetics_own_lists_are_read_and_other_classes_passed_over(raw, tmp_path, capfd):
    header, form = "label,youtube_id,time_start,time_end,split,is_cc\n", "{label},{id},{start},{end},train,0"
    names = {**dict.fromkeys(range(4), "playing organ"), **dict.fromkeys(range(4, 8), "tapping pen"), 9: "abseiling"}
    found = kinetics.read_numbers(listed(tmp_path / "train.csv", names.items(), form, header))
    assert found == {(video_id(n), n): names[n] for n in range(8)}
    clips = kinetics.find_clips(raw / "train")
    assert kinetics.check_numbers([found], clips) == {"playing organ": "playing organ", "tapping pen": "tapping pen"}
    found[video_id(0), 0] = "tapping pen"
    with pytest.raises(DataError, match="tapping pen: playing organ, tapping pen|tapping pen: tapping pen"):
        kinetics.check_numbers([found], clips)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: shutil.rmtree(raw / "val"), "--test_folder"),
        (lambda raw: (raw / "train/tapping pen/film.mp4").write_bytes(b"x"), "not named <youtube id>_<start>_<end>"),
        (
            lambda raw: shutil.copytree(raw / "train/tapping pen", raw / "train/tapping_pen"),
            "are the same clip",
        ),
        (
            lambda raw: shutil.copytree(raw / "train/tapping pen", raw / "val/tapping pen", dirs_exist_ok=True),
            "4 clips are in both splits",
        ),
    ],
)
def test_folders_with_a_fault_are_refused(raw, tmp_path, capfd, change, said):
    change(raw)
    status, _, error = run(kinetics.main, capfd, raw=raw, out=tmp_path / "out", allow_missing=True, **FLAGS)
    assert status == 2 and said in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("nonsense\n", "line 1"),
        (f"{video_id(0)}_{'1' * 5000},10,3\n", "line 1"),
        (f"label,youtube_id,time_start\nplaying organ,{video_id(0)},inf\n", "line 2: no label"),
        (f"{video_id(0)}_0,10,3\n{video_id(0)}_0,10,3\n", "line 2: .* there twice"),
        (f"{video_id(0)}_0,10,3\n{video_id(4)}_4,10,3\n", "name the classes differently"),
        (f"{video_id(0)}_0,10,3\n{video_id(1)}_1,10,4\n", "name the classes differently"),
    ],
)
def test_lists_with_a_fault_are_refused(raw, tmp_path, text, said):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        kinetics.check_numbers([kinetics.read_numbers(tmp_path / "list.txt")], kinetics.find_clips(raw / "train"))


# Training


def test_protocol_is_the_public_codes():
    args = parse(["--dataset", "KineticsSounds"])
    wanted = dict(optimizer="sgd", lr=2e-3, momentum=0.9, weight_decay=1e-4, epochs=50, lr_step=30, lr_gamma=0.1)
    wanted |= dict(batch_size=64, frames=3, fps=1, image_size=224)
    assert {name: getattr(args, name) for name in wanted} == wanted


@pytest.mark.parametrize("method", ["joint", "inforeg"])
def test_an_epoch_on_prepared_clips(raw, tmp_path, capfd, method):
    out = tmp_path / "data"
    assert run(kinetics.main, capfd, raw=raw, out=out, allow_missing=True, **FLAGS)[0] == 0
    flags = f"--dataset KineticsSounds --data_root {out} --image_size 16 --encoder convnet".split()
    splits = build(parse(flags), ("audio", "visual"))
    inputs, target, _ = splits.train[0]
    assert inputs["audio"].shape == (1, 1024, 128) and inputs["visual"].shape == (3, 3, 16, 16)
    assert KineticsSounds.classes[target] == "playing organ" and len(splits.classes) == 31
    flags += f"--method {method} --out {tmp_path} --epochs 1 --batch_size 4 --workers 0 --device cpu".split()
    result = program.main(flags)
    assert 0 <= result["last"]["accuracy"] <= 1
