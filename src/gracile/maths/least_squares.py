"""Ridge-regularised least squares on second moments, gathered as a stream."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.errors import InputError

# Pull towards the weights that are there, as a share of the inputs' mean second moment.
RIDGE = 1e-3


@dataclass(slots=True)
class Moments:
    """Sums over rows x [p] and y [n]: of x x^T, x y^T, x, y and one; float64, on the data's device."""

    xx: Tensor | None = None
    xy: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    count: int = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows x [P, p] and y [P, n]."""
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

    r is RIDGE times the mean second moment of the x, so that what the data does not determine keeps its value.

    Returns:
        W and b, float64; b is None without ``intercept``.
    """
    if moments.xx is None or moments.xy is None or moments.x is None or moments.y is None:
        raise InputError("no rows were added to the moments")
    xx, xy = moments.xx / moments.count, moments.xy / moments.count
    mean_x, mean_y = moments.x / moments.count, moments.y / moments.count
    if intercept:
        xx, xy = xx - torch.outer(mean_x, mean_x), xy - torch.outer(mean_x, mean_y)
    prior = prior.double()
    damping = RIDGE * xx.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    system = xx + damping * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
    weight = torch.linalg.solve(system, xy + damping * prior.T, left=True).T
    return weight, mean_y - weight @ mean_x if intercept else None
