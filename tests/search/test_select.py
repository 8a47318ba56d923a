"""Selection on problems small enough to solve by hand."""

import numpy as np
import pytest

from gracile.errors import TargetError
from gracile.search.exact import select_exact
from gracile.search.greedy import select_greedy
from gracile.search.problem import Choice, Column, Problem
from gracile.search.select import select
from gracile.search.spend import spend
from gracile.search.tar import select_tar


def column(layer, scores, costs=(10, 20, 30, 100), residuals=(0.9, 0.5, 0.2, 0.0), baseline=1.0):
    """Three evaluated levels of sizes 1, 2 and 3, and the layer as it is."""
    return Column(
        layer=layer,
        sizes=np.array([1, 2, 3, 9]),
        costs=np.array(costs),
        residuals=np.array(residuals),
        evaluated=(0, 1, 2),
        scores=tuple(scores),
        baseline=baseline,
    )


def problem(columns, bound, fixed=0, monotonic=False):
    total = fixed + sum(int(c.costs[-1]) for c in columns)
    return Problem(columns=tuple(columns), fixed=fixed, bound=bound, total=total, metric="macs", monotonic=monotonic)


def test_greedy_takes_one_common_score():
    robust, fragile = column("robust", (0.9, 0.95, 0.99)), column("fragile", (0.2, 0.5, 0.9))
    choice = select_greedy(problem([robust, fragile], bound=45))
    # At 0.9 the robust layer falls to its lowest level (10) and the fragile one to its third (30); at 0.95 they
    # need 20 and 100.
    assert choice.levels == (0, 2)


def test_greedy_walks_down_from_the_top_of_a_column_that_is_not_monotone():
    odd = column("odd", (0.6, 0.7, 0.5))
    # Level 0 has 0.6, but level 2 above it only 0.5: at a threshold of 0.6 the walk from the top stops before it.
    choice = select_greedy(problem([odd], bound=60))
    assert choice.levels == (0,)
    assert "odd" in choice.notes[0]
    assert "monotonic=True" in choice.notes[0]


def test_a_monotone_fit_pools_what_falls():
    odd = column("odd", (0.6, 0.7, 0.5))
    fitted = odd.curve(monotonic=True)
    np.testing.assert_allclose(fitted, [0.6, 0.6, 0.6, 1.0])
    assert not select_greedy(problem([odd], bound=60, monotonic=True)).notes


def test_the_curve_is_linear_in_the_cost_between_evaluated_levels():
    sparse = Column(
        layer="a", sizes=np.arange(1, 5), costs=np.array([10, 20, 30, 40]), residuals=np.zeros(4),
        evaluated=(0,), scores=(0.4,), baseline=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(sparse.curve(), [0.4, 0.6, 0.8, 1.0])


def test_flat_scores_are_explained_and_the_residuals_decide():
    flat = [column("a", (1.0, 1.0, 1.0)), column("b", (1.0, 1.0, 1.0), residuals=(0.3, 0.2, 0.1, 0.0))]
    choice = select_greedy(problem(flat, bound=45))
    assert "do not tell the layers apart" in choice.notes[0]
    assert choice.levels == select_tar(problem(flat, bound=45)).levels


@pytest.mark.parametrize("kind", ["greedy", "tar", "exact"])
def test_a_target_out_of_reach_is_refused_with_what_is_reachable(kind):
    with pytest.raises(TargetError, match=r"0\.3 remain, of which 0\.2 lie") as caught:
        select(problem([column("a", (0.5, 0.6, 0.7), costs=(10, 20, 30, 80))], bound=20, fixed=20), kind)
    assert "Search(candidates=" in str(caught.value)


def test_tar_takes_the_lowest_common_residual_that_fits():
    first, second = column("a", (0,) * 3), column("b", (0,) * 3, residuals=(0.5, 0.3, 0.1, 0.0))
    # Residual 0.5: levels 1 and 0, cost 30.  Residual 0.3: 2 and 1, 50.  Residual 0.2: 2 and 2, 60.
    assert select_tar(problem([first, second], bound=55)).levels == (2, 1)
    assert select_tar(problem([first, second], bound=49)).levels == (1, 0)


def test_exact_maximises_the_sum_where_greedy_needs_a_common_score():
    # One cheap layer that loses much at any level and one dear layer that loses little: a common score wastes.
    cheap = column("cheap", (0.1, 0.2, 0.8), costs=(1, 2, 3, 10))
    dear = column("dear", (0.5, 0.6, 0.9), costs=(100, 200, 300, 1000))
    chosen = select_exact(problem([cheap, dear], bound=310))
    assert chosen.levels == (3, 2)


def test_exact_breaks_equal_sums_by_the_residual():
    left, right = column("left", (0.5, 0.5, 0.9)), column("right", (0.5, 0.5, 0.9), residuals=(0.9, 0.1, 0.05, 0.0))
    assert select_exact(problem([left, right], bound=30)).levels == (0, 1)


def test_spending_ends_when_no_step_fits():
    columns = [column("a", (0.5, 0.6, 0.7)), column("b", (0.1, 0.8, 0.9))]
    task = problem(columns, bound=55)
    spent = spend(task, Choice((0, 0)))
    # b gains most from the first step; then 25 remain of 55, which b and a use up together.
    assert task.cost(spent.levels) <= 55
    for index, level in enumerate(spent.levels):
        higher = [*spent.levels]
        higher[index] = level + 1
        assert level == 3 or task.cost(higher) > 55
    assert spent.levels[1] >= 1


def test_spending_follows_the_residual_where_scores_say_nothing():
    columns = [column("a", (1.0, 1.0, 1.0)), column("b", (1.0, 1.0, 1.0), residuals=(0.95, 0.1, 0.05, 0.0))]
    assert spend(problem(columns, bound=30), Choice((0, 0))).levels == (0, 1)


def test_a_layer_without_admissible_levels_stays_as_it_is():
    only_dense = Column(layer="x", sizes=np.array([7]), costs=np.array([50]), residuals=np.zeros(1), baseline=1.0)
    task = problem([only_dense, column("a", (0.5, 0.6, 0.7))], bound=75)
    for kind in ("greedy", "tar", "exact"):
        _, final = select(task, kind)
        assert final.levels[0] == 0
        assert task.cost(final.levels) <= 75
