from math import exp

import numpy as np
import pytest
from search_toys import Scored, problem, product_problem

from gracile.errors import TargetError
from gracile.search.annealing import acceptance, first_sparsities, select_annealing
from gracile.search.fitting import fit
from gracile.search_options import Annealing
from gracile.store import Store


def fragile_first(sizes):
    """The first layer must stay; the others cost little."""
    return 1.0 - 0.1 * (10 - sizes["a"]) - 0.01 * (10 - sizes["b"])


def test_a_worse_model_is_accepted_by_boltzmanns_law():
    assert acceptance(-5.0, 20.0) == 1.0
    assert acceptance(0.0, 20.0) == 1.0
    assert acceptance(30.0, 100.0) == pytest.approx(exp(-0.3))
    assert acceptance(100.0, 20.0) == pytest.approx(exp(-5))


def test_sparsities_are_scaled_by_the_factor_that_meets_the_target():
    # Costs 100 and 300, sparsities 0.2 and 0.4: 20 + 120 of 400 go.  To remove 200 they are scaled by 200 / 140.
    task = problem([1, 3], bound=200, levels=100)
    fitted = fit(task, [99, 99], np.array([0.2, 0.4]), 200)
    # 0.2857 and 0.5714 of 100 levels: 71 and 42 stay, which cost 71 + 126 = 197; factors are those at which a level
    # is reached, and what rounding left (3) is given back: one level of the second layer.
    assert [level + 1 for level in fitted.levels] == [71, 43]
    assert task.cost(fitted.levels) == 200
    assert fitted.factor == pytest.approx(200 / 140, abs=0.03)


def test_a_part_at_its_cap_stays_there_and_the_others_make_up_for_it():
    # No layer may lose more than half: the second wants 0.9.
    task = problem([1, 1], bound=12, levels=10, lowest=5)
    fitted = fit(task, [5, 5], np.array([0.1, 0.9]), 12)
    assert [int(task.columns[i].sizes[level]) for i, level in enumerate(fitted.levels)] == [7, 5]


def test_sparsities_are_shares_of_the_base_and_nothing_rises_above_it():
    task = problem([1, 1], bound=6)
    # From 8 and 4 of 10, one half each: 4 and 2.
    assert fit(task, [7, 3], np.array([0.5, 0.5]), 6).levels == [3, 1]
    assert fit(task, [7, 3], np.array([0.5, 0.0]), 4) is None


def test_the_layer_that_costs_most_starts_with_the_largest_sparsity():
    sparsities = first_sparsities(problem([2, 5, 3], bound=1), np.random.default_rng(0))
    assert list(np.argsort(sparsities)) == [0, 2, 1]
    assert sorted(sparsities) == sorted(np.random.default_rng(0).random(3))


def test_the_defaults_score_seventeen_models():
    task = problem([1, 1, 1], bound=150, levels=100)
    toy = Scored(task, lambda sizes: -float(sizes["a"]))
    choice = select_annealing(task, toy.scores, Annealing(), seed=0)
    # 100 * 0.9^n >= 20 for n = 0 ... 15, and the first.
    assert toy.scores.count == 17
    assert "scored 17 models" in choice.notes[0]


@pytest.mark.parametrize("seed", range(4))
def test_every_model_meets_the_target_and_the_best_is_returned(seed):
    task = problem([1, 1], bound=10)
    toy = Scored(task, fragile_first)
    choice = select_annealing(task, toy.scores, Annealing(cool_down_rate=0.95), seed)
    assert all(sum({"a": 10, "b": 10, **sizes}.values()) <= 10 for sizes in toy.calls)
    best = max(fragile_first({"a": 10, "b": 10, **sizes}) for sizes in toy.calls)
    assert fragile_first({"a": choice.levels[0] + 1, "b": choice.levels[1] + 1}) == best


def test_the_unit_of_the_score_does_not_matter():
    task = problem([1, 1, 2], bound=20)

    def result(unit):
        toy = Scored(task, lambda s: unit * (1.0 - 0.1 * (10 - s["a"]) - 0.02 * (10 - s["b"])), baseline=unit)
        return select_annealing(task, toy.scores, Annealing(), seed=3).levels

    assert result(1.0) == result(1024.0) == result(2.0**-20)


def test_a_base_is_never_exceeded():
    task = product_problem(bound=4)
    toy = Scored(task, lambda sizes: float(sizes["b"]))
    choice = select_annealing(task, toy.scores, Annealing(), seed=0, base=(3, 1))
    assert choice.levels[1] <= 1
    assert all(sizes["b"] <= 2 for sizes in toy.calls)


def test_same_seed_same_result_and_a_killed_search_goes_on(tmp_path):
    task = problem([1, 2, 3], bound=25)

    def score(sizes):
        return 1.0 - 0.05 * (10 - sizes["a"]) ** 2 - 0.01 * (10 - sizes["b"])

    whole = Scored(task, score)
    wanted = select_annealing(task, whole.scores, Annealing(), seed=5)
    assert select_annealing(task, Scored(task, score).scores, Annealing(), seed=5) == wanted
    with Store(tmp_path / "x.db") as store, pytest.raises(RuntimeError, match="killed"):
        select_annealing(task, Scored(task, score, store=store, fails_after=6).scores, Annealing(), seed=5)
    with Store(tmp_path / "x.db") as store:
        rest = Scored(task, score, store=store)
        assert select_annealing(task, rest.scores, Annealing(), seed=5) == wanted
    assert len(rest.calls) == len(whole.calls) - 6


def test_a_target_out_of_reach_is_refused_before_anything_is_scored():
    task = problem([1, 1], bound=1)
    toy = Scored(task, fragile_first)
    with pytest.raises(TargetError, match="cannot be reached"):
        select_annealing(task, toy.scores, Annealing(), seed=0)
    assert not toy.calls
