"""Noise on the inputs: its measured size, what it depends on, and what the grammar refuses."""

import io

import matplotlib.colors
import numpy as np
import pytest
import torch
from helpers.sounds import wave_of
from PIL import Image

from dataset.recipes.corrupt import KINDS, Noise

FORMS = {"audio": "sound", "visual": "picture", "series": "values", "text": "words"}
SIDE = 64
DEVIATIONS = {1: 0.08, 2: 0.12, 3: 0.18, 4: 0.26, 5: 0.38}


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
