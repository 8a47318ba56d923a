"""From a kind of search to the levels of all layers."""

from collections.abc import Callable
from typing import Any

from gracile.extras import extra
from gracile.recipe import OPTIONS, Search, SearchKind
from gracile.search.annealing import select_annealing
from gracile.search.exact import select_exact
from gracile.search.greedy import select_greedy
from gracile.search.joint import JointScores
from gracile.search.netadapt import select_netadapt
from gracile.search.problem import Choice, Problem
from gracile.search.sensitivity import select_sensitivity
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

# The searches that score models with all parts changed; they take their options and a seed.
JOINT_SELECTORS: dict[SearchKind, Callable[[Problem, JointScores, Any, int], Choice]] = {
    "annealing": select_annealing,
    "netadapt": select_netadapt,
    "sensitivity": select_sensitivity,
}

# The same, but of modules that import optional packages: module, function, extra.
_OPTIONAL: dict[SearchKind, tuple[str, str, str]] = {"amc": ("gracile.search.amc_agent", "select_amc", "rl")}

JOINT: frozenset[SearchKind] = frozenset({*JOINT_SELECTORS, *_OPTIONAL})


def select(problem: Problem, kind: SearchKind) -> tuple[Choice, Choice]:
    """What the search selects, and the same after the rest of the budget is spent.

    Raises:
        TargetError: no admissible levels reach the bound.
    """
    selected = SELECTORS[kind](problem)
    return selected, spend(problem, selected)


def require_packages(kind: SearchKind) -> None:
    """Raises MissingExtraError where the search needs an optional package that is not installed."""
    if kind in _OPTIONAL:
        _optional(kind)


def select_jointly(problem: Problem, scores: JointScores, search: Search, seed: int) -> Choice:
    """The levels that a search over whole models selects; they were scored as they are.

    Raises:
        TargetError: no admissible levels reach the bound; found out before anything is scored.
        EvaluationError: the evaluation function failed.
        MissingExtraError: the search needs an optional package.
    """
    selector = JOINT_SELECTORS[search.kind] if search.kind in JOINT_SELECTORS else _optional(search.kind)
    options = OPTIONS[search.kind]() if search.options is None else search.options
    return selector(problem, scores, options, seed)


def _optional(kind: SearchKind) -> Callable[[Problem, JointScores, Any, int], Choice]:
    module, function, needed = _OPTIONAL[kind]
    selector: Callable[[Problem, JointScores, Any, int], Choice] = getattr(
        extra(module, needed, purpose=f"search={kind!r}"), function
    )
    return selector
