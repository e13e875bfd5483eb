"""Noise on the inputs: its measured size, what it depends on, and what the grammar refuses."""

import numpy as np
import pytest
import soundfile
import torch
from runs import make_demo, rows_of, train
from test_dataset import spectrogram

from dataset import build
from dataset.base import make_loader
from dataset.corrupt import Noise
from dataset.cremad import CREMAD
from dataset.kinetics_sounds import KineticsSounds
from utils.args import parse
from utils.errors import RunError

FORMS = {"audio": "sound", "visual": "picture"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("data") / "demo")


def demo_args(demo, *flags):
    made = "--demo_clips=64 --demo_sound_error=0.3 --demo_picture_noise=30 --image_size 16 --frames 2".split()
    return parse(["--dataset", "demo", "--data_root", str(demo), *made, *flags])


def wave_of(seconds=1.0, rate=22050, size=0.1):
    return (size * np.random.default_rng(3).standard_normal(round(seconds * rate))).astype(np.float32)


# Sound


@pytest.mark.parametrize("decibel", [20, 0, -5, 2.5])
@pytest.mark.parametrize("size", [0.3, 1e-3])
def test_the_measured_ratio_of_signal_to_noise_is_the_level(decibel, size):
    wave = wave_of(size=size)
    noise = Noise(FORMS, [f"audio:snr:{decibel}"]).on("audio", "clip")(wave) - wave
    ratio = np.mean(wave.astype(np.float64) ** 2) / np.mean(noise.astype(np.float64) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(decibel, abs=1e-2)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2  # white: each quarter of the band has as much as the others
    assert np.allclose([part.mean() for part in np.array_split(spectrum, 4)], spectrum.mean(), rtol=0.1)
    assert abs(noise.mean()) < 4 * noise.std() / len(noise) ** 0.5


def test_silence_stays_silent():
    silent = np.zeros(100, np.float32)
    assert np.array_equal(Noise(FORMS, ["audio:snr:5"]).on("audio", "clip")(silent), silent)


@pytest.mark.parametrize("recipe", [CREMAD.audio, KineticsSounds.audio])
def test_sound_is_corrupted_before_anything_is_made_of_it(tmp_path, recipe):
    wave, corrupt = wave_of(rate=recipe.sample_rate), Noise(FORMS, ["audio:snr:5"]).on("audio", "clip")
    for name, samples in (("clean", wave), ("noisy", corrupt(wave))):
        soundfile.write(tmp_path / f"{name}.wav", samples, recipe.sample_rate, subtype="FLOAT")
    found = recipe(tmp_path / "clean.wav", corrupt)
    assert torch.equal(found, recipe(tmp_path / "noisy.wav"))
    assert not torch.equal(found, recipe(tmp_path / "clean.wav"))
    if recipe is CREMAD.audio:
        np.testing.assert_array_equal(found.numpy(), spectrogram(np.tile(corrupt(wave), 3)))


# What is drawn


def test_what_is_drawn_depends_on_seed_and_name_and_kind_alone():
    wave = wave_of()
    noises = {}
    for key, (seed, name, level) in {
        "one": (0, "clip", 5), "again": (0, "clip", 5), "louder": (0, "clip", 0), "other": (0, "clip2", 5),
        "seed": (1, "clip", 5),
    }.items():  # fmt: skip
        torch.manual_seed(len(noises))
        np.random.seed(len(noises))
        noises[key] = Noise(FORMS, [f"audio:snr:{level}"], seed).on("audio", name)(wave) - wave
    assert np.array_equal(noises["one"], noises["again"])
    np.testing.assert_allclose(noises["louder"], noises["one"] * 10**0.25, rtol=1e-3, atol=1e-6)
    for key in ("other", "seed"):
        assert abs(np.corrcoef(noises[key], noises["one"])[0, 1]) < 0.05


def test_the_share_that_is_hit():
    wave, count = wave_of(0.01), 4000
    noise = {share: Noise(FORMS, [f"audio:snr:5@{share}"]) for share in (0, 0.3, 0.6, 1)}
    hit = {}
    for share, corruption in noise.items():
        hit[share] = {i for i in range(count) if corruption.on("audio", f"clip{i}")(wave) is not wave}
        assert abs(len(hit[share]) - share * count) <= 4 * (count * share * (1 - share)) ** 0.5
    assert hit[0] < hit[0.3] < hit[0.6] < hit[1]
    assert Noise(FORMS, ["audio:snr:5"]).on("visual", "clip")(wave) is wave


# Data sets


def samples(data, **options):
    """{position: sound} through a loader."""
    batches = list(make_loader(data, 5, **options))
    sounds, index = (torch.cat([pick(b) for b in batches]) for pick in (lambda b: b.inputs["audio"], lambda b: b.index))
    return dict(zip(index.tolist(), sounds, strict=True))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[i], other[i]) for i in one)


def test_every_part_has_its_noise_whoever_reads_it(demo):
    clean, noisy = (
        build(demo_args(demo, "--val_fraction", "0.34", *flags), ("audio", "visual"), 0.34)
        for flags in ([], ["--train_noise", "audio:snr:5"])
    )
    for part in ("train", "plain", "held_out", "val", "test"):
        before, after = (samples(getattr(splits, part), workers=0) for splits in (clean, noisy))
        assert not any(torch.equal(before[i], after[i]) for i in before)
        for options in (dict(workers=2), dict(workers=0, seed=1, epoch=3, shuffle=True)):
            assert same(after, samples(getattr(noisy, part), **options))
    assert same(samples(noisy.train, workers=0), samples(noisy.plain, workers=0))
    kept = build(demo_args(demo, "--train_noise", "audio:snr:5", "--cache", "ram"), ("audio", "visual"))
    alone = build(demo_args(demo, "--train_noise", "audio:snr:5", "--method", "joint", "--seed", "4"), ("audio",))
    for splits in (kept, alone):
        assert same(samples(splits.test, workers=0), samples(noisy.test, workers=0))
    assert torch.equal(clean.test[0][0]["visual"], noisy.test[0][0]["visual"])


def test_a_run_is_trained_on_it_and_named_by_it(demo, tmp_path):
    folders = [train(demo, tmp_path / tag, "--method", "joint", "--epochs", "1", *flags) for tag, flags in
               (("clean", []), ("noisy", ["--train_noise", "audio:snr:0"]))]  # fmt: skip
    (clean,), (noisy,) = map(rows_of, folders)
    for split in ("train", "test"):
        assert clean[split]["loss"] != noisy[split]["loss"]
    for level, word in (("-5.0@0.50", "-5@0.5"), ("2.123456789", "2.123456789"), ("5@1", "5")):
        assert parse(["--train_noise", f"audio:snr:{level}"]).tag == f"train_noise=audio.snr.{word}"
    with pytest.raises(RunError, match="--train_noise was .'audio:snr:0'., is None"):
        train(demo, tmp_path / "noisy", "--method", "joint", "--epochs", "1", "--resume")


@pytest.mark.parametrize(
    "words, said",
    [
        ("audio:snr", "'audio:snr' is not MODALITY:KIND:LEVEL[@SHARE]"),
        ("smell:snr:5", "noise is defined for audio"),
        ("audio:blur:5", "the kinds of audio are snr"),
        ("audio:snr:loud", "'loud' is not a finite number"),
        ("audio:snr:5@1.5", "'1.5' is not a probability from 0 to 1"),
    ],
)
def test_what_is_no_noise_of_the_data_is_refused(capsys, words, said):
    with pytest.raises(SystemExit):
        parse(["--train_noise", words])
    assert said in capsys.readouterr().err


def test_one_kind_twice_is_refused():
    with pytest.raises(RunError, match="noise audio:snr is asked for more than once"):
        Noise(FORMS, ["audio:snr:5", "audio:snr:0"])
