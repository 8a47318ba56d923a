import pytest
from search_toys import Scored, problem, product_problem

from gracile.search.netadapt import proposals, select_netadapt
from gracile.search_options import NetAdapt
from gracile.store import Store


def widths(task, levels):
    return [int(column.sizes[level]) for column, level in zip(task.columns, levels, strict=True)]


def test_each_part_alone_meets_the_constraint_with_as_much_as_it_can_keep():
    # 30 in all; to reach 24 the first layer (1 a step) gives 6, the second (2 a step) 3.
    task = problem([1, 2], bound=10)
    assert [widths(task, found) for found in proposals(task, [9, 9], 24)] == [[4, 10], [10, 7]]
    # The first cannot give 12 alone; it is no candidate.
    assert [widths(task, found) for found in proposals(task, [9, 9], 18)] == [[10, 4]]
    # Nobody can give 25 alone: each goes as far as it may.
    assert [widths(task, found) for found in proposals(task, [9, 9], 5)] == [[1, 10], [10, 1]]


def test_costs_that_depend_on_one_another_are_priced_together():
    # 4 x 4; to reach 9: 2 x 4 = 8 or 4 x 2 = 8.
    assert proposals(product_problem(bound=8), [3, 3], 9) == [[1, 3], [3, 1]]
    # With 4 x 2 already: 6 needs 3 x 2 or 4 x 1.
    assert proposals(product_problem(bound=8), [3, 1], 6) == [[2, 1], [3, 0]]


def test_each_step_is_taken_where_it_costs_least():
    task = problem([1, 2], bound=15)

    def score(sizes):
        # The second layer gives away its first four steps for nothing, then each costs more than one of the first.
        return 1.0 - 0.01 * (10 - sizes["a"]) - 0.1 * max(0, 6 - sizes["b"])

    toy = Scored(task, score)
    choice = select_netadapt(task, toy.scores, NetAdapt(step=0.2), seed=0)
    # 24: b to 7 for nothing beats a to 4.  18: a to 4 loses 0.06, b to 4 0.2.  15: a to 1 loses 0.03 more, b to 5 0.1.
    assert widths(task, choice.levels) == [1, 7]
    assert task.cost(choice.levels) == 15
    assert toy.scores.count == 6
    assert "6 models in 3 iterations" in choice.notes[0]


def test_of_equal_scores_the_cheaper_model_wins():
    task = problem([3, 2], bound=46)
    # 46 needs two steps of either: of the first, which leaves 44, or of the second, which leaves 46.
    found = select_netadapt(task, Scored(task, lambda _: 0.5).scores, NetAdapt(step=0.5), 0)
    assert widths(task, found.levels) == [8, 10]
    turned = problem([2, 3], bound=46)
    found = select_netadapt(turned, Scored(turned, lambda _: 0.5).scores, NetAdapt(step=0.5), 0)
    assert widths(turned, found.levels) == [10, 8]


def test_a_killed_search_goes_on(tmp_path):
    task = problem([1, 2, 3], bound=25)

    def score(sizes):
        return 1.0 - 0.05 * (10 - sizes["a"]) ** 2 - 0.01 * (10 - sizes["b"]) - 0.02 * (10 - sizes["c"])

    whole = Scored(task, score)
    wanted = select_netadapt(task, whole.scores, NetAdapt(), seed=0)
    with Store(tmp_path / "x.db") as store, pytest.raises(RuntimeError, match="killed"):
        select_netadapt(task, Scored(task, score, store=store, fails_after=10).scores, NetAdapt(), seed=0)
    with Store(tmp_path / "x.db") as store:
        rest = Scored(task, score, store=store)
        assert select_netadapt(task, rest.scores, NetAdapt(), seed=0) == wanted
    assert len(rest.calls) == len(whole.calls) - 10
