"""Least squares on results that are clipped afterwards, by a ReLU for example.

What lies below a ReLU's threshold is lost in the original and may be anything below it here.  A linear fit spends its
freedom on these values, too; this one on those that are seen.  The problem is that of Zhang et al. (2016,
arXiv:1505.06798, equation 4),

    min over W, b of  sum |clip(y) - clip(W x + b)|^2,

solved by turns: with z = W x + b from the last turn, a row's wanted value is y where y is inside the range, and where
it is outside z, cut off at the border that y lies beyond; then W and b are fitted to the wanted values.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gracile.maths.least_squares import Fit, Moments

# Turns at most: the error falls fast at first.
TURNS = 10
# Rows that are kept, and numbers in their x: what a turn looks at.
MOST_ROWS, MOST_NUMBERS = 1 << 16, 1 << 25


@dataclass(slots=True)
class Rows:
    """An even sample of rows x [p] with y [n], and the range [low, high], [n] each, that y is clipped to."""

    seed: int = 0
    _kept: tuple[Tensor, ...] = ()
    _keys: Tensor | None = None
    _draws: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._draws = torch.Generator().manual_seed(self.seed)

    def add(self, x: Tensor, y: Tensor, low: Tensor, high: Tensor) -> None:
        """Offer rows: x [P, p], the others [P, n].

        Each gets a random key, and those with the smallest keys stay, as many as are allowed.
        """
        most = min(MOST_ROWS, max(1, MOST_NUMBERS // x.shape[1]))
        keys = torch.rand(len(x), generator=self._draws)
        if self._keys is not None and len(self._keys) >= most:
            some = (keys < self._keys.max()).nonzero()[:, 0]
        else:
            some = keys.topk(min(most, len(keys)), largest=False).indices
        rows = tuple(value[some.to(value.device)] for value in (x, y, low, high))
        keys = keys[some]
        if self._keys is not None:
            keys = torch.cat([self._keys, keys])
            rows = tuple(torch.cat(pair) for pair in zip(self._kept, rows, strict=True))
        if len(keys) > most:
            keys, best = keys.topk(most, largest=False)
            rows = tuple(value[best.to(value.device)] for value in rows)
        self._kept, self._keys = rows, keys

    @property
    def kept(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, y, low and high of the rows in the sample."""
        x, y, low, high = self._kept
        return x, y, low, high


def refit_clipped(
    moments: Moments, rows: Rows, prior: Tensor, *, intercept: bool, turns: int = TURNS
) -> tuple[Tensor, Tensor | None]:
    """Weights W [n, p] (and intercept b [n]) minimising sum |clip(y) - clip(W x + b)|^2, with the ridge of `refit`.

    The first fit is linear; later ones change it by what the sample says, and the best on the sample is returned.

    Args:
        moments: of all rows.
        rows: a sample of them, with the ranges.

    Returns:
        W and b, float64; b is None without ``intercept``.
    """
    fit = Fit(moments, prior, intercept=intercept)
    x, y, low, high = rows.kept
    aim = y.clamp(low, high)
    best = found = fit.weights()
    least = torch.inf
    for _ in range(turns):
        given = _given(x, *found)
        error = float((given.clamp(low, high) - aim).square().sum(dtype=torch.float64))
        if error >= least:
            break
        best, least = found, error
        wanted = torch.where(y < low, given.minimum(low), torch.where(y > high, given.maximum(high), y))
        found = fit.weights(x, wanted - y)
    return best


def _given(x: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
    given = x @ weight.T.to(x.dtype)
    return given if shift is None else given + shift.to(x.dtype)
