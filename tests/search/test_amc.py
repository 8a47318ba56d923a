"""AMC's state and action bound; what its agent does stands in test_amc_agent.py."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import truncnorm
from search_toys import problem, product_problem

from gracile.search.amc import STATES, Walk, bounded_level, truncated_normal


def duty(task, sparsities, part, largest):
    """The least sparsity of ``part`` by Algorithm 1 of the paper: W_duty / W_t."""
    whole = [task.weight(index) for index in range(len(task.columns))]
    removed = sum(sparsity * cost for sparsity, cost in zip(sparsities, whole, strict=False))
    rest = sum(whole[part + 1 :])
    return max(0.0, (task.total - task.bound - largest * rest - removed) / whole[part])


def kept(task, levels, part, action):
    return float(task.shares(part)[bounded_level(task, levels, part, action)])


def test_an_action_is_bounded_as_algorithm_1_says():
    # Costs 100, 200 and 100; at most 0.8 of each goes; half of the total must: 200.
    task = problem([1, 2, 1], bound=200, levels=100, lowest=20)
    # The first may stay whole: the others can lose 160 + 80 = 240.
    assert duty(task, [], 0, 0.8) == 0.0
    assert kept(task, [], 0, 0.0) == 1.0
    # Then the second has to lose 200 - 80 = 120 of its 200, whatever the action is below that.
    assert duty(task, [0.0], 1, 0.8) == pytest.approx(0.6)
    assert kept(task, [80], 1, 0.0) == kept(task, [80], 1, 0.3) == pytest.approx(0.4)
    assert kept(task, [80], 1, 0.75) == pytest.approx(0.25)
    # And the third, after 120 are gone, the 80 that are left to remove.
    assert duty(task, [0.0, 0.6], 2, 0.8) == pytest.approx(0.8)
    assert kept(task, [80, 20], 2, 0.1) == pytest.approx(0.2)
    # No action removes more than may go.
    assert kept(task, [80], 1, 1.0) == pytest.approx(0.2)


def test_costs_that_depend_on_one_another_are_bounded_by_the_total():
    # 4 x 4 = 16 to 8 from the front: the first may stay, as the second can go to 1; then it must go to 2.
    task = product_problem(bound=8)
    assert bounded_level(task, [3, 3], 0, 0.0) == 3
    assert bounded_level(task, [3, 3], 1, 0.0) == 1
    # 4 x 4 to 3: the first to 3.
    assert bounded_level(product_problem(bound=3), [3, 3], 0, 0.0) == 2


def test_the_state_is_what_the_paper_lists():
    task = problem([1, 2, 1], bound=200, levels=100, lowest=20)
    shapes = np.array([[16, 3, 32, 32, 1, 3], [32, 16, 32, 32, 2, 3], [64, 32, 16, 16, 1, 5]], dtype=float)
    walk = Walk(replace(task, shapes=shapes))
    first = walk.state()
    assert first.shape == (STATES,)
    # Index, outputs, inputs, height, width, stride, kernel, cost: each from 0 to 1; 300 of 400 come after; no action.
    np.testing.assert_allclose(first, [0, 0, 0, 1, 1, 0, 0, 0, 0, 0.75, 0], atol=1e-12)
    assert walk.step(0.5) == pytest.approx(0.5)
    second = walk.state()
    np.testing.assert_allclose(second, [0.5, 1 / 3, 13 / 29, 1, 1, 1, 0, 1, 50 / 400, 0.25, 0.5], atol=1e-12)
    walk.step(0.1)
    # What was asked for was too little: 200 - 50 - 80 = 70 of 200.
    np.testing.assert_allclose(walk.state(), [1, 1, 1, 0, 0, 0, 1, 0, 120 / 400, 0, 0.35], atol=1e-12)
    walk.step(0.0)
    assert walk.done
    assert task.cost(walk.levels) <= task.bound
    np.testing.assert_array_equal(walk.state(), np.zeros(STATES))
    walk.begin()
    np.testing.assert_array_equal(walk.state(), first)


@pytest.mark.parametrize("seed", range(5))
def test_any_walk_ends_within_the_target(seed):
    task = problem([3, 1, 4, 1, 5], bound=60, levels=10, lowest=3)
    walk = Walk(task)
    random = np.random.default_rng(seed)
    while not walk.done:
        walk.step(float(random.uniform(0, 0.5)))
    assert task.cost(walk.levels) <= 60


def test_draws_follow_the_truncated_normal_distribution():
    uniform = np.linspace(0.001, 0.999, 97)
    for mean, deviation in ((0.2, 0.5), (0.95, 0.1), (0.0, 2.0)):
        drawn = truncated_normal(np.full(97, mean), deviation, 0.0, 1.0, uniform)
        wanted = truncnorm.ppf(uniform, -mean / deviation, (1 - mean) / deviation, mean, deviation)
        np.testing.assert_allclose(drawn, wanted, atol=1e-9)
