"""TAR selection: one common relative residual |W - W_k| / |W| for all layers, without any evaluation."""

import numpy as np

from gracile.search.problem import Choice, Problem


def select_tar(problem: Problem) -> Choice:
    """The lowest common residual whose total cost fits: each layer at its lowest level within it.

    With activation statistics the residual is that of the layer's outputs on the data, otherwise that of its weight.

    Raises:
        TargetError: even the lowest ranks cost more than the bound.
    """
    problem.require_reachable([0 for _ in problem.columns])
    thresholds = np.unique(np.concatenate([column.residuals for column in problem.columns]))
    low, high = 0, len(thresholds) - 1
    best = [0 for _ in problem.columns]
    while low <= high:
        middle = (low + high) // 2
        levels = tar_levels(problem, float(thresholds[middle]))
        if problem.cost(levels) <= problem.bound:
            best, high = levels, middle - 1
        else:
            low = middle + 1
    return Choice(tuple(best))


def tar_levels(problem: Problem, residual: float) -> list[int]:
    """The lowest level of each column whose residual is at most ``residual``."""
    return [int(np.argmax(column.residuals <= residual)) for column in problem.columns]
