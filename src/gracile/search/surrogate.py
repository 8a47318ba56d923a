"""A dictionary of which only a few entries are evaluated; the others follow from the layers' own residuals.

What a layer at a level loses is taken for a_l r^p: r is the layer's relative residual there, p is common to all layers,
and a_l comes from evaluations of the layer, or is the median of the others'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from gracile.maths.power_law import Floats, extended, pooled_exponent
from gracile.search.problem import Column

# Where the evaluations of one layer lie among its candidates, 0 being the lowest, in the order in which they are made.
_PLACES = (0.0, 0.25, 0.5, 0.12, 0.75, 0.37)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Columns of which some scores are predicted, and how well that goes."""

    columns: tuple[Column, ...]
    exponent: float
    # Mean distance of predicted from evaluated scores, over layers with several evaluations: they are predicted from
    # the second lowest, with the exponent of the other layers.  None without such layers.
    error: float | None
    # How many entries of the dictionary were evaluated, of how many.
    evaluated: int
    entries: int

    @property
    def note(self) -> str:
        checked = (
            "" if self.error is None else f"; predicted and evaluated scores differ by {self.error:.3g} on average"
        )
        return (
            f"surrogate: {self.evaluated} of {self.entries} scores were evaluated, the others predicted from the "
            f"residuals to the power of {self.exponent:.3g}{checked}"
        )


def budget_of(surrogate: int | Literal["auto"], columns: int) -> int:
    """The number of evaluations."""
    return columns + ceil(columns / 8) if surrogate == "auto" else surrogate


def sampled(candidates: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """The levels to evaluate: two in each of columns that are spread evenly, more where the budget allows that.

    Two evaluations tell a column's exponent.  All columns share that, and much the same factor, so that it is worth
    more to know some columns well than all of them a little.
    """
    waiting = [_order(sorted(levels)) for levels in candidates]
    chosen: list[list[int]] = [[] for _ in candidates]
    left, each = budget, 2
    while left > 0 and any(waiting):
        able = [index for index, levels in enumerate(waiting) if levels]
        count = min(max(left // each, 1), len(able))
        for place in np.linspace(0, len(able) - 1, count).round().astype(int).tolist():
            some = waiting[able[place]][: min(each, left)]
            del waiting[able[place]][: len(some)]
            chosen[able[place]].extend(some)
            left -= len(some)
        each = 1
    return [sorted(levels) for levels in chosen]


def _order(levels: Sequence[int]) -> list[int]:
    places = [round(place * (len(levels) - 1)) for place in _PLACES]
    return [levels[place] for place in dict.fromkeys([*places, *range(len(levels))])] if levels else []


def predicted(columns: Sequence[Column], candidates: Sequence[Sequence[int]]) -> Prediction:
    """Fill in the scores at all ``candidates`` of columns that were evaluated at some of them."""
    losses = [np.array([column.baseline - score for score in column.scores]) for column in columns]
    positive = np.concatenate([*losses, np.zeros(0)])
    positive = positive[positive > 0]
    # What is lost in the noise counts as half of the least that is seen.
    least = float(positive.min()) / 2 if len(positive) else 0.0
    curves = [_curve(column, lost, least) for column, lost in zip(columns, losses, strict=True)]
    exponent = pooled_exponent([curve for curve in curves if len(curve[0]) > 1])
    slopes = np.concatenate([lost / errors**exponent for errors, lost in curves])
    typical = float(np.median(slopes)) if len(slopes) else 0.0
    filled = [
        _filled(column, sorted(set(levels) - {column.dense}), curve, exponent, typical)
        for column, levels, curve in zip(columns, candidates, curves, strict=True)
    ]
    return Prediction(
        columns=tuple(filled),
        exponent=exponent,
        error=_error(curves),
        evaluated=sum(len(column.evaluated) for column in columns),
        entries=sum(len(column.evaluated) for column in filled),
    )


def _curve(column: Column, lost: Floats, least: float) -> tuple[Floats, Floats]:
    """Residuals and losses of a column where it was evaluated, both positive; none where nothing is ever lost."""
    errors = column.residuals[list(column.evaluated)]
    some = (errors > 0) & (least > 0)
    return errors[some], np.maximum(lost[some], least)


def _filled(
    column: Column, levels: Sequence[int], curve: tuple[Floats, Floats], exponent: float, typical: float
) -> Column:
    errors = column.residuals[list(levels)]
    lost = typical * errors**exponent if not len(curve[0]) else extended(errors, *curve, exponent)
    known = dict(zip(column.evaluated, column.scores, strict=True))
    scores = [known.get(level, column.baseline - loss) for level, loss in zip(levels, lost.tolist(), strict=True)]
    return replace(
        column,
        evaluated=tuple(levels),
        scores=tuple(scores),
        predicted=tuple(level for level in levels if level not in known),
    )


def _error(curves: Sequence[tuple[Floats, Floats]]) -> float | None:
    distances = []
    for index, (errors, lost) in enumerate(curves):
        if len(errors) < 2:
            continue
        others = [curve for place, curve in enumerate(curves) if place != index and len(curve[0]) > 1]
        # The lowest one loses most and says least about what a search will choose.
        middle = 1
        rest = np.arange(len(errors)) != middle
        guess = extended(errors[rest], errors[[middle]], lost[[middle]], pooled_exponent(others))
        distances.extend(np.abs(guess - lost[rest]).tolist())
    return float(np.mean(distances)) if distances else None
