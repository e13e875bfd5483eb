"""Noise on the inputs: its measured size, what it depends on, and what the grammar refuses."""

import io

import matplotlib.colors
import numpy as np
import pytest
import soundfile
import torch
from helpers.instances import make_hateful_memes, make_series, make_ucf101, save_series
from helpers.runs import make_demo, rows_of, train
from helpers.sounds import spectrogram
from PIL import Image

from dataset import DATASETS, build
from dataset.cremad import CREMAD
from dataset.kinetics_sounds import KineticsSounds
from dataset.loader import Seeded, make_loader
from dataset.recipes.corrupt import KINDS, Noise
from dataset.recipes.frames import IMAGENET_MEAN, IMAGENET_STD
from engine.parser import parse
from utils.errors import RunError

FORMS = {"audio": "sound", "visual": "picture", "series": "values", "text": "words"}
SIDE = 64
DEVIATIONS = {1: 0.08, 2: 0.12, 3: 0.18, 4: 0.26, 5: 0.38}


def wave_of(seconds=1.0, rate=22050, size=0.1):
    return (size * np.random.default_rng(3).standard_normal(round(seconds * rate))).astype(np.float32)


def picture_of(side=SIDE):
    """Smooth colours, black and white among them."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    return np.stack([x, y, 1 - x]).astype(np.float32)


def words_of(length=40, padding=10):
    return np.pad(np.arange(2, 2 + length), (0, padding))


INPUTS = {"sound": wave_of(), "picture": picture_of(), "values": wave_of(), "words": words_of()}
EVERY = [(name, kind) for name, form in FORMS.items() for kind in KINDS[form]]


def hit(text, x, name="clip", seed=0, **options):
    return Noise(FORMS, [text], seed).on(text.split(":")[0], name, **options)(x)


def unclipped(kind, level, x, seed=0):
    kind = KINDS["picture"][kind]
    return kind.apply(x, kind.scale[level - 1] if kind.scale else level, np.random.default_rng(seed))


# The kinds


@pytest.mark.parametrize("decibel", [20, 0, -5, 2.5])
@pytest.mark.parametrize("size", [0.3, 1e-3])
def test_the_measured_ratio_of_signal_to_noise_is_the_level(decibel, size):
    wave = wave_of(size=size)
    noise = hit(f"audio:snr:{decibel}", wave) - wave
    ratio = np.mean(wave.astype(np.float64) ** 2) / np.mean(noise.astype(np.float64) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(decibel, abs=1e-2)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2  # white: each quarter of the band has as much as the others
    assert np.allclose([part.mean() for part in np.array_split(spectrum, 4)], spectrum.mean(), rtol=0.1)
    assert abs(noise.mean()) < 4 * noise.std() / len(noise) ** 0.5


def test_silence_stays_silent_at_every_ratio():
    silent = np.zeros(100, np.float32)
    assert np.array_equal(hit("audio:snr:5", silent), silent)


@pytest.mark.parametrize("level, deviation", DEVIATIONS.items())
def test_gaussian_noise_has_its_deviation(level, deviation):
    wave, grey = wave_of(3), np.full((3, 200, 200), 0.5, np.float32)
    for noise in (hit(f"audio:gaussian:{level}", wave) - wave, unclipped("gaussian", level, grey) - grey):
        assert noise.std() == pytest.approx(deviation, rel=0.02) and abs(noise.mean()) < 0.02 * deviation
    if level == 1:  # six deviations from black and from white
        assert (hit("visual:gaussian:1", grey) - grey).std() == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize("deviation", [0.1, 3.0])
def test_noise_on_values_is_in_their_units(deviation):
    series = 50 * wave_of(3).reshape(-1, 10)
    noise = hit(f"series:gaussian_feat:{deviation}", series) - series
    assert noise.std() == pytest.approx(deviation, rel=0.02) and noise.dtype == np.float32


@pytest.mark.parametrize("level, photons", zip(range(1, 6), (60, 25, 12, 5, 3), strict=True))
def test_shot_noise_is_poissons(level, photons):
    grey = np.full((3, 200, 200), 0.3, np.float32)
    found = unclipped("shot", level, grey)
    assert found.mean() == pytest.approx(0.3, rel=0.02) and found.var() == pytest.approx(0.3 / photons, rel=0.03)
    np.testing.assert_allclose(found * photons, np.rint(found * photons), atol=1e-4)
    assert not hit(f"visual:shot:{level}", np.zeros((3, 8, 8), np.float32)).any()


@pytest.mark.parametrize("level, share", zip(range(1, 6), (0.03, 0.06, 0.09, 0.17, 0.27), strict=True))
def test_impulses_are_half_black_and_half_white(level, share):
    grey = np.full((3, 200, 200), 0.5, np.float32)
    found = hit(f"visual:impulse:{level}", grey)
    for value in (0, 1):
        assert (found == value).mean() == pytest.approx(share / 2, abs=4 * (share / 2 / grey.size) ** 0.5)
    assert ((found == 0.5) | (found == 0) | (found == 1)).all()
    assert 0 < np.corrcoef((found != 0.5).reshape(3, -1))[0, 1] + 0.03 < 0.06  # each channel for itself


@pytest.mark.parametrize("level, factor", zip(range(1, 6), (0.4, 0.3, 0.2, 0.1, 0.05), strict=True))
def test_contrast_shrinks_the_distances_from_each_channels_mean(level, factor):
    picture = picture_of() * np.float32([[[0.2]], [[1.0]], [[0.6]]])
    found = hit(f"visual:contrast:{level}", picture)
    for before, after in zip(picture, found, strict=True):
        assert after.mean() == pytest.approx(before.mean(), rel=1e-4)
        np.testing.assert_allclose(after - after.mean(), factor * (before - before.mean()), atol=1e-5)


@pytest.mark.parametrize("level", range(1, 6))
def test_brightness_raises_the_value_of_hsv(level):
    picture = picture_of()
    picture[:, :4, :4] = 0
    hsv = matplotlib.colors.rgb_to_hsv(picture.transpose(1, 2, 0))
    hsv[..., 2] = np.clip(hsv[..., 2] + level / 10, 0, 1)
    wanted = matplotlib.colors.hsv_to_rgb(hsv).transpose(2, 0, 1)
    np.testing.assert_allclose(hit(f"visual:brightness:{level}", picture), wanted, atol=1e-5)


@pytest.mark.parametrize("level, size", [(2, 2), (5, 4)])  # half and a quarter of the sides
@pytest.mark.parametrize("height, width", [(64, 64), (32, 64), (64, 16)])
def test_pixels_become_means_of_boxes(level, size, height, width):
    picture = np.random.default_rng(0).random((3, height, width)).astype(np.float32)
    means = picture.reshape(3, height // size, size, width // size, size).mean(axis=(2, 4))
    wanted = means.repeat(size, axis=1).repeat(size, axis=2)
    np.testing.assert_allclose(hit(f"visual:pixelate:{level}", picture), wanted, atol=1.6 / 255)  # rounded three times


@pytest.mark.parametrize("level, quality", zip(range(1, 6), (25, 18, 15, 10, 7), strict=True))
def test_jpeg_is_that_of_pillow(level, quality):
    stored = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "JPEG", quality=quality)
    wanted = np.asarray(Image.open(file)).transpose(2, 0, 1) / 255
    found = hit(f"visual:jpeg:{level}", (stored.transpose(2, 0, 1) / 255).astype(np.float32))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_salt_and_pepper():
    grey = np.full((50, 3, 40, 40), 0.5, np.float32)
    for level, share in ((5, 0.5), (10, 1.0), (2.5, 0.25)):
        found = hit(f"visual:saltpepper:{level}", grey, frames=range(50))
        assert (found == found[:, :1]).all()  # all channels of a pixel
        struck = [frame for frame in found if (frame != 0.5).any()]
        assert abs(len(struck) - 50 * share) <= 4 * (50 * share * (1 - share)) ** 0.5
        for value in (0, 1):
            assert np.mean([frame[0] == value for frame in struck]) == pytest.approx(0.05, rel=0.1)


def test_qmfs_noise_is_the_same_in_all_channels():
    grey = np.full((3, 200, 200), 0.5, np.float32)
    noise = unclipped("gaussian_qmf", 5, grey) - grey
    assert noise.std() == pytest.approx(50 / 255, rel=0.02) and np.ptp(noise, axis=0).max() < 1e-6


def test_words_are_dropped_and_the_others_move_up():
    words = words_of(2000, padding=50)
    for share in (0.3, 0.9):
        found = hit(f"text:drop:{share}", words)
        kept = found[found != 0]
        assert found.shape == words.shape and found.dtype == words.dtype and not found[len(kept) :].any()
        assert (np.diff(kept) > 0).all() and kept.min() >= 2
        assert abs(len(kept) - 2000 * (1 - share)) < 4 * (2000 * share * (1 - share)) ** 0.5
    assert not hit("text:drop:1", words).any()


@pytest.mark.parametrize("modality, kind", EVERY, ids=map(":".join, EVERY))
def test_no_noise_is_no_change_and_pictures_stay_pictures(modality, kind):
    x = INPUTS[FORMS[modality]]
    level = (KINDS[FORMS[modality]][kind].sweep or [10])[-1]
    if kind != "snr":
        assert hit(f"{modality}:{kind}:0", x) is x
    assert hit(f"{modality}:{kind}:{level}@0", x) is x
    before, found = x.copy(), hit(f"{modality}:{kind}:{level}", x)
    assert np.array_equal(x, before) and not np.array_equal(found, x)
    assert found.shape == x.shape and found.dtype == x.dtype
    if modality == "visual":
        assert found.min() >= 0 and found.max() <= 1
        if kind in ("gaussian", "gaussian_qmf"):  # clipped, not scaled: it is both
            assert found.min() == 0 and found.max() == 1


# What is drawn


@pytest.mark.parametrize("text", ["audio:snr:5", "visual:gaussian:3", "series:gaussian_feat:1"])
def test_what_is_drawn_depends_on_seed_and_name_and_kind_alone(text):
    modality = text.split(":")[0]
    x = 0.5 + 0 * INPUTS[FORMS[modality]]
    noises = {}
    for key, (seed, name) in {"one": (0, "a"), "again": (0, "a"), "other": (0, "b"), "seed": (1, "a")}.items():
        torch.manual_seed(len(noises))
        np.random.seed(len(noises))
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        noises[key] = (hit(text, x, name, seed) - x).ravel()
        assert torch.equal(states[0], torch.get_rng_state()) and np.array_equal(states[1], np.random.get_state()[1])
    assert np.array_equal(noises["one"], noises["again"])
    for key in ("other", "seed"):
        assert abs(np.corrcoef(noises[key], noises["one"])[0, 1]) < 0.05
    with_others = Noise(FORMS, ["audio:gaussian:1@0", "text:drop:1", text]).on(modality, "a")(x) - x
    assert np.array_equal(with_others.ravel(), noises["one"])


def test_two_levels_of_a_kind_draw_the_same():
    wave = wave_of()
    quiet, loud = (hit(f"audio:snr:{level}", wave) - wave for level in (5, 0))
    np.testing.assert_allclose(loud, quiet * 10**0.25, rtol=1e-3, atol=1e-6)


def test_modalities_of_one_form_draw_apart():
    wave = wave_of()
    noise = Noise({"left": "sound", "right": "sound"}, ["any:gaussian:3"])
    left, right = (noise.on(name, "clip")(wave) - wave for name in ("left", "right"))
    assert left.any() and right.any() and abs(np.corrcoef(left, right)[0, 1]) < 0.05


def test_noise_belongs_to_the_frames_of_the_recording():
    frames = np.full((3, 3, SIDE, SIDE), 0.5, np.float32)
    noise = Noise(FORMS, ["visual:gaussian:1"])
    one, other = noise.on("visual", "clip", [1, 4, 6])(frames), noise.on("visual", "clip", [4, 5, 6])(frames)
    assert np.array_equal(one[1], other[0]) and np.array_equal(one[2], other[2])
    assert len({frame.tobytes() for frame in (*one, other[1])}) == 4


def test_the_share_that_is_hit():
    wave, count = wave_of(0.01), 1000
    struck = {}
    for share in (0, 0.3, 0.6, 1):
        on = Noise(FORMS, [f"audio:snr:5@{share}"]).on
        struck[share] = {i for i in range(count) if on("audio", f"clip{i}")(wave) is not wave}
        assert abs(len(struck[share]) - share * count) <= 4 * (count * share * (1 - share)) ** 0.5
    assert struck[0] < struck[0.3] < struck[0.6] < struck[1]
    frames = np.full((4, 3, 8, 8), 0.5, np.float32)  # of a sample that is hit, every frame is
    on = Noise(FORMS, ["visual:gaussian:1@0.5"]).on
    found = [(on("visual", f"clip{i}", range(4))(frames) != frames).any(axis=(1, 2, 3)) for i in range(50)]
    assert {tuple(frames) for frames in found} == {(True,) * 4, (False,) * 4}


def test_noise_upon_noise():
    wave = wave_of()
    both = Noise(FORMS, ["audio:snr:5"]).then(["audio:snr:5", "audio:gaussian:2"], seed=1).on("audio", "clip")(wave)
    first = hit("audio:snr:5", wave)
    second = hit("audio:snr:5", first, seed=1)
    assert np.array_equal(both, hit("audio:gaussian:2", second, seed=1))
    assert Noise(FORMS, ["audio:snr:5"]).on("visual", "clip")(wave) is wave


# Data sets


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
