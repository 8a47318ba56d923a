"""Smoothing factors: the published formula, and what cannot be scaled."""

import pytest
import torch

from gracile.errors import InputError
from gracile.maths.smooth import smoothing_scales


def test_factors_are_those_of_equation_4():
    activations, weights = torch.tensor([8.0, 1.0, 0.5]), torch.tensor([0.5, 0.25, 2.0])
    torch.testing.assert_close(
        smoothing_scales(activations, weights, 0.75), activations.double() ** 0.75 / weights.double() ** 0.25
    )


def test_half_of_the_difficulty_gives_both_sides_the_same_range():
    activations, weights = torch.rand(20) + 0.1, torch.rand(20) + 0.1
    scales = smoothing_scales(activations, weights)
    torch.testing.assert_close(activations / scales, weights * scales)


def test_channels_without_a_range_keep_their_scale():
    found = smoothing_scales(torch.tensor([0.0, 1.0, torch.inf, 4.0]), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert found.tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("alpha", [-0.1, 1.5, True, "half"])
def test_a_wrong_alpha_is_named(alpha):
    with pytest.raises(InputError, match="alpha is"):
        smoothing_scales(torch.ones(2), torch.ones(2), alpha)
    with pytest.raises(InputError, match=r"shapes \[2\] and \[3\]"):
        smoothing_scales(torch.ones(2), torch.ones(3))
