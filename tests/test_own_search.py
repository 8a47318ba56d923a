"""Searches of users' own: what they are given, and what is refused of their answers."""

import pytest
from search_toys import problem

from gracile import Search, register_search
from gracile.errors import InputError
from gracile.registered import OWN_SEARCHES
from gracile.search.select import is_joint, needs_dictionary, select
from gracile.testing import check_search


@pytest.fixture(autouse=True)
def forgotten():
    before = dict(OWN_SEARCHES)
    yield
    OWN_SEARCHES.clear()
    OWN_SEARCHES.update(before)


def lowest(task):
    return [0 for _ in task.columns]


def test_what_it_leaves_of_the_budget_is_spent():
    register_search("lowest", lowest, sees="residuals")
    selected, final = select(problem((10, 10), bound=120), "lowest")
    assert selected.levels == (0, 0)
    # 12 of 20 steps of ten, and one in each part is taken.
    assert sum(final.levels) == 10
    assert Search(kind="lowest").kind == "lowest"
    check_search("lowest")


def test_what_it_sees():
    for sees, dictionary, joint in (("residuals", False, False), ("dictionary", True, False), ("models", False, True)):
        register_search("one", lowest, sees=sees)
        assert (needs_dictionary("one"), is_joint("one")) == (dictionary, joint)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda task: [c.dense for c in task.columns], "which cost 200 macs; the bound is 120"),
        (lambda task: [0], "one level for each of the 2 columns"),
        (lambda task: [0, 99], "of 0 to"),
        (lambda task: 3, "returned 3; return one level"),
        (lambda task: task.nothing, "failed: AttributeError"),
    ],
)
def test_what_is_no_choice_is_refused(answer, message):
    register_search("wrong", answer, sees="residuals")
    with pytest.raises(InputError, match=message):
        select(problem((10, 10), bound=120), "wrong")
    with pytest.raises(AssertionError, match="the search 'wrong'"):
        check_search("wrong")


def test_a_search_that_changes_its_mind_is_caught():
    answers = iter(range(1000))

    def moody(task):
        return [next(answers) % 2 * (task.bound == task.total), *lowest(task)[1:]]

    register_search("moody", moody, sees="residuals")
    with pytest.raises(AssertionError, match="then"):
        check_search("moody")


@pytest.mark.parametrize(
    ("name", "formula", "sees", "message"),
    [
        ("exact", lowest, "models", "registered as 'exact'"),
        ("", lowest, "models", "registered as ''"),
        ("fine", 3, "models", "is a int"),
        ("fine", lowest, "all", "sees is 'all'"),
    ],
)
def test_bad_registrations_are_refused(name, formula, sees, message):
    with pytest.raises(InputError, match=message):
        register_search(name, formula, sees=sees)
    with pytest.raises(InputError, match="no search was registered"):
        check_search("fine")
    with pytest.raises(InputError, match="search is 'fine'"):
        Search(kind="fine")
