"""Equalization scales against values worked out by hand, and what they leave unchanged."""

import pytest
import torch
from torch.nn import functional as F

from gracile.errors import InputError
from gracile.maths.equalize import absorbable_bias, chain_scales, channel_ranges


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ranges_of_either_axis():
    weight = torch.tensor([[1.0, -3.0], [0.0, 2.0]])
    torch.testing.assert_close(channel_ranges(weight, 0), f64(3, 2))
    torch.testing.assert_close(channel_ranges(weight, 1), f64(1, 3))


def test_a_pair_meets_in_the_geometric_mean():
    # sqrt(8 * 2) / 2 = 2 and sqrt(1 * 9) / 9 = 1/3.
    [scale] = chain_scales([f64(8, 1), f64(2, 9)])
    torch.testing.assert_close(scale, f64(2, 1 / 3))


def test_a_depthwise_chain_meets_in_the_geometric_mean():
    # (1 * 8 * 27)^(1/3) = 6: s_0 = 1/6, s_1 = 6/27, and 8 * (1/6) / (6/27) = 6.
    first, second = chain_scales([f64(1), f64(8), f64(27)])
    torch.testing.assert_close(first, f64(1 / 6))
    torch.testing.assert_close(second, f64(6 / 27))


def test_channels_without_a_range_stay():
    first, second = chain_scales([f64(0, 4, 1), f64(2, 4, torch.inf), f64(2, 4, 3)])
    torch.testing.assert_close(first, f64(1, 1, 1))
    torch.testing.assert_close(second, f64(1, 1, 1))


def test_the_function_stays_and_the_ranges_agree():
    torch.manual_seed(0)
    first, second = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    first[2] *= 100
    bias, x = torch.randn(5, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    [scale] = chain_scales([channel_ranges(first, 0), channel_ranges(second, 1)])
    left, right = first / scale[:, None], second * scale
    torch.testing.assert_close(channel_ranges(left, 0), channel_ranges(right, 1))
    before = F.relu(x @ first.T + bias) @ second.T
    after = F.relu(x @ left.T + bias / scale) @ right.T
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ranges", [[f64(1)], [f64(1), f64(1, 2)]])
def test_ranges_that_do_not_fit(ranges):
    with pytest.raises(InputError, match="same channels"):
        chain_scales(ranges)


def test_high_biases():
    torch.testing.assert_close(absorbable_bias(f64(7, 2, -1), f64(2, -1, 0.1)), f64(1, 0, 0))
