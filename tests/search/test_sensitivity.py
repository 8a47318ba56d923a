import pytest
from search_toys import Scored, problem

from gracile.maths.sensitivity import tolerated
from gracile.search.sensitivity import select_sensitivity
from gracile.search_options import Sensitivity
from gracile.store import Store

CURVE = [(0.1, 0.93), (0.2, 0.88), (0.3, 0.84), (0.4, 0.89)]


def widths(task, levels):
    return [int(column.sizes[level]) for column, level in zip(task.columns, levels, strict=True)]


@pytest.mark.parametrize(("drop", "wanted"), [(0.05, 0.2), (0.02, 0.1), (0.0, 0.1), (0.1, 0.4)])
def test_the_last_sparsity_before_the_first_that_falls_too_far(drop, wanted):
    assert tolerated(CURVE, 0.925, drop) == wanted


def test_nothing_is_tolerated_where_the_first_falls_too_far():
    assert tolerated(CURVE, 1.0, 0.05) == 0.0


def test_parts_lose_in_proportion_to_what_they_tolerate():
    # a tolerates 0.2 (0.02 a step), b 0.6 (0.008 a step); one step of 0.4 of the cost: 80 of 200.
    task = problem([1, 1], bound=120, levels=100)

    def score(sizes):
        return 1.0 - 0.05 * ((100 - sizes["a"]) / 20 + (100 - sizes["b"]) / 60) + 1e-9

    choice = select_sensitivity(task, Scored(task, score).scores, Sensitivity(step=0.4), seed=0)
    # 20 + 60 = 80: the factor is 1.
    assert widths(task, choice.levels) == [80, 40]
    assert len(choice.notes) == 1
    # Half of that is half of each.
    half = problem([1, 1], bound=160, levels=100)
    choice = select_sensitivity(half, Scored(half, score).scores, Sensitivity(step=0.4), seed=0)
    assert widths(half, choice.levels) == [90, 70]


def test_where_the_tolerated_drop_does_not_suffice_it_is_doubled_and_said():
    task = problem([1, 1], bound=120, levels=100)

    def score(sizes):
        return 1.0 - 0.05 * ((100 - sizes["a"]) / 10 + (100 - sizes["b"]) / 30) + 1e-9

    # Within 0.05: 0.1 and 0.3, 40 of the 80; within 0.1: 0.2 and 0.6.
    choice = select_sensitivity(task, Scored(task, score).scores, Sensitivity(step=0.4), seed=0)
    assert widths(task, choice.levels) == [80, 40]
    assert "up to 0.1 was allowed" in choice.notes[1]


def test_a_drop_that_nothing_exceeds_is_named():
    task = problem([1, 1], bound=10)
    choice = select_sensitivity(task, Scored(task, lambda _: 0.999).scores, Sensitivity(), seed=0)
    assert widths(task, choice.levels) == [5, 5]
    assert "all were cut alike" in choice.notes[1]


def test_each_iteration_looks_again_from_where_the_model_stands(tmp_path):
    task = problem([1, 1], bound=8)

    def score(sizes):
        # Each layer can do with four steps, and with no fewer.
        return 1.0 - (0.5 if sizes["a"] < 4 else 0) - (0.5 if sizes["b"] < 4 else 0)

    whole = Scored(task, score)
    wanted = select_sensitivity(task, whole.scores, Sensitivity(step=0.2), seed=0)
    assert widths(task, wanted.levels) == [4, 4]
    with Store(tmp_path / "x.db") as store, pytest.raises(RuntimeError, match="killed"):
        select_sensitivity(task, Scored(task, score, store=store, fails_after=9).scores, Sensitivity(step=0.2), seed=0)
    with Store(tmp_path / "x.db") as store:
        rest = Scored(task, score, store=store)
        assert select_sensitivity(task, rest.scores, Sensitivity(step=0.2), seed=0) == wanted
    assert len(rest.calls) == len(whole.calls) - 9
