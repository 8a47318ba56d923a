"""From a kind of search to the levels of all layers: select, then give back what is left of the budget."""

from collections.abc import Callable

from gracile.recipe import SearchKind
from gracile.search.exact import select_exact
from gracile.search.greedy import select_greedy
from gracile.search.problem import Choice, Problem
from gracile.search.spend import spend
from gracile.search.tar import select_tar

# Adding a search: its function in a file beside this one, its name in recipe.SearchKind, one line here.
SELECTORS: dict[SearchKind, Callable[[Problem], Choice]] = {
    "greedy": select_greedy,
    "tar": select_tar,
    "exact": select_exact,
}

# The searches that need the evaluation dictionary.
SCORED: frozenset[SearchKind] = frozenset({"greedy", "exact"})


def select(problem: Problem, kind: SearchKind) -> tuple[Choice, Choice]:
    """What the search selects, and the same after the rest of the budget is spent.

    Raises:
        TargetError: no admissible levels reach the bound.
    """
    selected = SELECTORS[kind](problem)
    return selected, spend(problem, selected)
