"""Noise where training and evaluation read it: every data set has its kinds, and a run is named by its own."""

import numpy as np
import pytest
import soundfile
import torch
from helpers.instances import make_hateful_memes, make_series, make_ucf101, save_series
from helpers.runs import make_demo, rows_of, train
from helpers.sounds import spectrogram, wave_of

from dataset import DATASETS, build
from dataset.cremad import CREMAD
from dataset.kinetics_sounds import KineticsSounds
from dataset.loader import Seeded, make_loader
from dataset.recipes.corrupt import Noise
from dataset.recipes.frames import IMAGENET_MEAN, IMAGENET_STD
from engine.parser import parse
from utils.errors import RunError


@pytest.mark.parametrize("recipe", [CREMAD.audio, KineticsSounds.audio])
def test_sound_is_corrupted_before_anything_is_made_of_it(tmp_path, recipe):
    wave, corrupt = wave_of(rate=recipe.sample_rate), Noise({"audio": "sound"}, ["audio:snr:5"]).on("audio", "clip")
    for name, samples in (("clean", wave), ("noisy", corrupt(wave))):
        soundfile.write(tmp_path / f"{name}.wav", samples, recipe.sample_rate, subtype="FLOAT")
    found = recipe(tmp_path / "clean.wav", corrupt)
    assert torch.equal(found, recipe(tmp_path / "noisy.wav"))
    assert not torch.equal(found, recipe(tmp_path / "clean.wav"))
    if recipe is CREMAD.audio:
        np.testing.assert_array_equal(found.numpy(), spectrogram(np.tile(corrupt(wave), 3)))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {
        "demo": make_demo(folder / "demo"),
        "UCF101": make_ucf101(folder / "ucf101"),
        "HatefulMemes": make_hateful_memes(folder / "memes"),
        "MOSI": save_series(folder / "mosi", make_series()),
    }


SMALL = {
    "demo": "--demo_clips=64 --demo_detune=0.5 --demo_picture_noise=30 --image_size 16 --frames 2",
    "UCF101": "--image_size 16 --frames 2",
    "HatefulMemes": "--image_size 16 --text_length 8",
    "MOSI": "",
}
HEARD = ["--train_noise", "audio:snr:5"]


def load(roots, dataset, *flags, held_out=0.0, modalities=None):
    args = parse(["--dataset", dataset, "--data_root", str(roots[dataset]), *SMALL[dataset].split(), *flags])
    return build(args, modalities or tuple(DATASETS[dataset].forms), held_out)


def samples(data, batch_size=5, **options):
    """{position: inputs} through a loader."""
    found = {}
    for batch in make_loader(data, batch_size, **options):
        for number, position in enumerate(batch.index.tolist()):
            found[position] = {name: x[number] for name, x in batch.inputs.items()}
    return found


def changed(one, other):
    """The modalities in which any, and those in which all of the samples differ."""
    assert one.keys() == other.keys()
    names = next(iter(one.values())).keys()
    differ = {name: [not torch.equal(one[i][name], other[i][name]) for i in one] for name in names}
    return {name for name in names if any(differ[name])}, {name for name in names if all(differ[name])}


def test_every_part_has_its_noise_whoever_reads_it(roots):
    clean, noisy = (load(roots, "demo", "--val_fraction", "0.34", *f, held_out=0.34) for f in ([], HEARD))
    for part in ("train", "plain", "held_out", "val", "test"):
        before, after = (samples(getattr(splits, part), workers=0) for splits in (clean, noisy))
        assert changed(before, after) == ({"audio"}, {"audio"})
        for options in (dict(workers=2), dict(workers=0, batch_size=7, seed=1, epoch=3, shuffle=True)):
            assert "audio" not in changed(after, samples(getattr(noisy, part), **options))[0]
    assert "audio" not in changed(samples(noisy.train, workers=0), samples(noisy.plain, workers=0))[0]
    kept = load(roots, "demo", *HEARD, "--cache", "ram")
    assert changed(samples(kept.test, workers=0), samples(noisy.test, workers=0)) == (set(), set())
    alone = load(roots, "demo", *HEARD, "--method", "joint", "--seed", "4", modalities=("audio",))
    assert torch.equal(alone.test[3][0]["audio"], noisy.test[3][0]["audio"])


@pytest.mark.parametrize("dataset, text", [("demo", "any:gaussian:3"), ("UCF101", "flow:gaussian_feat:1")])
def test_noise_goes_with_the_sample_wherever_it_stands(roots, dataset, text):
    args = parse(["--dataset", dataset, "--data_root", str(roots[dataset]), *SMALL[dataset].split()])
    source = DATASETS[dataset]
    rows, names = source.read_splits(args)[1], tuple(source.forms)
    noises = []
    for order, noise in ((rows, [text]), (rows[::-1], [text]), (rows, [])):
        args.train_noise = noise
        found = [x for _, x in sorted(samples(source(args, order, names, train=False), workers=0).items())]
        noises.append(found[::-1] if order is not rows else found)
    one, turned, clean = noises
    assert changed(dict(enumerate(one)), dict(enumerate(turned))) == (set(), set())
    assert changed(dict(enumerate(one)), dict(enumerate(clean)))[0]


CASES = [
    ("demo", "visual:gaussian:2", "--cache none"), ("demo", "visual:gaussian:2", "--cache ram"),
    ("UCF101", "rgb:jpeg:5", ""), ("UCF101", "flow:gaussian_feat:1", ""), ("HatefulMemes", "image:shot:3", ""),
    ("HatefulMemes", "text:drop:0.9", ""), ("MOSI", "audio:gaussian_feat:0.5", ""),
]  # fmt: skip


@pytest.mark.parametrize("dataset, text, more", CASES, ids=map(" ".join, CASES))
def test_every_data_set_has_its_kinds(roots, dataset, text, more):
    clean, noisy, none = (
        load(roots, dataset, *more.split(), *flags)
        for flags in ([], ["--train_noise", text], ["--train_noise", text.rsplit(":", 1)[0] + ":0"])
    )
    name = text.split(":")[0]
    for part in ("train", "test"):
        before, after, same = (samples(getattr(splits, part), workers=0) for splits in (clean, noisy, none))
        assert changed(before, after) == ({name}, {name})  # with the same draws for frames, crops and flips
        assert changed(before, same) == (set(), set())
        assert changed(after, samples(getattr(noisy, part), workers=2, batch_size=3)) == (set(), set())


def test_noise_on_training_pictures_is_on_pixels_and_the_same_in_every_epoch(roots):
    clean, noisy = (
        load(roots, "demo", "--frames", "4", *f).train for f in ([], ["--train_noise", "visual:gaussian:1"])
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    noises = []
    for epoch in range(2):  # all four frames, so that each is in its place; the demo has no flips
        before, after = (Seeded(data, 0, epoch)[5][0]["visual"] * std + mean for data in (clean, noisy))
        assert after.min() >= -1e-6 and after.max() <= 1 + 1e-6
        inside = (after > 0.001) & (after < 0.999)
        noises.append((after - before).where(inside, torch.nan))
    both = (noises[0] - noises[1])[(noises[0] - noises[1]).isfinite()]
    assert len(both) > 1000 and both.abs().max() < 1e-5
    inside = noises[0][noises[0].isfinite()]
    assert inside.std() == pytest.approx(0.08, rel=0.05)


def test_a_run_is_trained_on_it_and_named_by_it(roots, tmp_path):
    demo, flags = roots["demo"], ["--method", "joint", "--epochs", "1"]
    (clean,) = rows_of(train(demo, tmp_path / "clean", *flags))
    (noisy,) = rows_of(train(demo, tmp_path / "noisy", *flags, "--train_noise", "audio:snr:0"))
    for split in ("train", "test"):
        assert clean[split]["loss"] != noisy[split]["loss"]
    with pytest.raises(RunError, match="--train_noise was .'audio:snr:0'., is None"):
        train(demo, tmp_path / "noisy", *flags, "--resume")


@pytest.mark.parametrize(
    "words, tag",
    [
        ("audio:snr:-5.0@0.50", "audio.snr.-5@0.5"),
        ("audio:snr:2.123456789", "audio.snr.2.123456789"),
        ("audio:snr:5@1", "audio.snr.5"),
        ("audio:snr:5 any:gaussian:3", "audio.snr.5+any.gaussian.3"),
    ],
)
def test_the_tag_of_a_noise_is_the_name_of_a_folder(words, tag):
    args = parse([word for text in words.split() for word in ("--train_noise", text)])
    assert args.tag == f"train_noise={tag}"


PICTURES = "gaussian, shot, impulse, contrast, brightness, pixelate, jpeg, saltpepper, gaussian_qmf"


@pytest.mark.parametrize(
    "dataset, words, said",
    [
        ("CREMAD", "audio:snr", "'audio:snr' is not MODALITY:KIND:LEVEL[@SHARE]"),
        ("CREMAD", "smell:snr:5", "the modalities are audio, visual"),
        ("CREMAD", "audio:jpeg:5", "the kinds of audio are snr, gaussian"),
        ("CREMAD", "any:snr:5", f"the kinds of visual are {PICTURES}"),
        ("MOSI", "text:drop:0.5", "the kinds of text are gaussian_feat"),
        ("HatefulMemes", "text:gaussian:1", "the kinds of text are drop"),
        ("UCF101", "flow:gaussian:1", "the kinds of flow are gaussian_feat"),
        ("CREMAD", "audio:snr:loud", "'loud' is not a finite number"),
        ("CREMAD", "visual:gaussian:6", "'6' is not a severity, 0 to 5"),
        ("CREMAD", "visual:gaussian:1.5", "'1.5' is not a severity, 0 to 5"),
        ("CREMAD", "visual:saltpepper:11", "'11' is not a number from 0 to 10"),
        ("UCF101", "flow:gaussian_feat:-1", "'-1' is not a number from 0"),
        ("HatefulMemes", "text:drop:2", "'2' is not a probability from 0 to 1"),
        ("CREMAD", "audio:snr:5@1.5", "'1.5' is not a probability from 0 to 1"),
        ("CREMAD", "audio:snr:5@", "'' is not a probability from 0 to 1"),
    ],
)
def test_what_is_no_noise_of_the_data_is_refused(capsys, dataset, words, said):
    with pytest.raises(SystemExit):
        parse(["--dataset", dataset, "--train_noise", words])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", ["audio:snr:5 audio:snr:0", "audio:gaussian:1 any:gaussian:2"])
def test_one_kind_twice_is_refused(words):
    with pytest.raises(RunError, match="noise audio:(snr|gaussian) is asked for more than once: give one level"):
        Noise({"audio": "sound", "visual": "picture"}, words.split())
