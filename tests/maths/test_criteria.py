"""Criteria against values worked out by hand."""

import pytest
import torch
from torch import Tensor

from gracile.maths import criteria

# Distances: 0-1 is 5, 0-2 is 4, 1-2 is 3.
MATRIX = torch.tensor([[0.0, 0.0], [3.0, -4.0], [0.0, -4.0]])


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (criteria.l1, [0, 7, 4]),
        (criteria.l2, [0, 5, 4]),
        (criteria.fpgm, [9, 8, 7]),
        (criteria.batch_norm_scale, [0, 3.5, 2]),
    ],
)
def test_by_hand(criterion, expected):
    scores = criterion(MATRIX)
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert torch.equal(scores, criterion(MATRIX))


def test_one_scale_a_channel():
    scores = criteria.batch_norm_scale(torch.tensor([[-2.0], [0.5]]))
    torch.testing.assert_close(scores, torch.tensor([2.0, 0.5]).double())


def test_distances_are_those_of_every_pair():
    matrix = torch.randn(40, 30, dtype=torch.float64) + 100
    expected = (matrix[:, None] - matrix[None]).norm(dim=2).sum(1)
    torch.testing.assert_close(criteria.fpgm(matrix), expected, rtol=1e-12, atol=0)


def test_equal_channels_are_worth_nothing_to_each_other():
    assert float(criteria.fpgm(torch.ones(5, 3)).max()) == 0


def test_single_precision_is_added_up_in_double():
    matrix = torch.cat([torch.tensor([[2.0**24]]), torch.ones(1, 1).expand(1, 8)], 1)
    assert float(criteria.l1(matrix)) == 2**24 + 8


def test_random_scores_follow_the_generator():
    def drawn(seed: int) -> Tensor:
        return criteria.random(torch.zeros(1000, 0), torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert float(drawn(1).min()) >= 0
    assert float(drawn(1).mean()) == pytest.approx(0.5, abs=0.05)


def close(actual: Tensor, expected: list) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_taylor_is_the_square_of_gradient_times_weight():
    weight, gradient = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[0.5, 0.25], [-1.0, 9.0]])
    close(criteria.taylor(weight * gradient), [[0.25, 0.25], [9, 0]])
    # A unit's score adds up its weights': the square of the sum would be 0 for the first.
    close(criteria.total(criteria.taylor(weight * gradient)), [0.5, 9])


def test_optimal_brain_damage_is_exact_on_a_quadratic():
    """L = sum_k h_k (w_k - c_k)^2 / 2 at its minimum: what removing w_k costs is h_k w_k^2 / 2."""
    curvature, weight = torch.tensor([[2.0, 3.0], [0.5, 8.0]]), torch.tensor([[1.0, -2.0], [4.0, 0.0]])
    close(criteria.optimal_brain_damage(weight, curvature), [[1, 6], [4, 0]])
    assert float((curvature * (0 - weight) ** 2 / 2).sum()) == 11


def test_zero_share_counts_exact_zeros():
    activations = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 2.0, -3.0, 4.0], [1e-30, 1.0, 1.0, 1.0]])
    close(criteria.zero_share(activations), [0.75, 0.25, 0])


def test_activation_taylor_takes_the_mean_over_positions_before_the_magnitude():
    """Two channels, two examples of two positions: positions cancel, examples do not."""
    products = torch.tensor([[[1.0, -1.0], [2.0, 4.0]], [[3.0, 3.0], [-3.0, -3.0]]])
    close(criteria.activation_taylor(products), [(0 + 3) / 2, 3])


def test_sums_and_means():
    close(criteria.total(MATRIX), [0, -1, -4])
    close(criteria.average(MATRIX), [0, -0.5, -2])
