"""Predicted scores on columns whose law is known."""

import numpy as np
import pytest

from gracile.errors import InputError
from gracile.recipe import Search
from gracile.search.problem import Column
from gracile.search.surrogate import budget_of, predicted, sampled

CHANGES = (0.8, 0.4, 0.2, 0.1, 0.05, 0.02)
SIZES = len(CHANGES) + 1


def column(layer, evaluated=(), scores=(), baseline=10.0):
    return Column(
        layer=layer, sizes=np.arange(1, SIZES + 1), costs=np.arange(10, 10 * SIZES + 10, 10),
        residuals=np.linspace(0.9, 0, SIZES), evaluated=tuple(evaluated), scores=tuple(scores), baseline=baseline,
    )  # fmt: skip


def changing(layer, factor):
    """A layer that changes the outputs by ``factor`` times `CHANGES`."""
    return column(layer, range(len(CHANGES)), [-factor * change for change in CHANGES], baseline=0.0)


def evaluated_as(change, levels, slope):
    """What evaluations give that fall by ``slope`` for each unit of change."""
    return column(change.layer, levels, [10.0 + slope * change.scores[level] for level in levels])


def test_a_linear_law_is_found_again_from_a_few_evaluations():
    changes = [changing("a", 1.0), changing("b", 20.0), changing("c", 5.0)]
    levels = sampled(changes, 4)
    assert sum(map(len, levels)) == 4
    columns = [evaluated_as(change, some, 3.0) for change, some in zip(changes, levels, strict=True)]
    found = predicted(columns, changes)
    assert found.slope == pytest.approx(3.0)
    assert found.told
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert (found.evaluated, found.entries) == (4, 18)
    for filled, change, some in zip(found.known, changes, levels, strict=True):
        np.testing.assert_allclose(filled.scores, [10.0 + 3.0 * score for score in change.scores])
        assert filled.evaluated == change.evaluated
        assert set(filled.predicted) == set(filled.evaluated) - set(some)


def test_evaluations_set_the_slope_and_are_reported_but_the_search_goes_by_the_law():
    changes = [changing("a", 1.0), changing("b", 1.0)]
    # Of the first much less is lost than of the second, by luck.
    columns = [column("a", [0], [9.9]), column("b", [0], [8.5])]
    found = predicted(columns, changes)
    assert found.slope == pytest.approx((0.1 + 1.5) / 1.6)
    assert found.columns[0].scores == found.columns[1].scores
    assert (found.known[0].scores[0], found.known[1].scores[0]) == (9.9, 8.5)


def test_the_error_is_that_of_evaluations_predicted_by_the_others():
    changes = [changing("a", 1.0), changing("b", 2.0)]
    # 0.8 is lost at a change of 0.8, and 0.8 at one of 1.6: slopes of 1 and 1/2.
    found = predicted([column("a", [0], [9.2]), column("b", [0], [9.2])], changes)
    assert found.error == pytest.approx((abs(0.4 - 0.8) + abs(1.6 - 0.8)) / 2)
    assert "differ by 0.6 on average" in found.note


def test_evaluations_are_spread_over_the_candidates_that_change_the_outputs_most():
    changes = [changing("a", 1.0), changing("b", 1e3), changing("c", 1e-3)]
    # A third of 18 are visible: those of b.
    assert sampled(changes, 2) == [[], [1, 4], []]
    assert [len(some) for some in sampled(changes, 18)] == [6, 6, 6]
    assert sampled(changes, 100) == [list(range(6))] * 3
    assert [len(some) for some in sampled(changes, 7)] == [1, 6, 0]


def test_where_no_evaluation_loses_anything_the_order_is_still_that_of_the_changes():
    changes = [changing("a", 1.0), changing("b", 4.0)]
    found = predicted([column("a", [0], [10.0]), column("b", [0], [10.5])], changes)
    assert not found.told
    assert "only the order" in found.note
    assert found.columns[0].scores[0] > found.columns[1].scores[0]
    assert all(np.diff(filled.scores).min() > 0 for filled in found.columns)


def test_where_the_outputs_never_change_nothing_is_predicted_to_be_lost():
    found = predicted([column("a", [1], [10.0]), column("b", [1], [10.0])], [changing("a", 0.0), changing("b", 0.0)])
    assert all(score == 10.0 for filled in found.columns for score in filled.scores)


@pytest.mark.parametrize("surrogate", [1, 2.5, True, "all"])
def test_bad_budgets_are_refused(surrogate):
    with pytest.raises(InputError, match="surrogate is"):
        Search(surrogate=surrogate)
    assert budget_of("auto", 10) == 3
    assert budget_of(60, 10) == 60
