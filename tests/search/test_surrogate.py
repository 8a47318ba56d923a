"""Predicted scores on curves whose law is known."""

import numpy as np
import pytest

from gracile.errors import InputError
from gracile.maths.power_law import QUADRATIC, extended, pooled_exponent
from gracile.recipe import Search
from gracile.search.problem import Column
from gracile.search.surrogate import budget_of, predicted, sampled


def column(layer, factor, exponent=3.0, evaluated=(), baseline=10.0):
    """A layer that loses factor r^exponent."""
    residuals = np.array([0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.0])
    scores = baseline - factor * residuals**exponent
    return Column(
        layer=layer, sizes=np.arange(1, 8), costs=np.arange(10, 80, 10), residuals=residuals, evaluated=evaluated,
        scores=tuple(scores[list(evaluated)]), baseline=baseline,
    )  # fmt: skip


def test_the_exponent_is_pooled_by_least_squares():
    # Slopes log 8 / log 2 = 3 over a distance of log 2, and log 4 / log 4 = 1 over log 4: (3 + 4) / (1 + 4).
    curves = [(np.array([0.2, 0.4]), np.array([1.0, 8.0])), (np.array([0.1, 0.4]), np.array([1.0, 4.0]))]
    assert pooled_exponent(curves) == pytest.approx(7 / 5)
    assert pooled_exponent([(np.array([0.3]), np.array([1.0]))]) == QUADRATIC


def test_curves_go_through_the_known_points():
    found = extended(np.array([0.0, 0.1, 0.2, 0.3, 0.8]), np.array([0.4, 0.2]), np.array([8.0, 1.0]), 2.0)
    # Below by the square, between by the cube of the two points, above by the square again.
    np.testing.assert_allclose(found, [0.0, 0.25, 1.0, 27 / 8, 32.0])


def test_a_power_law_is_found_again_from_a_few_evaluations():
    factors = {"a": 1.0, "b": 20.0, "c": 5.0}
    candidates = [[0, 1, 2, 3, 4, 5]] * 3
    levels = sampled(candidates, 6)
    assert levels == [[0, 1]] * 3
    columns = [column(n, f, evaluated=tuple(s)) for (n, f), s in zip(factors.items(), levels, strict=True)]
    found = predicted(columns, candidates)
    assert found.exponent == pytest.approx(3.0)
    assert (found.evaluated, found.entries) == (6, 18)
    for filled, (name, factor) in zip(found.columns, factors.items(), strict=True):
        whole = column(name, factor, evaluated=(0, 1, 2, 3, 4, 5))
        np.testing.assert_allclose(filled.scores, whole.scores)
        assert filled.evaluated == whole.evaluated
        assert len(filled.predicted) == 6 - len(levels[list(factors).index(name)])


def test_the_error_is_that_of_layers_predicted_by_the_others():
    # One law has the exponent 3, the other 1: from (0.4, 1) at level 2 to level 0, where r is twice as large.
    columns = [column("a", 1 / 0.4**3, evaluated=(0, 2)), column("b", 1 / 0.4, exponent=1.0, evaluated=(0, 2))]
    found = predicted(columns, [[0, 1, 2]] * 2)
    # Predicted 2 where 8 was lost, and 8 where 2 was lost.
    assert found.error == pytest.approx(6.0)
    assert "differ by 6 on average" in found.note


def test_few_evaluations_are_spread_in_pairs_and_layers_without_one_take_the_typical_factor():
    # The odd one goes to the first.
    assert sampled([[0, 1, 2]] * 5, 5) == [[0, 1, 2], [], [], [], [0, 1]]
    assert [len(some) for some in sampled([[0, 1, 2]] * 5, 4)] == [2, 0, 0, 0, 2]
    assert sampled([[0, 1, 2], [4]], 100) == [[0, 1, 2], [4]]
    levels = sampled([[0, 1, 2]] * 5, 4)
    columns = [column("abcde"[i], 4.0, exponent=2.0, evaluated=tuple(some)) for i, some in enumerate(levels)]
    found = predicted(columns, [[0, 1, 2]] * 5)
    np.testing.assert_allclose(found.columns[2].scores, column("c", 4.0, 2.0, (0, 1, 2)).scores)


def test_where_nothing_is_lost_nothing_is_predicted_to_be_lost():
    found = predicted([column("a", 0.0, evaluated=(1,)), column("b", 0.0, evaluated=(1,))], [[0, 1, 2]] * 2)
    assert all(score == 10.0 for filled in found.columns for score in filled.scores)
    assert found.error is None


@pytest.mark.parametrize("surrogate", [1, 2.5, True, "all"])
def test_bad_budgets_are_refused(surrogate):
    with pytest.raises(InputError, match="surrogate is"):
        Search(surrogate=surrogate)
    assert budget_of("auto", 10) == 12
