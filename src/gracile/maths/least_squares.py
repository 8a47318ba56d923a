"""Ridge-regularised least squares on second moments, gathered as a stream."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.errors import InputError

# Pull towards the weights that are there, as a share of the inputs' mean second moment.
RIDGE = 1e-3
# Variance below these shares of the squares of what was summed, and of the origin, is rounding in float32.
NOISE, GRAIN = 1e-6, 1e-12


@dataclass(slots=True)
class Moments:
    """Sums over rows x [p] and y [n], each less an origin: of x x^T, x y^T, x, y and one; float64, on their device.

    The origin is the mean of the first rows: around a large mean float32 would lose what varies.
    """

    origin: tuple[Tensor, Tensor] | None = None
    xx: Tensor | None = None
    xy: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    count: int = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows x [P, p] and y [P, n]."""
        if self.origin is None:
            self.origin = x.mean(0), y.mean(0)
        x, y = x - self.origin[0], y - self.origin[1]
        xx, xy = (x.T @ x).double(), (x.T @ y).double()
        sums = x.sum(0, dtype=torch.float64), y.sum(0, dtype=torch.float64)
        if self.xx is None or self.xy is None or self.x is None or self.y is None:
            self.xx, self.xy, (self.x, self.y) = xx, xy, sums
        else:
            self.xx += xx
            self.xy += xy
            self.x += sums[0]
            self.y += sums[1]
        self.count += len(x)


def refit(moments: Moments, prior: Tensor, *, intercept: bool) -> tuple[Tensor, Tensor | None]:
    """Weights W [n, p] (and intercept b [n]) minimising sum |y - W x - b|^2 + r |W - prior|^2.

    r is RIDGE times the mean second moment of the x (of what varies around its mean, with an intercept), so that what
    the data does not determine keeps its value.

    Returns:
        W and b, float64; b is None without ``intercept``.
    """
    return Fit(moments, prior, intercept=intercept).weights()


class Fit:
    """The same, with the system factorized once for several right sides."""

    def __init__(self, moments: Moments, prior: Tensor, *, intercept: bool) -> None:
        if moments.xx is None or moments.xy is None or moments.x is None or moments.y is None or moments.origin is None:
            raise InputError("no rows were added to the moments")
        xx, xy = moments.xx / moments.count, moments.xy / moments.count
        x, y = moments.x / moments.count, moments.y / moments.count
        at_x, at_y = (origin.double() for origin in moments.origin)
        self._mean_x, self._mean_y, self._intercept = x + at_x, y + at_y, intercept
        least = NOISE * xx.diagonal().mean() + GRAIN * at_x.square().mean()
        if intercept:
            xx, xy = xx - torch.outer(x, x), xy - torch.outer(x, y)
        else:
            xx = xx + torch.outer(at_x, x) + torch.outer(x, at_x) + torch.outer(at_x, at_x)
            xy = xy + torch.outer(at_x, y) + torch.outer(x, at_y) + torch.outer(at_x, at_y)
        damping = torch.maximum(RIDGE * xx.diagonal().mean(), least)
        damping = torch.where(damping > 0, damping, 1.0)
        self._factors = torch.linalg.lu_factor(xx + damping * torch.eye(len(xx), dtype=xx.dtype, device=xx.device))
        self._right = xy + damping * prior.double().T

    def weights(self, x: Tensor | None = None, change: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """W and b, float64.

        Args:
            x: a sample [P, p] of the rows.
            change: [P, n], what is added to their y; the rows that are not in the sample change as these do.
        """
        right, mean_y = self._right, self._mean_y
        if x is not None and change is not None:
            mean = change.mean(0, dtype=torch.float64)
            centred = x - x.mean(0) if self._intercept else x
            moved = (centred.T @ change).double() / len(x)
            right, mean_y = right + moved, mean_y + mean
        weight = torch.linalg.lu_solve(*self._factors, right).T
        return weight, mean_y - weight @ self._mean_x if self._intercept else None
