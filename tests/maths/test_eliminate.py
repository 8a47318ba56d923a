"""Elimination against brute force, the LASSO order, and refits against the normal equations."""

from itertools import combinations

import numpy as np
import pytest
import torch

from gracile.maths.eliminate import (
    DAMPING,
    Reading,
    damped,
    eliminate,
    energy_of,
    lasso_order,
    refit_without,
    with_losses,
)


def reading(channels=6, positions=2, outputs=5, seed=0, others=0):
    """A layer that reads ``channels`` channels of ``positions`` inputs each, and ``others`` besides."""
    generator = torch.Generator().manual_seed(seed)
    size = channels * positions + others
    rows = torch.randn(400, size, generator=generator, dtype=torch.float64)
    mixed = rows @ torch.randn(size, size, generator=generator, dtype=torch.float64)
    gram = mixed.T @ mixed / len(rows)
    weight = torch.randn(outputs, size, generator=generator, dtype=torch.float64)
    blocks = torch.arange(channels * positions).reshape(channels, positions)
    return Reading(gram, weight, np.arange(channels), blocks, energy_of(gram, weight))


def loss(item, gone):
    """The error of the best weights without some channels, by the normal equations with the damped Gram matrix."""
    gram = damped(item.gram)
    absent = torch.zeros(len(gram), dtype=torch.bool)
    absent[item.blocks[list(gone)].flatten()] = True
    fitted = torch.zeros_like(item.weight)
    fitted[:, ~absent] = torch.linalg.solve(gram[~absent][:, ~absent], gram[~absent] @ item.weight.T).T
    difference = item.weight - fitted
    return float((difference @ gram * difference).sum()) / item.energy


@pytest.mark.parametrize("positions", [1, 2, 3])
def test_losses_are_those_of_the_best_fit_without_the_channels(positions):
    item = reading(positions=positions, others=3)
    order = eliminate([item], 6)
    assert sorted(order.removed) == list(range(6))
    for count in range(7):
        assert order.losses[count] == pytest.approx(loss(item, order.removed[:count]), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("positions", [1, 3])
def test_losses_are_exact_where_the_inverse_waits_for_several_channels(positions):
    """Some fifty channels, so that the whole inverse is brought up to date thrice, and channels go in between."""
    item = reading(channels=53, positions=positions, others=4)
    order = eliminate([item], 53)
    assert sorted(order.removed) == list(range(53))
    for count in (1, 15, 16, 17, 33, 50, 53):
        wanted = loss(item, order.removed[:count])
        assert order.losses[count] == pytest.approx(wanted, rel=1e-8)


def test_each_step_takes_the_channel_that_costs_least():
    item = reading()
    order = eliminate([item], 6)
    gone: list[int] = []
    for channel in order.removed:
        costs = {other: loss(item, [*gone, other]) for other in range(6) if other not in gone}
        assert channel == min(costs, key=costs.get)
        gone.append(int(channel))


def test_elimination_beats_most_subsets_where_channels_are_redundant():
    """A channel that is the sum of two others is free, whatever its weights."""
    item = reading(channels=5, positions=1)
    mix = torch.eye(5, dtype=torch.float64)
    mix[4] = torch.tensor([1.0, 1.0, 0, 0, 0])
    gram = mix @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0], dtype=torch.float64)) @ mix.T
    item = Reading(gram, item.weight * 10, item.channels, item.blocks, energy_of(gram, item.weight * 10))
    order = eliminate([item], 5)
    assert order.removed[0] in (0, 1, 4)
    assert order.losses[1] < 10 * DAMPING
    best = min(loss(item, gone) for gone in combinations(range(5), 2))
    assert order.losses[2] <= 1.5 * best


def test_costs_of_several_readers_are_added():
    items = [reading(seed=1), reading(seed=2, outputs=9)]
    order = eliminate(items, 6)
    for count in range(7):
        wanted = sum(loss(item, order.removed[:count]) for item in items)
        assert order.losses[count] == pytest.approx(wanted, rel=1e-8, abs=1e-12)


def test_a_reader_of_some_channels_says_nothing_about_the_others():
    first, second = reading(channels=4, seed=3), reading(channels=2, seed=4)
    second = Reading(second.gram, second.weight, np.array([4, 5]), second.blocks, second.energy)
    order = eliminate([first, second], 6)
    assert sorted(order.removed) == list(range(6))
    assert order.losses[-1] == pytest.approx(2.0, rel=1e-2)


def test_many_channels_go_several_at_a_time():
    item = reading(channels=600, positions=1, outputs=3)
    order = eliminate([item], 600)
    assert sorted(order.removed) == list(range(600))
    assert (np.diff(order.losses) >= 0).all()


def test_lasso_drops_what_adds_nothing_first():
    weight = torch.tensor([[3.0, 0.0, 1.0, 0.1]], dtype=torch.float64)
    gram = torch.eye(4, dtype=torch.float64)
    item = Reading(gram, weight, np.arange(4), torch.arange(4)[:, None], energy_of(gram, weight))
    order = lasso_order([item], 4)
    assert order.removed.tolist() == [1, 3, 2, 0]
    assert order.losses == pytest.approx(with_losses([item], order.removed).losses)


def test_a_refit_without_inputs_solves_the_normal_equations():
    item = reading(positions=1)
    gone = torch.tensor([True, False, False, True, False, False])
    fitted = refit_without(item.gram, item.weight, gone)
    assert not fitted[:, gone].any()
    gram = damped(item.gram)
    assert torch.allclose((fitted @ gram)[:, ~gone], (item.weight @ gram)[:, ~gone])
