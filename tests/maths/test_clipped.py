"""Fits of what a clip lets through: a case solved by hand, never worse than the linear fit, samples of rows."""

import pytest
import torch

from gracile.maths.clipped import MOST_ROWS, Rows, refit_clipped
from gracile.maths.least_squares import Moments, refit


def gathered(x, y, low=0.0, high=torch.inf):
    moments, rows = Moments(), Rows()
    moments.add(x, y)
    rows.add(x, y, torch.full_like(y, low), torch.full_like(y, high))
    return moments, rows


def seen(x, weight, shift, low=0.0, high=torch.inf):
    given = x @ weight.T.float() + (0 if shift is None else shift.float())
    return given.clamp(low, high)


def test_what_a_relu_hides_is_free():
    """Of y = (-9, -1, 1, 2) at x = (-2, -1, 1, 2) the ReLU shows (0, 0, 1, 2): the line y = x, without any error."""
    x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([[-9.0], [-1.0], [1.0], [2.0]])
    moments, rows = gathered(x, y)
    linear, _ = refit(moments, torch.ones(1, 1), intercept=False)
    assert linear.item() == pytest.approx(24 / 10, rel=1e-2)
    weight, shift = refit_clipped(moments, rows, torch.ones(1, 1), intercept=False, turns=200)
    assert shift is None
    assert weight.item() == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.0, torch.inf), (0.0, 1.0), (-torch.inf, 0.5)])
def test_it_sees_less_error_than_the_linear_fit(low, high, intercept):
    draws = torch.Generator().manual_seed(0)
    hidden = torch.randn(4000, 6, generator=draws)
    y = hidden @ torch.randn(6, 3, generator=draws) - 0.5
    x = hidden[:, :4]  # two inputs are gone
    moments, rows = gathered(x, y, low, high)
    prior = torch.zeros(3, 4)
    errors = [
        float((seen(x, *found, low, high) - y.clamp(low, high)).square().mean())
        for found in (
            refit(moments, prior, intercept=intercept),
            refit_clipped(moments, rows, prior, intercept=intercept),
        )
    ]
    assert errors[1] < 0.99 * errors[0]


def test_without_a_border_it_is_the_linear_fit():
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=draws), torch.randn(50, 2, generator=draws)
    moments, rows = gathered(x, y, -torch.inf, torch.inf)
    for left, right in zip(
        refit(moments, torch.zeros(2, 4), intercept=True),
        refit_clipped(moments, rows, torch.zeros(2, 4), intercept=True),
        strict=True,
    ):
        assert torch.allclose(left, right, rtol=1e-6)


def test_the_sample_is_even_bounded_and_the_same_each_time():
    found = []
    for _ in range(2):
        rows = Rows(seed=3)
        for part in range(5):
            numbers = torch.arange(part * MOST_ROWS, (part + 1) * MOST_ROWS, dtype=torch.float32)[:, None]
            rows.add(numbers, numbers, numbers, numbers)
        found.append(rows.kept[0])
    assert len(found[0]) == MOST_ROWS
    assert len(found[0].unique()) == MOST_ROWS
    assert torch.equal(*found)
    shares = torch.histc(found[0], 5, 0, 5 * MOST_ROWS) / MOST_ROWS
    assert (shares - 0.2).abs().max() < 0.01
