"""The generated scenes, and the pairs that training reads of them."""

from argparse import ArgumentParser, Namespace

import numpy as np
import pytest
import torch

from dataset.loader import make_loader
from localisation import scenes
from localisation.data import Clips, Pairs
from localisation.scenes import CATEGORIES, Scenes
from utils.errors import DataError


def flags(**changes):
    parser = ArgumentParser()
    Scenes.add_args(parser)
    return Namespace(**vars(parser.parse_args([])) | {"image_size": 64} | changes)


@pytest.fixture(scope="module")
def solo():
    return Scenes.solo(flags(scenes_solo=160), "test")


@pytest.fixture(scope="module")
def mixed():
    return Scenes.mixed(flags(scenes_mixed=480), "test")


def same(one, other):
    return torch.equal(one[0]["audio"], other[0]["audio"]) and torch.equal(one[0]["visual"], other[0]["visual"])


@pytest.mark.parametrize("kind", ["solo", "mixed"])
def test_a_clip_depends_on_seed_part_and_number_alone(kind):
    def make(part, **changes):
        args = flags(**{"image_size": 32, f"scenes_{kind}": 4} | changes)
        return getattr(Scenes, kind)(args, part)

    train = make("train")
    assert len(train) == 4 and len(make("test")) == 1
    assert all(same(train[i], make("train", **{f"scenes_{kind}": 6})[i]) for i in range(4))
    assert not same(train[0], train[1]) and not same(train[0], make("test")[0])
    assert not same(train[0], make("train", scenes_seed=1)[0])


def test_solo_and_mixed_scenes_of_the_same_number_differ():
    args = flags(scenes_solo=1, scenes_mixed=1)
    solo, mixed = (scenes.draws(args, "train", kind)[0].random(4) for kind in (0, 1))
    assert not np.isclose(solo, mixed).any()


def test_shapes_and_scale(solo, mixed):
    for clips in (solo, mixed):
        inputs, label, position = clips[3]
        assert inputs["audio"].shape == (1, 48, 32) and inputs["visual"].shape == (3, 64, 64)
        assert inputs["audio"].dtype == inputs["visual"].dtype == torch.float32
        assert (label, position) == (0, 3)
        assert clips.sounds.isfinite().all() and clips.sounds.abs().max() < 5
        assert inputs["visual"].abs().max() < 3 and abs(inputs["visual"].mean()) < 1


def test_training_holds_nothing_to_read_a_category_from():
    args = flags(scenes_solo=6, scenes_mixed=6)
    alone, several = Scenes.solo(args, "train"), Scenes.mixed(args, "train")
    assert all(clips.objects(i) == () for clips in (alone, several) for i in range(6))
    assert {sample[1] for clips in (alone, several) for sample in map(clips.__getitem__, range(6))} == {0}
    assert alone.labels.shape == (6,) and several.labels is None


def test_a_solo_scene_has_one_object_that_sounds(solo):
    for i, label in enumerate(solo.labels):
        (item,) = solo.objects(i)
        assert item.category == label and item.sounding
        left, top, width, height = item.box
        assert 0 <= left < left + width <= 1 and 0 <= top < top + height <= 1
    assert set(solo.labels) == set(range(6)) and solo.ratio == 0.1


def test_boxes_are_around_the_colour_of_their_category(solo, mixed):
    for clips, count in ((solo, 40), (mixed, 20)):
        for i in range(count):
            red, green, blue = frame = clips.frames[i].float()
            hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue) / (2 * torch.pi)
            vivid = frame.amax(0) - frame.amin(0) > 130
            for item in clips.objects(i):
                like = ((hue - CATEGORIES[item.category].hue + 0.5) % 1 - 0.5).abs() < 0.06
                rows, columns = torch.nonzero(vivid & like, as_tuple=True)
                left, top, width, height = (64 * share for share in item.box)
                inside = (columns >= left) & (columns < left + width) & (rows >= top) & (rows < top + height)
                share = inside.sum() / (width * height)
                assert share > 0.2 and share > 6 * (~inside).sum() / (64**2 - width * height)


def test_a_box_holds_the_pixels_that_are_covered_by_half_or_more(monkeypatch):
    mask = np.zeros((32, 32))
    mask[3:20, 5:11], mask[4:19, 6:10] = 0.4, 0.5
    monkeypatch.setattr(scenes, "drawn", lambda *_: mask)
    _, box = scenes.picture(0, 32, (0.4, 0.5), np.random.default_rng(0))
    assert np.multiply(box, 32) == pytest.approx([6, 4, 4, 15])


AREAS = [np.pi, 1.6**2, 0.9 * 1.6, 2 * 1.9 * 0.66 - 0.66**2, 0.75 * np.pi, np.pi * (0.68**2 + 0.32**2 / 2)]


@pytest.mark.parametrize("category", range(6))
def test_shapes_have_their_area_at_any_turn(category):
    for turn in (0.0, 0.4):
        mask = scenes.drawn(category, 64, (30.0, 34.0), 20.0, turn)
        assert mask.sum() / 20**2 == pytest.approx(AREAS[category], rel=0.02)
        assert 0 <= mask.min() and mask.max() <= 1


def test_a_box_holds_all_of_a_mask_and_no_more():
    mask = np.zeros((10, 20), bool)
    mask[2, 5] = mask[6, 15] = True
    assert scenes.box_of(mask) == pytest.approx((5 / 20, 2 / 10, 11 / 20, 5 / 10))


def test_a_mixed_scene_has_four_categories_in_four_quarters_and_two_sound(mixed):
    places = np.zeros(4)
    for i in range(len(mixed)):
        items = mixed.objects(i)
        assert len({item.category for item in items}) == 4 and sum(item.sounding for item in items) == 2
        for place, item in enumerate(items):
            left, top, width, height = item.box
            column, row = place % 2 / 2, place // 2 / 2
            assert column <= left and left + width <= column + 0.5 and row <= top and top + height <= row + 0.5
            assert 0.15 < max(width, height) < 0.5
        places += [item.sounding for item in items]
    assert np.abs(places / len(mixed) - 0.5).max() < 0.15 and mixed.ratio == 0.5  # the place says nothing


def test_a_mixture_has_the_sounds_of_what_sounds_and_no_others(solo, mixed):
    templates = np.stack([solo.sounds[solo.labels == k, 0].mean(dim=(0, 1)) for k in range(6)])
    bands = (templates - templates.mean(axis=0)).argmax(axis=1)  # where each category stands out
    assert len(set(bands)) == 6
    heard, silent = [], []
    for i in range(len(mixed)):
        level = mixed.sounds[i, 0].mean(dim=0)
        for item in mixed.objects(i):
            (heard if item.sounding else silent).append(float(level[bands[item.category]]))
    assert np.mean(heard) - np.mean(silent) > 1  # in powers of ten


def test_pitch_loudness_and_noise_of_a_tone():
    waves = np.stack([scenes.tone(2, np.random.default_rng(i)) for i in range(8)])
    loudness = 10 * np.log10((waves**2).mean(axis=1))
    assert loudness.min() > -6.2 and loudness.max() < 6.2 and loudness.std() > 1
    spectrum = np.abs(np.fft.rfft(waves * np.hanning(8000))) ** 2
    near = np.abs(np.arange(4001) - 185 * np.arange(1, 20)[:, None]).min(axis=0) <= 40
    peaks = spectrum.argmax(axis=1)
    semitones = 12 * np.log2(peaks / np.round(peaks / 185) / 185)
    assert near[peaks].all() and 0.5 < np.ptp(semitones) < 1.4  # half a semitone to each side, and what wavers
    share = spectrum[:, 3000:].sum(axis=1) * 4 / spectrum.sum(axis=1)  # noise is white; no harmonic is there
    assert 10 * np.log10(share.mean()) == pytest.approx(-20, abs=1)


def test_the_loudness_beats_as_often_as_the_category_says():
    for category, (_, _, _, _, beat) in enumerate(CATEGORIES):
        power = scenes.tone(category, np.random.default_rng(0)).reshape(100, 80).astype(float) ** 2
        loudness = np.abs(np.fft.rfft(power.mean(axis=1)))
        share = loudness[1:13] / loudness[0]  # of 1 to 12 Hz, of the mean
        assert (1 + share.argmax() == beat and share.max() > 0.3) if beat else share.max() < 0.3


@pytest.mark.parametrize(("size", "refused"), [(64, False), (63, True), (30, True), (32, False), (34, False)])
def test_a_size_that_gives_no_mosaic_is_refused(size, refused):
    said = Scenes.refusal(flags(image_size=size))
    assert (said is not None and f"--image_size {size}" in said) == refused


class Numbers(Clips):
    """Items whose frame is their own number."""

    def __init__(self, videos):
        super().__init__(videos, videos, 0.1, train=True)

    def sound(self, position):
        return torch.zeros(1, 2, 2)

    def frame(self, position):
        return torch.full((3, 1, 1), float(position)) + self.train * torch.rand(())


def test_every_item_of_another_video_is_as_likely(monkeypatch):
    pairs = Pairs(Numbers([3, 1, 3, 2, 1, 3]))
    for position, video in enumerate(pairs.videos):
        others = [i for i, other in enumerate(pairs.videos) if other != video]
        found = []
        for drawn in range(len(others)):
            monkeypatch.setattr(torch, "randint", lambda high, size, drawn=drawn: torch.tensor(drawn % high))
            found.append(pairs.foreign(position))
        assert sorted(found) == others
    assert pairs.labels is None and pairs.objects(0) == ()


def test_what_is_drawn_depends_on_seed_epoch_and_position():
    pairs = Pairs(Numbers(range(8)))

    def others(seed, epoch):  # {position: the number of the foreign frame}
        batches = make_loader(pairs, 3, 0, seed=seed, epoch=epoch, shuffle=True)
        found = {}
        for batch in batches:
            assert set(batch.inputs) == {"audio", "visual", "other"} and not batch.target.any()
            assert torch.equal(batch.inputs["visual"][:, 0, 0, 0].long(), batch.index)
            found |= dict(zip(batch.index.tolist(), batch.inputs["other"][:, 0, 0, 0].tolist(), strict=True))
        return found

    first = others(0, 0)
    assert first == others(0, 0) and first != others(0, 1) and first != others(1, 0)
    assert all(int(other) != position for position, other in first.items()) and len(first) == 8
    steps = {(int(other) - position) % 8 for epoch in range(3) for position, other in others(0, epoch).items()}
    assert len(steps) > 4  # not always the neighbour's


def test_plain_clips_are_without_draws_and_pairs():
    pairs = Pairs(Numbers(range(4)))
    plain = pairs.plain()
    assert set(plain[2][0]) == {"audio", "visual"} and float(plain[2][0]["visual"][0, 0, 0]) == 2
    assert pairs.clips.train and plain.labels is not None


def test_one_video_gives_no_pairs():
    with pytest.raises(DataError, match="not two videos"):
        Pairs(Numbers([1, 1]))
