"""The frame recipe against torchvision's transforms."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms
from torchvision.transforms import v2

from dataset.recipes.corrupt import unchanged
from dataset.recipes.frames import IMAGENET_MEAN, IMAGENET_STD, FrameTransform, random_boxes


def pictures(count, width, height):
    draws = np.random.default_rng(0)
    return [Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def torchvisions(*geometry):
    to_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return v2.Compose([*geometry, *to_tensor])


@pytest.mark.parametrize("width, height", [(48, 48), (60, 45)])
def test_evaluation_is_torchvisions_resize(width, height):
    images = pictures(3, width, height)
    expected = torch.stack([torchvisions(v2.Resize((32, 32)))(image) for image in images])
    frames = FrameTransform(32, False, (0.1, 1.0), True)(images)
    torch.testing.assert_close(frames, expected, rtol=0, atol=1e-6)
    assert frames.is_contiguous()


def test_training_is_the_drawn_crop_resized_and_half_of_the_frames_mirrored():
    images = pictures(64, 60, 45)
    torch.manual_seed(3)
    boxes = random_boxes([image.size for image in images], (0.3, 1.0))
    torch.manual_seed(3)
    frames = FrameTransform(32, True, (0.3, 1.0), True)(images)
    plain = torchvisions(v2.Resize((32, 32)))
    crops = torch.stack([plain(image.crop(box)) for image, box in zip(images, boxes, strict=True)])
    kept = [torch.allclose(frame, crop, atol=1e-6) for frame, crop in zip(frames, crops, strict=True)]
    turned = [torch.allclose(frame.flip(-1), crop, atol=1e-6) for frame, crop in zip(frames, crops, strict=True)]
    assert all(one != other for one, other in zip(kept, turned, strict=True)) and 20 <= sum(turned) <= 44
    torch.manual_seed(3)
    unmirrored = FrameTransform(32, True, (0.3, 1.0), False)(images)
    torch.testing.assert_close(unmirrored, crops, rtol=0, atol=1e-6)


# The second is nearly all fallback, the third nothing else: no crop of an admissible ratio is as large as asked.
@pytest.mark.parametrize("size, scale", [((480, 360), (0.08, 1.0)), ((48, 48), (0.9, 1.0)), ((300, 100), (0.5, 1.0))])
def test_crops_are_distributed_as_torchvisions(size, scale):
    count, image = 3000, Image.new("RGB", size)
    torch.manual_seed(0)
    theirs = [transforms.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = [(left, top, left + width, top + height) for top, left, height, width in theirs]
    ours = random_boxes([size] * count, scale)
    assert all(0 <= left < right <= size[0] and 0 <= top < bottom <= size[1] for left, top, right, bottom in ours)
    for side in range(4):
        assert ks_2samp([box[side] for box in ours], [box[side] for box in theirs]).pvalue > 1e-3
    if size == (300, 100):
        assert set(ours) == set(theirs)


@pytest.mark.parametrize("train", [True, False])
def test_pictures_without_noise_are_those_under_a_noise_that_changes_nothing(train):
    """Bit for bit, though they are mirrored before they are numbers, and the others after."""
    images = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (40, 50, 3), np.uint8)) for k in range(12)]
    transform, made = FrameTransform(32, train, (0.3, 1.0), True), []
    for corrupt in (unchanged, lambda x: x):
        torch.manual_seed(0)
        made.append(transform(images, corrupt))
    assert torch.equal(*made)
