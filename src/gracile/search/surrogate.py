"""A dictionary of which only a few entries are evaluated; the others follow from how much the model's outputs change.

What the model loses with one part at a level is taken for a c: c is the squared change of the outputs there, relative
to their own square, and a comes from the evaluations.  It is linear because errors of independent parts add up in their
squares: what a search adds up stands for the error of all parts together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from gracile.search.problem import Column, Floats

# The share of candidates, those that change the outputs most, among which evaluations are spread: what the others lose
# is lost in the noise of most scores.
_VISIBLE = 0.3
# Where no evaluation tells by how much the score falls: the share of it that the largest change is taken to cost.
_UNTOLD = 1e-3


@dataclass(frozen=True, slots=True)
class Prediction:
    """Columns of which some scores are predicted, and how well that goes."""

    # With predicted scores at all levels: what a search goes by.  Evaluations among them would be taken for their luck.
    columns: tuple[Column, ...]
    # The same with the scores of evaluations where there are any: what is known.
    known: tuple[Column, ...]
    # What the score loses per unit of change.
    slope: float
    # Whether the evaluations have told it.
    told: bool
    # Mean distance of evaluated scores from what the other evaluations predict; None of fewer than two.
    error: float | None
    # How many entries of the dictionary were evaluated, of how many.
    evaluated: int
    entries: int

    @property
    def note(self) -> str:
        checked = (
            "" if self.error is None else f"; predicted and evaluated scores differ by {self.error:.3g} on average"
        )
        untold = "" if self.told else "; none was below the original's, so that only the order of scores means anything"
        return (
            f"surrogate: {self.evaluated} of {self.entries} scores were evaluated; the search goes by what the change "
            f"of the outputs predicts{checked}{untold}"
        )


def budget_of(surrogate: int | Literal["auto"], columns: int) -> int:
    """The number of evaluations."""
    return 2 + columns // 8 if surrogate == "auto" else surrogate


def sampled(changes: Sequence[Column], budget: int) -> list[list[int]]:
    """The levels to evaluate in each column: spread evenly over the candidates that change the outputs most.

    Args:
        changes: columns whose scores are changes of the outputs, with a minus.
    """
    entries = sorted(
        (-score, place, level)
        for place, column in enumerate(changes)
        for level, score in zip(column.evaluated, column.scores, strict=True)
    )
    count = min(budget, len(entries))
    visible = entries[len(entries) - max(count, ceil(_VISIBLE * len(entries))) :]
    chosen: list[list[int]] = [[] for _ in changes]
    for number in range(count):
        _, place, level = visible[int((number + 0.5) * len(visible) / count)]
        chosen[place].append(level)
    return [sorted(levels) for levels in chosen]


def predicted(columns: Sequence[Column], changes: Sequence[Column]) -> Prediction:
    """Fill in the scores at all levels of ``changes``, of columns that were evaluated at some of them."""
    pairs = [
        (-change.scores[change.evaluated.index(level)], column.baseline - score)
        for column, change in zip(columns, changes, strict=True)
        for level, score in zip(column.evaluated, column.scores, strict=True)
    ]
    moved, lost = np.array(pairs).reshape(-1, 2).T
    slope = _slope(moved, lost)
    told = slope > 0
    largest = max((-score for change in changes for score in change.scores), default=0.0)
    if not told and largest > 0:
        slope = _UNTOLD * max((abs(column.baseline) for column in columns), default=1.0) / largest
    filled = tuple(_filled(column, change, slope) for column, change in zip(columns, changes, strict=True))
    return Prediction(
        columns=filled,
        known=tuple(_known(column, whole) for column, whole in zip(columns, filled, strict=True)),
        slope=slope,
        told=told,
        error=_error(moved, lost),
        evaluated=len(pairs),
        entries=sum(len(column.evaluated) for column in filled),
    )


def _slope(moved: Floats, lost: Floats) -> float:
    """What is lost per unit of change: of noise that is as large everywhere, as it is in a score, small changes do not
    make much.
    """
    return float(lost.sum() / moved.sum()) if moved.sum() > 0 else 0.0


def _filled(column: Column, change: Column, slope: float) -> Column:
    scores = tuple(column.baseline + slope * moved for moved in change.scores)
    return replace(column, evaluated=change.evaluated, scores=scores, predicted=change.evaluated)


def _known(column: Column, filled: Column) -> Column:
    known = dict(zip(column.evaluated, column.scores, strict=True))
    scores = zip(filled.evaluated, filled.scores, strict=True)
    return replace(
        filled,
        scores=tuple(known.get(level, score) for level, score in scores),
        predicted=tuple(level for level in filled.evaluated if level not in known),
    )


def _error(moved: Floats, lost: Floats) -> float | None:
    if len(moved) < 2:
        return None
    others = [np.arange(len(moved)) != place for place in range(len(moved))]
    guesses = np.array([_slope(moved[rest], lost[rest]) for rest in others]) * moved
    return float(np.abs(guesses - lost).mean())
