"""Expected values against sampling, and errors against sums by hand."""

from math import inf, pi, sqrt

import pytest
import torch
from torch.nn import functional as F

from gracile.maths.bias_correction import MeanError, clipped_normal_mean, expected_error


def test_relu_of_a_standard_normal():
    # E max(0, x) = phi(0).
    one = torch.ones(1)
    assert float(clipped_normal_mean(torch.zeros(1), one)) == pytest.approx(1 / sqrt(2 * pi))
    # Without limits it is the mean, and far inside the limits too.
    assert float(clipped_normal_mean(2 * one, one, -inf, inf)) == pytest.approx(2)
    assert float(clipped_normal_mean(3 * one, 0.01 * one, 0, 6)) == pytest.approx(3)


@pytest.mark.parametrize(("low", "high"), [(0, inf), (0, 6), (-1, 2)])
def test_clipped_normals_by_integration(low, high):
    beta, gamma = torch.tensor([-1.0, 0.5, 4.0, 7.0]), torch.tensor([1.0, -2.0, 3.0, 0.5])
    # Midpoints of equal probability.
    probability = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    normal = torch.special.ndtri(probability)[:, None] * gamma.double().abs() + beta.double()
    expected = normal.clamp(low, high).mean(0)
    torch.testing.assert_close(clipped_normal_mean(beta, gamma, low, high), expected, rtol=1e-4, atol=1e-4)


def test_no_deviation():
    found = clipped_normal_mean(torch.tensor([-2.0, 3.0, 9.0]), torch.zeros(3), 0, 6)
    assert found.tolist() == [0, 3, 6]


def test_measured_errors_are_streamed():
    torch.manual_seed(0)
    expected, found = torch.randn(6, 3, 2, 2), torch.randn(6, 3, 2, 2)
    error = MeanError()
    error.add(expected[:4], found[:4])
    error.add(expected[4:], found[4:])
    torch.testing.assert_close(error.value, (found - expected).mean((0, 2, 3)).double())


def test_expected_errors_of_a_grouped_convolution():
    torch.manual_seed(0)
    difference, mean = torch.randn(4, 3, 2, 2), torch.randn(6)
    # A constant input without padding has the same output everywhere: the expected one.
    expected = F.conv2d(mean[None, :, None, None].expand(1, 6, 2, 2), difference, groups=2).flatten()
    torch.testing.assert_close(expected_error(difference, mean, groups=2), expected.double(), rtol=1e-5, atol=1e-5)


def test_expected_errors_of_a_linear_layer():
    difference = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    assert expected_error(difference, torch.tensor([3.0, 4.0])).tolist() == [-5, 2]
