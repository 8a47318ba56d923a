"""The knapsack against exhaustive search."""

from itertools import product

import numpy as np
import pytest

from gracile.maths.knapsack import choose


def best_by_force(values, costs, budget):
    totals = [
        sum(row[i] for row, i in zip(values, picked, strict=True))
        for picked in product(*(range(len(row)) for row in values))
        if sum(row[i] for row, i in zip(costs, picked, strict=True)) <= budget
    ]
    return max(totals) if totals else None


@pytest.mark.parametrize(("offset", "unit"), [(0, 1), (0, 1e-9), (1e3, 1e-4), (0, 1e6)])
@pytest.mark.parametrize("seed", range(10))
def test_the_choice_is_the_best_there_is(seed, offset, unit):
    """In whatever unit: scores may be errors of a millionth, or accuracies."""
    generator = np.random.default_rng(seed)
    values = [offset + unit * generator.normal(size=generator.integers(1, 5)) for _ in range(5)]
    costs = [generator.integers(1, 10**6, size=len(row)).astype(float) for row in values]
    budget = float(generator.uniform(0.2, 0.9) * sum(row.max() for row in costs))
    chosen = choose(values, costs, budget)
    best = best_by_force(values, costs, budget)
    if best is None:
        assert chosen is None
        return
    assert sum(row[i] for row, i in zip(costs, chosen, strict=True)) <= budget
    assert sum(row[i] for row, i in zip(values, chosen, strict=True)) == pytest.approx(best, rel=1e-12)


def test_a_budget_met_to_the_unit_is_used():
    values = [np.array([0.0, 1.0]), np.array([0.0, 1.0])]
    costs = [np.array([1.0, 10**9 + 1.0]), np.array([2.0, 3.0])]
    assert choose(values, costs, 10**9 + 4.0) == [1, 1]
    assert choose(values, costs, 10**9 + 3.0) == [1, 0]


def test_nothing_fits():
    assert choose([np.array([1.0])], [np.array([5.0])], 4.0) is None
