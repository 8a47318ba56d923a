"""From sparsities to levels that meet a bound: scaled by one common factor, rounded to what is admissible."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gracile.search.problem import Floats, Problem

# An agent's actions are float32.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Levels within a bound."""

    levels: list[int]
    # What the sparsities were multiplied by.
    factor: float


def level_below(shares: Floats, share: float) -> int:
    """The highest level that keeps at most ``share``; the lowest where none keeps so little."""
    return max(int(np.searchsorted(shares, share + _EPSILON, side="right")) - 1, 0)


def fit(problem: Problem, base: Sequence[int], sparsities: Floats, bound: float) -> Fitted | None:
    """Cut column i to at most (1 - f s_i) of what it keeps at ``base``, with the smallest f that meets ``bound``.

    A column at its lowest level stays there while f grows for the others.  What rounding leaves of the bound is then
    given back: columns rise by one level where that fits, those that rounding has cost most first.

    Args:
        base: levels that no column exceeds.
        sparsities: [columns], of what each keeps at ``base``; a column of sparsity 0 stays.

    Returns:
        None where even the lowest levels of the columns with a sparsity exceed the bound.
    """
    shares = [problem.shares(index) for index in range(len(problem.columns))]
    kept = np.array([row[level] for row, level in zip(shares, base, strict=True)])
    steps = [
        (1 - row[: level + 1] / row[level]) / sparsity if sparsity > 0 else np.zeros(1)
        for row, level, sparsity in zip(shares, base, sparsities, strict=True)
    ]

    def at(factor: float) -> list[int]:
        return [
            min(level_below(row, share * (1 - factor * sparsity)), level)
            for row, share, sparsity, level in zip(shares, kept, sparsities, base, strict=True)
        ]

    factors = np.unique(np.concatenate(steps))
    low, high = 0, len(factors)
    while low < high:
        middle = (low + high) // 2
        if problem.cost(at(float(factors[middle]))) <= bound:
            high = middle
        else:
            low = middle + 1
    if low == len(factors):
        return None
    factor = float(factors[low])
    wanted = kept * (1 - factor * sparsities)
    return Fitted(_raised(problem, at(factor), base, wanted, bound), factor)


def _raised(problem: Problem, levels: list[int], base: Sequence[int], wanted: Floats, bound: float) -> list[int]:
    """``levels`` with columns raised by one where that still fits, the furthest below ``wanted`` first."""
    found = list(levels)
    missing = [wanted[index] - problem.shares(index)[level] for index, level in enumerate(found)]
    for index in np.argsort(-np.array(missing), kind="stable").tolist():
        if found[index] < base[index]:
            higher = [*found[:index], found[index] + 1, *found[index + 1 :]]
            if problem.cost(higher) <= bound:
                found = higher
    return found
