"""Shapley values by hand, and the two forms of them against each other."""

import pytest
import torch

from methods.shapley import coalitions, shapley_values, shapley_weights


def test_shapley_weights_by_hand():
    assert coalitions(2) == [(0,), (1,), (0, 1)]
    assert shapley_weights(2).tolist() == [[0.5, -0.5, 0.5], [-0.5, 0.5, 0.5]]
    assert coalitions(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    third, sixth = 1 / 3, 1 / 6
    expected = [third, -sixth, -sixth, sixth, sixth, -third, third]
    assert shapley_weights(3)[0].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_values_sum_to_the_worth_of_all(count):
    sums = shapley_weights(count).sum(dim=0)
    assert sums.tolist() == pytest.approx([0.0] * (2**count - 2) + [1.0], abs=1e-15)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_values_are_the_weighted_worths_of_the_coalitions(count):
    worth = torch.randn(5, 2**count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    column = [sum(1 << m for m in members) for members in coalitions(count)]
    expected = (worth[:, column] - worth[:, :1]) @ shapley_weights(count).T
    torch.testing.assert_close(shapley_values(worth), expected, rtol=1e-12, atol=1e-12)
