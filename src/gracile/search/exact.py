"""Exact selection: the evaluated levels with the largest sum of scores whose total cost fits."""

from collections.abc import Sequence

import numpy as np

from gracile.maths.knapsack import choose
from gracile.search.problem import Choice, Ints, Problem

# Linearisations of costs that depend on one another, and budgets tried with each.
_ROUNDS, _BUDGETS = 12, 6


def select_exact(problem: Problem) -> Choice:
    """Solve the multiple-choice knapsack over all candidates and the untouched layers.

    The sum of single-layer scores stands for the joint score, as in greedy selection; equal sums are decided by
    the smaller residuals.  Where the costs depend on one another, they are linearised at the current levels, and that
    is repeated until the levels are stable: then the result is the best that was met, not a proven optimum.

    Raises:
        TargetError: the lowest candidates cost more than the bound.
    """
    floors = [column.floor for column in problem.columns]
    problem.require_reachable(floors)
    if problem.joint is None:
        chosen = _knapsack(problem, problem.around(floors), problem.bound - problem.fixed)
        assert chosen is not None, "require_reachable has checked it"
        return Choice(tuple(chosen))
    return Choice(tuple(_linearised(problem, floors)))


def _linearised(problem: Problem, floors: Sequence[int]) -> list[int]:
    best = current = _uniform(problem, floors)
    seen: set[tuple[int, ...]] = set()
    for _ in range(_ROUNDS):
        if tuple(current) in seen:
            break
        seen.add(tuple(current))
        found = _fitting(problem, current)
        if found is None:
            break
        if _value(problem, found) > _value(problem, best):
            best = found
        current = found
    return best


def _fitting(problem: Problem, levels: Sequence[int]) -> list[int] | None:
    """The knapsack with the costs linearised at ``levels``, its budget lowered until the true cost fits."""
    costs = problem.around(levels)
    here = sum(int(row[level]) for row, level in zip(costs, levels, strict=True))
    # In these units, what the bound leaves.
    budget = here + problem.bound - problem.cost(levels)
    lowest = sum(int(row[column.floor]) for row, column in zip(costs, problem.columns, strict=True))
    for _ in range(_BUDGETS):
        found = _knapsack(problem, costs, budget)
        if found is None:
            return None
        over = problem.cost(found) - problem.bound
        if over <= 0:
            return found
        budget -= max(over, 1e-3 * (budget - lowest))
    return None


def _uniform(problem: Problem, floors: Sequence[int]) -> list[int]:
    """The largest common share of the sizes, on candidates, that fits."""
    best = list(floors)
    for share in np.linspace(0.02, 1.0, 50):
        levels = [
            max([level for level in (*c.evaluated, c.dense) if c.sizes[level] <= share * c.sizes[-1]], default=c.floor)
            for c in problem.columns
        ]
        if problem.cost(levels) <= problem.bound:
            best = levels
    return best


def _value(problem: Problem, levels: Sequence[int]) -> float:
    return sum(
        float(column.curve(problem.monotonic)[level]) for column, level in zip(problem.columns, levels, strict=True)
    )


def _knapsack(problem: Problem, costs: Sequence[Ints], budget: float) -> list[int] | None:
    values, weights, options = [], [], []
    for column, row in zip(problem.columns, costs, strict=True):
        levels = np.array([*column.evaluated, column.dense])
        tie_break = 1e-6 * max(abs(column.baseline), 1e-12) * column.residuals[levels]
        values.append(column.curve(problem.monotonic)[levels] - tie_break)
        weights.append(row[levels].astype(float))
        options.append(levels)
    chosen = choose(values, weights, budget)
    return None if chosen is None else [int(row[index]) for row, index in zip(options, chosen, strict=True)]
