"""Exact selection: the evaluated levels with the largest sum of scores whose total cost fits."""

import numpy as np

from gracile.maths.knapsack import choose
from gracile.search.problem import Choice, Problem


def select_exact(problem: Problem) -> Choice:
    """Solve the multiple-choice knapsack over all candidates and the untouched layers.

    The sum of single-layer scores stands for the joint score, as in greedy selection; equal sums are decided by
    the smaller residuals.

    Raises:
        TargetError: the lowest candidates cost more than the bound.
    """
    problem.require_reachable([column.floor for column in problem.columns])
    values, costs, options = [], [], []
    for column in problem.columns:
        levels = np.array([*column.evaluated, column.dense])
        tie_break = 1e-6 * max(abs(column.baseline), 1e-12) * column.residuals[levels]
        values.append(column.curve(problem.monotonic)[levels] - tie_break)
        costs.append(column.costs[levels].astype(float))
        options.append(levels)
    chosen = choose(values, costs, problem.bound - problem.fixed)
    assert chosen is not None, "require_reachable has checked it"
    return Choice(tuple(int(levels[index]) for levels, index in zip(options, chosen, strict=True)))
