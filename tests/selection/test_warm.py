"""Strategies that go by a trained model: each against embeddings that are made whole, one sample at a time."""

import tracemalloc

import numpy as np
import pytest

from selection import ADDING, WARM, Scored, select, select_next
from selection.warm import errors, seeds_of, shares

LABELLED = [3, 17, 5]


def scored_of(count=40, classes=4, widths=(5, 3), seed=0):
    draws = np.random.default_rng(seed)
    logits = 2 * draws.normal(size=(count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = ("audio", "visual", "text")[: len(widths)]
    features = {n: draws.normal(size=(count, d)).astype(np.float32) for n, d in zip(names, widths, strict=True)}
    return Scored(probabilities.astype(np.float32), features, {n: draws.normal(size=count) for n in names})


def gradients(scored, weight=lambda scored, i, name: 1.0):
    """g_i, made whole: each error times each feature, modality by modality."""
    found = []
    for i, p in enumerate(scored.probabilities):
        error = p - np.eye(len(p))[p.argmax()]
        parts = [np.outer(error, weight(scored, i, name) * z[i]) for name, z in scored.features.items()]
        found.append(np.concatenate([part.ravel() for part in parts]))
    return np.array(found)


def plus_plus(g, labelled, count, seed):
    """k-means++ by the distances of single pairs."""
    draws = np.random.default_rng(seed)
    free = [i for i in range(len(g)) if i not in labelled]
    chosen = [max(free, key=lambda i: np.linalg.norm(g[i]))]
    while len(chosen) < count:
        nearest = [min(np.sum((x - g[k]) ** 2) for k in chosen) for x in g]
        weights = np.array([0 if i in (*labelled, *chosen) else nearest[i] for i in range(len(g))])
        chosen.append(draws.choice(len(g), p=weights / weights.sum()))
    return chosen


def test_entropy_is_largest_where_all_classes_are_alike():
    scored = scored_of()
    scored.probabilities[7] = 0.25
    scored.probabilities[8] = [1, 0, 0, 0]  # of which a logarithm alone would make NaN
    told = select_next("entropy", scored, LABELLED, 1)
    assert told.positions.tolist() == [7] and told.facts["entropy"] == pytest.approx(np.log(4))
    by_hand = [-sum(p * np.log(p) for p in row if p > 0) for row in scored.probabilities.astype(float)]
    ranked = sorted((i for i in range(40) if i not in LABELLED), key=lambda i: -by_hand[i])
    assert select_next("entropy", scored, LABELLED, 37).positions.tolist() == ranked and ranked[-1] == 8


def test_of_equal_entropies_the_lot_decides_and_not_the_order_of_the_split():
    scored = scored_of()._replace(probabilities=np.full((40, 4), 0.25, dtype=np.float32))
    found = [select_next("entropy", scored, LABELLED, 10, seed).positions for seed in (0, 1)]
    assert set(found[0]) != set(found[1]) and max(found[0]) > 20


def test_badge_is_plus_plus_among_whole_gradients():
    for seed in range(3):
        scored = scored_of(seed=seed)
        g = gradients(scored)
        labelled = [*LABELLED, int(np.linalg.norm(g, axis=1).argmax())]  # the longest is labelled already
        expected = plus_plus(g, labelled, 12, seed)
        assert select_next("badge", scored, labelled, 12, seed).positions.tolist() == expected


def weight_of(scored, i, name):
    """w_m of a sample, for two modalities as the authors have it: 1, or 1 less the difference of the shares."""
    sizes = {other: abs(values[i]) for other, values in scored.contributions.items()}
    if len(sizes) == 2:
        (a, b) = sizes.values()
        return 1.0 if sizes[name] == max(a, b) else 1 - abs(a - b) / (a + b)
    return 1 - (max(sizes.values()) - sizes[name]) / sum(sizes.values())


@pytest.mark.parametrize("widths", [(5, 3), (5, 3, 2)], ids=len)
def test_bmmal_is_the_same_among_gradients_scaled_by_modality(widths):
    scored = scored_of(widths=widths)
    told = select_next("bmmal", scored, LABELLED, 12, 2)
    assert told.positions.tolist() == plus_plus(gradients(scored, weight_of), LABELLED, 12, 2)
    sizes = np.abs(list(scored.contributions.values()))
    for name, share in zip(scored.features, (sizes / sizes.sum(axis=0)).mean(axis=1), strict=True):
        assert told.facts[f"share {name}"] == pytest.approx(share)


@pytest.mark.parametrize("contribution", [0.0, 0.3])
def test_bmmal_with_equal_shares_is_badge(contribution):
    scored = scored_of()
    alike = {name: contribution * (1 - 2 * (np.arange(40) % 2)) for name in scored.features}  # the sign does not count
    assert (shares(np.stack(list(alike.values()), axis=1)) == 0.5).all()
    found = [select_next(s, scored._replace(contributions=alike), LABELLED, 12).positions for s in ("bmmal", "badge")]
    assert np.array_equal(*found)
    assert not np.array_equal(select_next("bmmal", scored, LABELLED, 12).positions, found[1])


def chosen_by(strategy, scored, labelled, count, seed):
    if strategy in WARM:
        return select_next(strategy, scored, labelled, count, seed).positions
    return select(strategy, scored.features, count, seed, labelled=labelled).positions


@pytest.mark.parametrize("strategy", [*ADDING, *WARM])
def test_as_many_others_as_wanted_the_same_for_a_seed(strategy):
    scored = scored_of()
    chosen = chosen_by(strategy, scored, LABELLED, 12, 3)
    assert len(set(chosen.tolist())) == 12 and not set(chosen) & set(LABELLED)
    assert np.array_equal(chosen, chosen_by(strategy, scored, LABELLED, 12, 3))
    assert sorted(chosen_by(strategy, scored, LABELLED, 37, 0)) == sorted(set(range(40)) - set(LABELLED))
    same = scored._replace(
        probabilities=np.full((40, 4), 0.25, dtype=np.float32), features={n: np.ones((40, 2)) for n in scored.features}
    )
    assert len(set(chosen_by(strategy, same, LABELLED, 37, 0)) - set(LABELLED)) == 37


def test_coreset_goes_on_from_what_is_labelled():
    """Its choice is what it would choose after these, had it chosen them itself."""
    features = {"audio": scored_of().features["audio"]}
    whole = select("coreset", features, 9, seed=1).positions
    more = select("coreset", features, 5, seed=2, labelled=whole[:4])
    assert more.positions.tolist() == whole[4:].tolist()
    assert more.facts == select("coreset", features, 9, seed=1).facts


@pytest.mark.parametrize(
    "change, count, words",
    [
        ({}, 38, "a budget of 38 more samples of a pool of 40, 3 of which are labelled"),
        ({}, 0, "a budget of 0 more samples"),
        ({"probabilities": np.full((40, 4), np.nan)}, 5, "probabilities are not finite"),
        ({"features": {"audio": np.full((40, 2), np.inf)}}, 5, "features of audio are not finite"),
    ],
)
def test_what_makes_no_sense_is_refused(change, count, words):
    with pytest.raises(ValueError, match=words):
        select_next("badge", scored_of()._replace(**change), LABELLED, count)


def test_bmmal_compares_modalities():
    with pytest.raises(ValueError, match="there is audio alone"):
        select_next("bmmal", scored_of(widths=(5,)), LABELLED, 3)


def test_no_gradient_is_made():
    scored = scored_of(count=2000, classes=50, widths=(150, 50))
    inputs = np.concatenate(list(scored.features.values()), axis=1)
    tracemalloc.start()
    assert len(seeds_of(errors(scored.probabilities), inputs, np.array(LABELLED), 20, 0)) == 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 50 * 200 * 4 / 20  # bytes of all gradients
