"""The metrics of localisation against slow computations, by hand, and in their limits."""

from itertools import permutations, product

import cv2
import numpy as np
import pytest
from sklearn.metrics import auc as area

from localisation import metrics
from localisation.data import Object

SIZE = (10, 8)  # height, width


def boxes(count, draws, categories=4, sounding=None):
    """Objects at random places, partly beyond the frame."""
    items = []
    for number in range(count):
        box = tuple(draws.uniform(0, 0.7, 2)) + tuple(draws.uniform(0.15, 0.5, 2))  # a pixel or more
        sounds = draws.random() < 0.5 if sounding is None else sounding
        items.append(Object(number % categories, box, bool(sounds)))
    return tuple(items)


@pytest.fixture
def draws():
    return np.random.default_rng(0)


def test_a_mask_has_the_pixels_whose_middle_is_in_a_box(draws):
    for _ in range(50):
        items = boxes(3, draws)
        found = metrics.mask(items, SIZE)
        for row, column in np.ndindex(SIZE):
            x, y = (column + 0.5) / SIZE[1], (row + 0.5) / SIZE[0]
            inside = [
                left <= x < left + width and top <= y < top + height
                for left, top, width, height in (item.box for item in items)
            ]
            assert found[row, column] == any(inside)


def test_a_box_between_the_middles_and_one_at_the_edge_have_a_pixel():
    for box in ((0.52, 0.52, 0.01, 0.01), (1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)):
        assert metrics.mask([Object(0, box, True)], SIZE).sum() == 1


def test_iou_is_the_published_fraction(draws):
    for ratio in (0.1, 0.5):
        values, truth = draws.random(SIZE), draws.random(SIZE) < 0.4
        found = values > ratio * values.max()
        expected = (found * truth).sum() / (truth.sum() + (found * ~truth).sum())
        assert metrics.iou(values, truth, ratio) == pytest.approx(expected)
    assert metrics.iou(np.full(SIZE, 0.3), truth, 0.5) == pytest.approx(truth.mean())  # the whole image
    assert metrics.iou(np.zeros(SIZE), truth, 0.5) == 0


def halves():
    """A frame of 2 x 2 quarters: category 0 sounds at the left above and below, 1 at the right above, 2 is silent."""
    return (
        Object(0, (0.0, 0.0, 0.5, 0.5), True),
        Object(0, (0.0, 0.5, 0.5, 0.5), True),
        Object(1, (0.5, 0.0, 0.5, 0.5), True),
        Object(2, (0.5, 0.5, 0.5, 0.5), False),
    )


def test_ciou_and_nsa_by_hand():
    maps = np.zeros((4, 4, 4), np.float32)
    maps[0, :, :2] = 1  # both boxes of category 0
    maps[1, :, 2:] = 1  # twice the box of category 1
    maps[2, 2:, 2:] = 0.5  # the silent object: a quarter of the image is not quiet
    maps[3] = 0.2  # quiet is at most 0.2
    assert metrics.ciou(maps, halves(), 0.5) == pytest.approx((1 + 0.5) / 2)
    assert metrics.nsa(maps, halves()) == pytest.approx((0.75 + 1) / 2)
    assert metrics.nsa(maps, halves(), quiet=0.1) == pytest.approx((0.75 + 0) / 2)
    assert np.isnan(metrics.ciou(maps, halves()[3:], 0.5))
    assert np.isnan(metrics.nsa(maps[:2], halves()))


def test_a_category_with_an_object_that_sounds_is_not_among_the_silent_ones():
    items = (*halves(), Object(0, (0.5, 0.5, 0.2, 0.2), False))
    assert set(metrics.group_by_category(items, sounding=True)) == {0, 1}
    assert set(metrics.group_by_category(items, sounding=False)) == {2}
    assert [item.sounding for item in metrics.group_by_category(items, sounding=True)[0]] == [True, True]


def test_auc_is_the_trapezoid_of_the_successes(draws):
    values = np.append(draws.random(17), [0.3, 0.5])
    assert metrics.success([0.2, 0.3, 0.7], 0.3) == pytest.approx(2 / 3)
    shares = [(values >= 0.05 * step - 1e-12).mean() for step in range(21)]
    assert metrics.auc(values) == pytest.approx(area(np.arange(21) * 0.05, shares))
    assert metrics.auc(np.ones(3)) == pytest.approx(1) and metrics.auc(np.zeros(3)) == pytest.approx(0.025)


@pytest.mark.parametrize(("categories", "count"), [(4, 4), (3, 5), (4, 2)])
def test_matching_is_the_best_of_all_assignments(draws, categories, count):
    for _ in range(20):
        labels, clusters = draws.integers(categories, size=40), draws.integers(count, size=40)
        shares = np.array(
            [[np.mean(clusters[labels == k] == c) if (labels == k).any() else 0 for c in range(count)]
             for k in range(categories)]
        )  # fmt: skip
        few, many = sorted((categories, count))
        best = max(
            sum(shares[(k, c) if categories <= count else (c, k)] for k, c in zip(range(few), order, strict=True))
            for order in permutations(range(many), few)
        )
        matching = metrics.match(labels, clusters, categories, count)
        firsts = [c for c, k in enumerate(matching) if k >= 0]
        if categories <= count:  # of the clusters of a category, one stands for it, the others by their majority
            chosen = max(
                sum(shares[k, c] for k, c in enumerate(order))
                for order in product(*[[c for c in firsts if matching[c] == k] for k in range(categories)])
            )
        else:
            assert len(firsts) == count and len(set(matching)) == count
            chosen = sum(shares[matching[c], c] for c in firsts)
        assert chosen == pytest.approx(best)


def test_a_further_cluster_goes_to_its_majority_and_an_empty_one_to_none():
    labels = np.array([0] * 20 + [1] * 5)
    clusters = np.array([0] * 17 + [2] * 3 + [1] * 3 + [2] * 2)  # cluster 2: 3 of 20 and 2 of 5; cluster 3 is empty
    assert metrics.match(labels, clusters, 2, 4).tolist() == [0, 1, 0, -1]


def test_a_score_is_the_share_of_the_category_and_not_a_count():
    labels = np.array([0] * 10 + [1] * 2)
    clusters = np.array([0] * 4 + [1] * 6 + [1] * 2)  # cluster 1: 6 of 10 of category 0, and all of category 1
    assert metrics.match(labels, clusters, 2, 2).tolist() == [0, 1]


def test_a_category_has_the_sum_of_its_clusters(draws):
    maps = draws.random((3, 4, 2, 2))
    found = metrics.class_maps(maps, np.array([1, -1, 0, 1]), 3)
    assert np.allclose(found, np.stack([maps[:, 2], maps[:, 0] + maps[:, 3], 0 * maps[:, 0]], axis=1))


def test_auroc_counts_pairs(draws):
    maps = np.round(draws.random((12, 4, 3, 3)), 1)
    objects = [boxes(4, draws) for _ in range(12)]
    means = maps.mean(axis=(2, 3))
    parts = {heard: [means[i, o.category] for i, items in enumerate(objects) for o in items if o.sounding == heard]
             for heard in (True, False)}  # fmt: skip
    wins = np.mean([(a > b) + (a == b) / 2 for a, b in product(parts[True], parts[False])])
    assert metrics.auroc(maps, objects) == pytest.approx(wins) and wins != pytest.approx(0.5)
    assert np.isnan(metrics.auroc(maps, [boxes(4, draws, sounding=True)] * 12))


def test_recall_by_hand_and_of_equal_values():
    means = np.array([[0.9, 0.1, 0.8, 0.3], [0.1, 0.5, 0.5, 0.5]])
    assert metrics.recall(means[:1], [halves()]) == 0.5  # of 0 and 1, the first is among 0 and 2
    assert metrics.recall(means[1:], [halves()]) == pytest.approx(1 / 3)  # 1 has two of three places, 0 none
    assert metrics.recall(np.ones((2, 4)), [halves(), ()]) == pytest.approx(0.5)
    assert np.isnan(metrics.recall(means, [(), ()]))


def test_maps_are_enlarged_as_opencv_does(draws):
    maps = draws.random((2, 3, 4, 5)).astype(np.float32)
    large = metrics.resize(maps, (16, 20))
    assert np.allclose(large[1, 2], cv2.resize(maps[1, 2], (20, 16)), atol=1e-6)


def test_evaluation_is_of_the_frames_with_a_box_that_sounds(draws, monkeypatch):
    maps = draws.random((5, 4, 3, 3)).astype(np.float32)
    several = boxes(2, draws, sounding=True) + boxes(4, draws, sounding=False)[2:]
    objects = [halves(), (), several, halves()[3:], boxes(3, draws, sounding=True)]
    found = metrics.evaluate(maps, objects, SIZE, 0.5)
    kept = [0, 2, 4]
    large = metrics.resize(maps, SIZE)
    overlaps = [metrics.ciou(large[i], objects[i], 0.5) for i in kept]
    assert found["CIoU@0.3"] == metrics.success(overlaps, 0.3) and found["AUC"] == metrics.auc(overlaps)
    assert found["NSA"] == pytest.approx(np.mean([metrics.nsa(large[i], objects[i]) for i in kept]))
    assert found["AUROC"] == metrics.auroc(maps[kept], [objects[i] for i in kept])
    assert found["recall"] == metrics.recall(maps[kept].mean(axis=(2, 3)), [objects[i] for i in kept])
    assert (found["frames"], found["without_box"]) == (5, 2)
    other = metrics.evaluate(maps, objects, SIZE, 0.5, quiet=0.6)
    assert other["NSA"] == pytest.approx(np.mean([metrics.nsa(large[i], objects[i], 0.6) for i in kept]))
    monkeypatch.setattr(metrics, "BATCH", 2)
    assert metrics.evaluate(maps, objects, SIZE, 0.5) == found
    nothing = metrics.evaluate(maps[1:2], objects[1:2], SIZE, 0.5)
    assert np.isnan(nothing["CIoU@0.3"]) and nothing.keys() == found.keys() and nothing["without_box"] == 1


def test_a_solo_frame_has_one_map_for_all_that_sounds():
    maps = np.zeros((4, 4, 4), np.float32)
    maps[0, :, :2] = maps[0, 2:, 2:] = 1  # two of the three quarters that sound, and the fourth
    maps[1, :2, :2] = 1  # one of the three
    found = metrics.evaluate_solo(maps, [halves(), halves(), (), halves()[3:]], (8, 8), 0.6)
    assert found == {"IoU@0.5": 0.5, "AUC": metrics.auc([0.5, 1 / 3]), "frames": 4, "without_box": 2}
    assert np.isnan(metrics.evaluate_solo(maps, [()] * 4, (8, 8), 0.5)["AUC"])


def test_the_reference_maps_know_no_sound(draws):
    agnostic = draws.random((6, 4, 8)).astype(np.float32)
    objects = [halves()] * 6
    rows = {}
    for name, maps in metrics.references(agnostic, 4).items():
        assert maps.shape == (6, 4, 4, 8)
        rows[name] = metrics.evaluate(maps, objects, SIZE, 0.5)
        assert rows[name]["AUROC"] == pytest.approx(0.5) and rows[name]["recall"] == pytest.approx(0.5)
    assert rows["uniform"]["AUC"] == rows["whole image"]["AUC"]
    assert rows["uniform"]["NSA"] == rows["whole image"]["NSA"] == 0  # 1/4 is not quiet
    assert metrics.evaluate(metrics.references(agnostic, 6)["uniform"], objects, SIZE, 0.5)["NSA"] == 1
    centre = metrics.references(agnostic, 4)["centre box"]
    assert centre[:, :, 1:3, 2:6].all() and centre.sum() == centre[:, :, 1:3, 2:6].size
    assert np.array_equal(metrics.references(agnostic, 4)["class-agnostic"][:, 3], agnostic)


def test_a_map_that_marks_what_sounds_has_everything(draws):
    objects = [halves(), boxes(4, draws, sounding=True)]
    maps = np.zeros((2, 6, *SIZE), np.float32)
    for frame, items in zip(maps, objects, strict=True):
        for number, its in metrics.group_by_category(items, sounding=True).items():
            frame[number][metrics.mask(its, SIZE)] = 1
    found = metrics.evaluate(maps, objects, SIZE, 0.5)
    assert [found[name] for name in ("CIoU@0.3", "AUC", "NSA", "AUROC", "recall")] == pytest.approx([1] * 5)
