import pytest
import torch

from gracile.errors import InputError
from gracile.maths.least_squares import RIDGE, Moments, refit


def test_the_refit_finds_the_map_that_made_the_data():
    weight, bias = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    moments = Moments()
    for _ in range(3):
        x = torch.randn(200, 5, dtype=torch.float64)
        moments.add(x, x @ weight.T + bias)
    found, found_bias = refit(moments, weight, intercept=True)
    torch.testing.assert_close(found, weight)
    torch.testing.assert_close(found_bias, bias)


def test_the_stream_is_the_ridge_regression_of_all_rows():
    x, y, prior = torch.randn(40, 4).double(), torch.randn(40, 2).double(), torch.randn(2, 4).double()
    moments = Moments()
    for part in range(4):
        moments.add(x[part::4], y[part::4])
    damping = RIDGE * (x.square().mean(0)).mean() * len(x)
    # Ridge as rows: sqrt(r) I pulls every weight to its prior.
    rows = torch.cat([x, damping.sqrt() * torch.eye(4).double()])
    wanted = torch.cat([y, damping.sqrt() * prior.T])
    expected = torch.linalg.lstsq(rows, wanted).solution.T
    found, bias = refit(moments, prior, intercept=False)
    assert bias is None
    torch.testing.assert_close(found, expected)


def test_what_the_data_does_not_determine_keeps_its_value():
    x = torch.zeros(50, 3).double()
    x[:, 0] = torch.randn(50)
    prior = torch.tensor([[9.0, 2.0, 3.0]]).double()
    moments = Moments()
    moments.add(x, 5 * x[:, :1])
    found, _ = refit(moments, prior, intercept=False)
    torch.testing.assert_close(found[0, 1:], prior[0, 1:])
    assert abs(found[0, 0] - 5) < 0.05


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="no rows"):
        refit(Moments(), torch.zeros(1, 1), intercept=False)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_what_does_not_vary_keeps_its_weights(value):
    """Constant inputs say nothing of the weights; the intercept alone takes up the mean."""
    moments, prior = Moments(), torch.tensor([[1.0, -2.0, 3.0]])
    moments.add(torch.full((50, 3), value), torch.full((50, 1), 5.0))
    weight, shift = refit(moments, prior, intercept=True)
    assert torch.allclose(weight, prior.double(), atol=1e-3)
    assert shift is not None
    assert float(weight.sum() * value + shift) == pytest.approx(5, rel=1e-5)
