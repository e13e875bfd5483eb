"""Data: the recipes against computations written here, what a sample depends on, the splits, and real clips."""

import os
from argparse import Namespace
from collections import Counter
from itertools import combinations
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from helpers.sounds import spectrogram
from PIL import Image

from dataset import build
from dataset.cremad import CREMAD
from dataset.grid import GRID
from dataset.loader import Seeded, make_loader
from dataset.recipes.frames import IMAGENET_MEAN, IMAGENET_STD, even_frames, random_frames
from engine.parser import parse
from utils.errors import DataError
from utils.runs.setting import changes

TRAIN, TEST, FRAMES = 24, 12, 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """36 clips in CREMA-D's layout; frames are noise, so that every crop of them is another picture."""
    root, random = tmp_path_factory.mktemp("cremad"), np.random.default_rng(0)
    (root / "AudioWAV").mkdir()
    rows = [f"clip{number:02d},{CREMAD.classes[number % 6]}\n" for number in range(TRAIN + TEST)]
    for row in rows:
        clip = row.split(",")[0]
        soundfile.write(root / "AudioWAV" / f"{clip}.wav", 0.1 * random.standard_normal(2000), 22050)
        folder = root / "Image-03-FPS" / clip
        folder.mkdir(parents=True)
        for number in range(FRAMES):
            Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{number:05d}.jpg")
    (root / "train.csv").write_text("".join(rows[:TRAIN]))
    (root / "test.csv").write_text("".join(rows[TRAIN:]))
    return root


def splits(root, *flags, held_out=0.0):
    args = parse(["--dataset", "CREMAD", "--data_root", str(root), "--image_size", "16", *flags])
    return build(args, ("audio", "visual"), held_out)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Sound


def loud_noise(seconds, rate, channels=1):
    wave = 0.7 * np.random.default_rng(1).standard_normal((round(seconds * rate), channels))
    assert np.abs(wave).max() > 1.5  # so that clipping matters
    return wave.astype(np.float32)


def written(path, wave, rate):
    soundfile.write(path, wave, rate, subtype="FLOAT")  # keeps what is beyond [-1, 1]
    return path


@pytest.mark.parametrize("seconds, times", [(1.3, 3), (0.5, 6), (3.7, 1)])
def test_cremad_audio_is_the_public_codes_recipe(tmp_path, seconds, times):
    wave = loud_noise(seconds, 22050)
    found = CREMAD.audio(written(tmp_path / "a.wav", wave, 22050))
    assert found.shape == CREMAD.audio.shape == (1, 257, 188)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), spectrogram(np.tile(wave[:, 0], times)[: 3 * 22050]))


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_cremad_has_as_many_seconds_of_sound_as_are_asked_for(root, tmp_path, cache):
    """As the public code of LFM and AUG repeats it: the sound twenty times or more, cut after 20 s."""
    shapes, own = [], ["--cache", cache, "--cache_root", str(tmp_path), "--workers", "0"]
    for seconds in (3, 20):
        given = ["--seconds", str(seconds)] if seconds != 3 else []
        sample = splits(root, *given, *own).test[0][0]["audio"]
        wave, _ = librosa.load(root / "AudioWAV" / f"clip{TRAIN:02d}.wav", sr=22050)
        repeated = np.tile(wave, seconds * 22050 // len(wave) + 1)[: seconds * 22050]
        np.testing.assert_array_equal(sample.numpy(), spectrogram(repeated))
        shapes.append(tuple(sample.shape))
    assert shapes == [(1, 257, 188), (1, 257, 1250)] and CREMAD.audio.seconds == 3


def test_a_run_of_cremad_from_before_the_seconds_were_a_flag_has_three_and_goes_on(root):
    args = parse(["--dataset", "CREMAD", "--data_root", str(root), "--workers", "0"])
    before = {name: value for name, value in vars(args).items() if name != "seconds"}
    assert len(before) < len(vars(args)) and changes(before, vars(args)) == []
    assert CREMAD(Namespace(**before), [("clip00", 0)], ["audio"], train=False)[0][0]["audio"].shape == (1, 257, 188)


@pytest.mark.parametrize("rate, channels", [(44100, 2), (16000, 1), (48000, 2)])
def test_other_rates_and_channels_are_read_as_librosa_reads_them(tmp_path, rate, channels):
    path = written(tmp_path / "a.wav", loud_noise(1.5, rate, channels), rate)
    wave, _ = librosa.load(path, sr=22050, mono=True)
    np.testing.assert_array_equal(CREMAD.audio(path).numpy(), spectrogram(np.tile(wave, 3)[: 3 * 22050]))


def test_grid_audio_is_librosas_mel_spectrogram(tmp_path):
    wave = loud_noise(0.5, 16000)
    found = GRID.audio(written(tmp_path / "a.wav", wave, 16000))
    wave = np.clip(np.tile(wave[:, 0], 2)[:10240], -1, 1)
    mels = librosa.feature.melspectrogram(y=wave, sr=16000, n_fft=512, hop_length=400, n_mels=40, power=1.0)
    assert found.shape == GRID.audio.shape == (1, 40, 26)
    np.testing.assert_allclose(found.numpy(), np.log(mels + 1e-7)[None], rtol=1e-5, atol=1e-5)


def test_silence_has_a_finite_spectrogram(tmp_path):
    found = CREMAD.audio(written(tmp_path / "a.wav", np.zeros(100, np.float32), 22050))
    np.testing.assert_array_equal(found.numpy(), np.full((1, 257, 188), np.log(np.float32(1e-7))))


# Frames


@pytest.mark.parametrize(
    "available, wanted, chosen",
    [
        (6, 3, [1, 3, 5]), (7, 3, [1, 3, 5]), (10, 3, [1, 5, 8]), (3, 3, [0, 1, 2]), (5, 2, [1, 3]), (1, 1, [0]),
        (4, 1, [2]), (9, 1, [4]), (16, 3, [2, 8, 13]),
    ],
)  # fmt: skip
def test_even_frames_are_the_middles_of_equal_parts(available, wanted, chosen):
    assert even_frames(available, wanted) == chosen


def test_random_frames_are_sorted_distinct_and_reach_every_choice():
    drawn = [tuple(random_frames(5, 2)) for _ in range(500)]
    assert set(drawn) == set(combinations(range(5), 2))
    assert random_frames(4, 4) == [0, 1, 2, 3]


def test_frames_are_read_in_the_order_of_their_names(root, tmp_path):
    folder = tmp_path / "Image-03-FPS" / "clip"
    folder.mkdir(parents=True)
    greys = [10, 60, 110, 160, 210, 250]
    for number in (4, 0, 5, 2, 1, 3):
        Image.new("RGB", (20, 24), (greys[number],) * 3).save(folder / f"{number:05d}.jpg", quality=100)
    args = parse(["--data_root", str(tmp_path), "--image_size", "16", "--frames", "6"])
    for train in (True, False):
        inputs, target, position = CREMAD(args, [("clip", 3)], ["visual"], train)[0]
        assert inputs.keys() == {"visual"} and (target, position) == (3, 0)
        # A uniform picture is the same in any crop: (grey / 255 - mean) / std of each channel.
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        wanted = ((torch.tensor(greys)[:, None] / 255 - mean) / std)[:, :, None, None].expand(6, 3, 16, 16)
        torch.testing.assert_close(inputs["visual"], wanted)


def test_evaluation_reads_the_even_frames(root):
    args = parse(["--data_root", str(root), "--image_size", "16", "--frames", "4"])
    every = CREMAD(args, [("clip00", 0)], ["visual"], train=False)[0][0]["visual"]
    args.frames = 2
    two = CREMAD(args, [("clip00", 0)], ["visual"], train=False)[0][0]["visual"]
    assert torch.equal(two, every[[1, 3]])


# Samples and loaders


def test_a_cremad_sample(root):
    data = splits(root)
    assert (len(data.train), len(data.test), data.held_out, data.val) == (TRAIN, TEST, None, None)
    for split, first in ((data.train, 0), (data.test, TRAIN)):
        for wanted in range(len(split)):
            inputs, target, position = split[wanted]
            assert inputs["audio"].shape == (1, 257, 188) and inputs["visual"].shape == (3, 3, 16, 16)
            assert (target, position) == ((first + wanted) % 6, wanted)
            assert inputs["audio"].min() >= np.log(np.float32(1e-7)) and inputs["audio"].max() < np.log(512)
            assert inputs["visual"].min() >= -0.485 / 0.229 - 1e-6 and inputs["visual"].max() <= 0.594 / 0.225 + 1e-6


def test_evaluation_draws_nothing(root):
    test = splits(root).test
    torch.manual_seed(0)
    one = [test[i][0] for i in range(3)]
    torch.manual_seed(1)
    assert all(same(one[i], test[i][0]) for i in range(3))


def test_training_draws_by_seed_epoch_and_position_alone(root):
    train = splits(root).train
    twin = lambda seed, epoch: [Seeded(train, seed, epoch)[i][0] for i in range(4)]  # noqa: E731
    one = twin(0, 0)
    torch.rand(7)
    assert all(map(same, one, twin(0, 0)))
    for other in (twin(0, 1), twin(1, 0)):
        assert not any(torch.equal(a["visual"], b["visual"]) for a, b in zip(one, other, strict=True))
        assert all(torch.equal(a["audio"], b["audio"]) for a, b in zip(one, other, strict=True))


def test_each_frame_is_cropped_for_itself(root, tmp_path):
    folder = tmp_path / "Image-03-FPS" / "clip"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes((root / "Image-03-FPS/clip00/00000.jpg").read_bytes())
    args = parse(["--data_root", str(tmp_path), "--image_size", "16"])
    frames = Seeded(CREMAD(args, [("clip", 0)], ["visual"], train=True), 0, 0)[0][0]["visual"]
    assert not any(torch.equal(frames[a], frames[b]) for a, b in combinations(range(3), 2))


def batches(data, workers=0, seed=0, epoch=0):
    return list(make_loader(data, 5, workers, seed, epoch, shuffle=True))


def test_workers_change_nothing(root):
    train = splits(root).train
    for one, other in zip(batches(train, workers=0), batches(train, workers=2), strict=True):
        assert same(one.inputs, other.inputs)
        assert torch.equal(one.target, other.target) and torch.equal(one.index, other.index)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else(root):
    train = splits(root).train

    def order(seed, epoch):
        loaded = batches(train, seed=seed, epoch=epoch)
        numbers = torch.cat([batch.index for batch in loaded]).tolist()
        assert [train.targets[i] for i in numbers] == torch.cat([batch.target for batch in loaded]).tolist()
        return numbers

    torch.manual_seed(0)
    first = order(0, 0)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert order(0, 0) == first
    assert torch.equal(torch.get_rng_state(), before)  # and the loader leaves the global generator alone
    others = [order(0, 1), order(0, 2), order(1, 0), order(1, 1)]
    assert len({tuple(o) for o in [first, *others]}) == 5
    assert all(sorted(o) == list(range(TRAIN)) for o in [first, *others])


# Shares of the training split


def names(split):
    return [split.dataset.names[i] for i in split.indices]


def test_withheld_shares_are_stratified_disjoint_and_the_same_for_every_seed(root):
    whole = splits(root)
    data = splits(root, "--val_fraction", "0.25", held_out=0.25)
    parts = [data.train, data.val, data.held_out]
    assert [len(part) for part in parts] == [12, 6, 6]
    for part, count in zip(parts, (2, 1, 1), strict=True):
        assert Counter(part[i][1] for i in range(len(part))) == dict.fromkeys(range(6), count)
    assert sorted(sum(map(names, parts), [])) == whole.train.names  # each clip in exactly one part
    assert data.test.names == whole.test.names
    other = splits(root, "--val_fraction", "0.25", "--seed", "5", held_out=0.25)
    assert [names(part) for part in (other.train, other.val, other.held_out)] == list(map(names, parts))
    # The validation share does not depend on whether the method withholds one for itself.
    assert names(splits(root, "--val_fraction", "0.25").val) == names(data.val)


def test_what_is_withheld_is_not_augmented_and_the_rest_is(root):
    data = splits(root, "--val_fraction", "0.25", held_out=0.25)
    for part, drawn in ((data.train, True), (data.val, False), (data.held_out, False)):
        one, other = (Seeded(part, 0, epoch)[0][0]["visual"] for epoch in (0, 1))
        assert torch.equal(one, other) != drawn


def test_a_sample_keeps_its_number_in_the_whole_training_split(root):
    data = splits(root, "--val_fraction", "0.25")
    whole = splits(root).train
    numbers = [data.val[i][2] for i in range(len(data.val))]
    assert numbers == list(data.val.indices) and [whole.names[i] for i in numbers] == names(data.val)


def test_a_share_that_cannot_be_stratified_is_refused(root):
    with pytest.raises(DataError, match="0.01 of 24 training samples"):
        splits(root, "--val_fraction", "0.01")


# Real clips


def test_real_grid_clips():
    if "REAL_DATA" not in os.environ:
        pytest.skip("REAL_DATA is unset: it names the folder that holds grid_digits, real clips of GRID")
    root = Path(os.environ["REAL_DATA"]) / "grid_digits"
    data = build(parse(["--dataset", "GRID", "--data_root", str(root)]), ("audio", "visual"))
    assert (len(data.train), len(data.test), len(data.classes)) == (800, 200, 10)
    assert set(data.train.targets) == set(data.test.targets) == set(range(10))
    for split in (data.train, data.test):
        for i in range(0, len(split), 20):
            inputs = split[i][0]
            assert inputs["audio"].shape == (1, 40, 26) and inputs["visual"].shape == (3, 3, 32, 32)
            assert all(x.isfinite().all() and x.std() > 0.1 for x in inputs.values())
