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
