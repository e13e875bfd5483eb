"""The maps of CSOL and the dictionary, against slow computations and in their limits."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from localisation.dictionary import SEEN, cluster, entries, object_features, object_mask
from localisation.model import build_localiser, makers_of, suppressed
from localisation.stage import probabilities, sum_by_category
from models.encoders import ConvNet, ResNet18, ResNet50
from models.multimodal import build_encoders


@pytest.fixture(scope="module")
def model():
    made = build_localiser("convnet", 3, seed=0).double().eval()
    torch.manual_seed(1)
    made.dictionary.copy_(torch.randn(3, 128))
    made.gain.data.fill_(0.7)
    return made


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(2)
    return {"audio": torch.randn(2, 128).double(), "visual": torch.randn(2, 128, 4, 5).double()}


def test_the_map_compares_the_sound_with_each_place(model, features):
    found = model.location(features["audio"], features["visual"])
    assert found.shape == (2, 4, 5)
    for i, y, x in itertools.product(range(2), range(4), range(5)):
        place = features["visual"][i, :, y, x].view(1, -1, 1, 1)
        seen, heard = model.embed_visual(place).flatten(), model.embed_audio(features["audio"][i])
        cosine = (seen @ heard) / (seen.norm() * heard.norm())
        torch.testing.assert_close(found[i, y, x], 5 * cosine)
    assert found.abs().max() <= 5  # a cosine times w, which begins with 5


def test_class_maps_are_products_with_the_dictionary(model, features):
    found = model.class_maps(features["visual"])
    for i, k, y, x in itertools.product(range(2), range(3), range(4), range(5)):
        expected = 0.7 * features["visual"][i, :, y, x] @ model.dictionary[k]
        torch.testing.assert_close(found[i, k, y, x], expected)


def test_suppression_silences_an_object_that_the_sound_does_not_match():
    """Two objects, of the categories 0 and 1, are seen alike; the sound is the first one's."""
    objects = torch.zeros(1, 2, 2, 4)
    objects[0, 0, :, :2] = objects[0, 1, :, 2:] = 4.0
    location = torch.full((1, 2, 4), -30.0)
    location[:, :, :2] = 30.0
    left = suppressed(objects, location)
    assert left[0, 1].abs().max() < 1e-10 and torch.equal(left[0, 0], objects[0, 0])
    assert objects.mean(dim=(2, 3)).softmax(dim=1).tolist() == [[0.5, 0.5]]
    assert left.mean(dim=(2, 3)).softmax(dim=1)[0, 0] > 0.85


def test_probabilities_sum_to_one_and_are_even_where_nothing_sounds(model, features):
    found = probabilities(model, features, scale=2.0)
    location = model.location(features["audio"], features["visual"])
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 4, 5).double())
    expected = (2 * model.class_maps(features["visual"]) * location.sigmoid()[:, None]).softmax(dim=1)
    torch.testing.assert_close(found, expected)
    without = probabilities(model, features, scale=2.0, suppression=False)
    torch.testing.assert_close(without, (2 * model.class_maps(features["visual"])).softmax(dim=1))
    assert without.std() > found.std()  # l is below 1: it flattens


def test_frames_of_a_pair_are_encoded_as_by_themselves(model):
    torch.manual_seed(3)
    inputs = {
        "audio": torch.randn(2, 1, 16, 8),
        "visual": torch.randn(2, 3, 16, 16),
        "other": torch.randn(2, 3, 16, 16),
    }
    inputs = {name: x.double() for name, x in inputs.items()}
    both = model.encode(inputs)
    maps = model.encoders["visual"].maps
    torch.testing.assert_close(both["visual"], maps(inputs["visual"]))
    torch.testing.assert_close(both["other"], maps(inputs["other"]))
    torch.testing.assert_close(
        both["audio"], model.encoders["audio"].maps(inputs["audio"]).flatten(2).max(dim=2).values
    )
    logits = model.classify(both)
    torch.testing.assert_close(logits["visual"], model.heads["visual"](both["visual"].flatten(2).mean(dim=2)))


@pytest.mark.parametrize(("make", "size"), [(ConvNet, 4), (ResNet18, 16), (ResNet50, 16)])
def test_the_last_stage_keeps_the_size(make, size):
    """The maps are twice as fine; those of a last stage of one convolution agree at every second place."""
    encoder = make(3).eval()
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        coarse, features = encoder.maps(x), encoder(x)
        assert encoder.keep_size() is encoder
        fine = encoder.maps(x)
    assert coarse.shape[2] * 2 == fine.shape[2] == 64 // size
    torch.testing.assert_close(features, coarse.mean(dim=(2, 3)))
    if make is ConvNet:
        torch.testing.assert_close(fine[:, :, ::2, ::2], coarse)


def test_an_encoder_starts_the_same_whatever_stands_beside_it():
    model = build_localiser("convnet", 3, seed=4)
    other = build_encoders({"visual": makers_of("convnet")["visual"]}, seed=4)["visual"]
    for name, value in other.state_dict().items():
        assert torch.equal(model.encoders["visual"].state_dict()[name], value)


def test_the_mask_has_the_neighbours_of_what_is_seen():
    torch.manual_seed(5)
    location = torch.rand(3, 5, 6) * 2 * SEEN * (torch.rand(3, 5, 6) < 0.2)
    found = object_mask(location)
    for i, y, x in itertools.product(range(3), range(5), range(6)):
        near = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        seen = any(0 <= r < 5 and 0 <= c < 6 and location[i, r, c] > SEEN for r, c in near)
        assert found[i, y, x] == float(seen)
    assert 0 < found.mean() < 1


def test_an_empty_mask_falls_back_on_the_map():
    torch.manual_seed(6)
    visual, location = torch.rand(2, 7, 3, 3), torch.full((2, 3, 3), SEEN / 2)
    location[1, 0, 0] = 0.9
    found = object_features(visual, location)
    torch.testing.assert_close(found[0], visual[0].mean(dim=(1, 2)) * SEEN / 2)
    torch.testing.assert_close(found[1], (visual[1, :, 0, 0] + visual[1, :, 0, 1] + visual[1, :, 1, 0]) / 9)
    assert F.normalize(found).isfinite().all() and found.norm(dim=1).min() > 0


def test_the_dictionary_fits_the_features_best():
    """L_clu, with the assignment held fixed, is that of least squares on the one-hot assignment."""
    torch.manual_seed(7)
    features, assigned = torch.randn(20, 5).double(), torch.randint(3, (20,))
    found = entries(features, assigned, 4)
    best = torch.linalg.lstsq(F.one_hot(assigned, 3).double(), features).solution
    torch.testing.assert_close(found[:3], best)
    assert not found[3].any()  # nobody's


def test_clusters_are_of_directions():
    torch.manual_seed(8)
    truth = torch.arange(30) % 3
    features = F.one_hot(truth, 5).float() + 0.1 * torch.rand(30, 5)
    features *= torch.rand(30, 1) * 100 + 0.1  # lengths say nothing
    found = cluster(features, 3, seed=0)
    assert len({(int(a), int(b)) for a, b in zip(truth, found, strict=True)}) == 3
    assert torch.equal(found, cluster(features, 3, seed=0))


def test_values_by_category_are_sums_over_clusters():
    found = sum_by_category(np.array([[1.0, 2.0, 4.0]]), [1, 0, 1], 3)
    assert found.tolist() == [[2.0, 5.0, 0.0]]
