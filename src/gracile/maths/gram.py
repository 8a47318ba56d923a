"""Second moments of vectors, gathered as a stream."""

import torch
from torch import Tensor

from gracile.errors import InputError


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

    def require_finite(self, reader: str) -> None:
        """Raises InputError where a sum is none, as no system can be solved with it; ``reader`` read the rows."""
        if self._outer is not None and not bool(self._outer.diagonal().isfinite().all()):
            raise InputError(
                f"{reader} reads NaN or infinite values, or such whose squares are, when the calibration data runs; "
                "look for them in the data, scale it as in training, or, where a model of half precision overflows, "
                "compress model.float()"
            )

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
