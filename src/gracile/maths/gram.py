"""Second moments of vectors, gathered as a stream."""

import torch
from torch import Tensor


class Gram:
    """Sums over rows x [p] of x x^T, x and one; float64, on the data's device."""

    def __init__(self) -> None:
        self.count = 0
        self._outer: Tensor | None = None
        self._sum: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add rows [P, p]."""
        outer, total = (rows.T @ rows).double(), rows.sum(0, dtype=torch.float64)
        if self._outer is None or self._sum is None:
            self._outer, self._sum = outer, total
        else:
            self._outer += outer
            self._sum += total
        self.count += len(rows)

    @property
    def mean(self) -> Tensor:
        """[p]."""
        assert self._sum is not None, "no rows were added"
        return self._sum / self.count

    @property
    def second_moment(self) -> Tensor:
        """E x x^T, [p, p]."""
        assert self._outer is not None, "no rows were added"
        return self._outer / self.count

    @property
    def covariance(self) -> Tensor:
        """E (x - E x)(x - E x)^T, [p, p]."""
        mean = self.mean
        return self.second_moment - torch.outer(mean, mean)
