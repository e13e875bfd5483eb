"""The contact sheet: what its pictures, boxes and titles say."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgba

from localisation import pictures
from localisation.metrics import mask
from localisation.pictures import Shown, sheet
from localisation.scenes import CATEGORIES, Scenes

NAMES = [category.name for category in CATEGORIES]


@pytest.fixture(scope="module")
def clips():
    args = Namespace(image_size=32, scenes_solo=36, scenes_mixed=8, scenes_seed=0)
    return Scenes.solo(args, "test"), Scenes.mixed(args, "test")


@pytest.fixture(scope="module")
def axes(clips):
    """Nine solo clips, the first of which has its map on the object; two mixed ones, of which the second is wrong."""
    solo, mixed = clips
    frames = [torch.stack([part.frame(i) for i in range(len(part))]) for part in clips]
    objects = [[part.objects(i) for i in range(len(part))] for part in clips]
    alone = np.full((9, 32, 32), 0.5, np.float32)
    left, top, width, height = (round(32 * share) for share in objects[0][0][0].box)
    alone[0] = 0
    alone[0, top : top + height, left : left + width] = 1
    alone[2, :, :16], alone[2, :, 16:] = 0.1, 1
    several = np.full((2, 6, 32, 32), 1 / 6, np.float32)
    for item in objects[1][0]:
        several[0, item.category, :8] = 0.9 if item.sounding else 0.1
    several[0, objects[1][0][[item.sounding for item in objects[1][0]].index(False)].category, 20, 20] = 1
    for item in objects[1][1]:
        several[1, item.category] = 0.1 if item.sounding else 0.9
    figure = sheet(Shown(frames[0], alone, objects[0]), Shown(frames[1], several, objects[1]), NAMES, 0.1)
    upper, lower = (np.array(part.axes) for part in figure.subfigs)
    return upper.reshape(4, 8), lower.reshape(2, 6)


def test_a_solo_clip_has_its_frame_and_below_it_its_map(axes, clips):
    upper, solo = axes[0], clips[0]
    for number in (0, 3, 8):
        above, below = upper[2 * (number // 8), number % 8], upper[2 * (number // 8) + 1, number % 8]
        assert above.get_title() == NAMES[solo.labels[number]] and len(above.patches) == len(below.patches) == 2
        shown = np.asarray(above.images[0].get_array())
        assert np.allclose(shown, solo.frames[number].permute(1, 2, 0) / 255, atol=1e-6)
    assert upper[1, 0].get_title() == "IoU 1.00" and upper[1, 3].get_title() != "IoU 1.00"
    assert not upper[2, 1].images  # there are nine
    (line,) = upper[1, 0].collections
    (path,) = line.get_paths()
    left, top, width, height = (32 * share for share in solo.objects(0)[0].box)
    assert np.allclose(path.get_extents().bounds, (left - 0.5, top - 0.5, width, height))
    assert not upper[1, 3].collections  # equal values have no line


def laid_over(frame, values, least, most):
    """What `lay_over` shows of a frame (H, W, 3), by its formula."""
    strength = np.clip((values - least) / (most - least), 0, 1)[:, :, None]
    faint = 0.2 + 0.7 * (0.6 * frame.mean(axis=2, keepdims=True) + 0.4 * frame)
    return (1 - 0.8 * strength) * faint + 0.8 * strength * colormaps["inferno"](0.25 + 0.7 * strength[:, :, 0])[
        :, :, :3
    ]


def test_a_solo_map_is_clear_at_zero(axes, clips):
    for number, values in ((0, mask(clips[0].objects(0), (32, 32))), (2, np.where(np.arange(32) < 16, 0.1, 1)[None])):
        above, below = (np.asarray(axes[0][line, number].images[0].get_array()) for line in (0, 1))
        assert np.allclose(below, laid_over(above, np.broadcast_to(values, (32, 32)), 0, 1), atol=1e-6)


def test_boxes_say_what_sounds(axes, clips):
    for row, number in zip(axes[1], range(2), strict=True):
        items = clips[1].objects(number)
        for axis in row[:2]:
            boxes = axis.patches[1::2]  # each after its halo
            assert [box.get_linestyle() == "--" for box in boxes] == [not item.sounding for item in items]
            for box, item in zip(boxes, items, strict=True):
                place = (box.get_x() + 0.5, box.get_y() + 0.5, box.get_width(), box.get_height())
                assert np.allclose(np.divide(place, 32), item.box)
                assert box.get_edgecolor() == to_rgba(pictures.SOUNDING if item.sounding else pictures.SILENT)


def test_titles_of_mixed_clips_say_what_is_and_what_the_maps_say(axes, clips):
    for row, number in zip(axes[1], range(2), strict=True):
        items = clips[1].objects(number)
        heard = [NAMES[item.category] for item in items if item.sounding]
        assert row[0].get_title() == "\n".join(f"♪ {name}" for name in heard)
        said = row[1].get_title().split("\n")
        assert all(line.startswith("maps: ") and line[-1] == "✓✗"[number] for line in said) and len(said) == 2
        assert {line[6:-2] in heard for line in said} == {number == 0}
        for axis, item in zip(row[2:], items, strict=True):
            name, state = axis.get_title().split("\n")
            assert name == NAMES[item.category] and state.startswith("♪ sounds" if item.sounding else "silent")
            assert len(axis.patches) == 2
    assert "mean 0.35" in axes[1][0, 2 + [item.sounding for item in clips[1].objects(0)].index(True)].get_title()


def test_the_maps_of_a_frame_share_one_scale_that_begins_at_chance(axes, clips):
    items, row = clips[1].objects(0), axes[1][0]
    frame = np.asarray(row[0].images[0].get_array())
    heard = np.full((32, 32), 1 / 6)
    heard[:8] = 0.9
    peak = [item.sounding for item in items].index(False)  # a silent object, of which one pixel is the greatest of all
    for place, (axis, item) in enumerate(zip(row[2:], items, strict=True)):
        values = heard if item.sounding else np.full((32, 32), 0.1)  # what is below chance is as clear as chance itself
        values = np.where((np.arange(1024).reshape(32, 32) == 660) & (place == peak), 1, values)
        assert np.allclose(axis.images[0].get_array(), laid_over(frame, values, 1 / 6, 1), atol=1e-6)
    assert np.allclose(row[1].images[0].get_array(), laid_over(frame, heard, 1 / 6, 1), atol=1e-6)
