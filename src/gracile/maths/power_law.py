"""Losses as a power of an error: log loss = log a + p log r, one p for several curves, one a for each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Near a minimum a loss is quadratic in a small error; far away it may be steeper.
QUADRATIC, _LOWEST, _HIGHEST = 2.0, 0.5, 8.0


def pooled_exponent(curves: Sequence[tuple[Floats, Floats]]) -> float:
    """The exponent p that fits all curves best by least squares in the logarithms, within [0.5, 8].

    Args:
        curves: errors r > 0 and losses > 0 of each, of equal length; those of one point say nothing.

    Returns:
        2 where no curve says anything.
    """
    above = below = 0.0
    for errors, losses in curves:
        x, y = np.log(errors), np.log(losses)
        x, y = x - x.mean(), y - y.mean()
        above, below = above + float(x @ y), below + float(x @ x)
    return QUADRATIC if below <= 1e-12 else float(np.clip(above / below, _LOWEST, _HIGHEST))


def extended(errors: Floats, known_errors: Floats, known_losses: Floats, exponent: float) -> Floats:
    """Losses at ``errors`` on the curve through the known points.

    Between two known points the power law is that of the two; beyond the outer ones it has ``exponent``.

    Args:
        errors: r >= 0; at 0 nothing is lost.
        known_errors, known_losses: positive, at least one.
    """
    order = np.argsort(known_errors)
    x, y = np.log(known_errors[order]), np.log(known_losses[order])
    found = np.zeros(len(errors))
    some = errors > 0
    logs = np.log(errors[some])
    inside = np.interp(logs, x, y)
    below, above = np.minimum(logs - x[0], 0), np.maximum(logs - x[-1], 0)
    found[some] = np.exp(inside + exponent * (below + above))
    return found
