"""Greedy selection (Kuzmin et al. 2019, arXiv:1912.09802; AIMET): one common score that every layer may fall to."""

import numpy as np

from gracile.search.problem import Choice, Floats, Problem
from gracile.search.tar import select_tar


def select_greedy(problem: Problem) -> Choice:
    """The highest score s for which the model fits the bound when every layer takes the lowest level from which
    its curve stays at or above s.

    Raises:
        TargetError: the lowest candidates cost more than the bound.
    """
    problem.require_reachable([column.floor for column in problem.columns])
    curves = [column.curve(problem.monotonic) for column in problem.columns]
    if _flat(problem):
        choice = select_tar(problem)
        note = (
            f"all evaluations gave {problem.columns[0].baseline:.6g}, the score of the original: they do not tell the "
            "layers apart. The ratios were chosen by relative residual instead (search='tar'); use more data or a "
            "finer score in evaluate_search"
        )
        return Choice(choice.levels, (note, *choice.notes))
    thresholds = np.unique(np.concatenate(curves))
    low, high = 0, len(thresholds) - 1
    best = _levels(problem, curves, float(thresholds[0]))
    while low <= high:
        middle = (low + high) // 2
        levels = _levels(problem, curves, float(thresholds[middle]))
        if problem.cost(levels) <= problem.bound:
            best, low = levels, middle + 1
        else:
            high = middle - 1
    return Choice(tuple(best), _non_monotone(problem))


def _levels(problem: Problem, curves: list[Floats], score: float) -> list[int]:
    """For each column the level above the highest that falls below ``score``, but at least its floor."""
    levels = []
    for column, curve in zip(problem.columns, curves, strict=True):
        below = np.flatnonzero(curve < score)
        after = int(below[-1]) + 1 if len(below) else 0
        levels.append(min(max(after, column.floor), column.dense))
    return levels


def _flat(problem: Problem) -> bool:
    return all(score == column.baseline for column in problem.columns for score in column.scores)


def _non_monotone(problem: Problem) -> tuple[str, ...]:
    """Says which columns rise where they should fall, unless a monotone fit was asked for."""
    if problem.monotonic:
        return ()
    scores = np.concatenate([[*column.scores, column.baseline] for column in problem.columns])
    # Small dips are in the nature of scores on finite data.
    noticeable = 0.1 * float(np.ptp(scores))
    odd = [column.layer for column in problem.columns if np.any(np.diff(column.scores) < -noticeable)]
    if not odd:
        return ()
    return (
        f"the scores of {', '.join(odd)} fall, by more than a tenth of all scores' range, where the layer keeps more: "
        "the evaluation is noisy; Search(monotonic=True) fits a monotone curve, more data in evaluate_search helps",
    )
