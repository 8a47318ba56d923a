"""From a kind of search to the levels of all layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from gracile.errors import EvaluationError, InputError, TargetError
from gracile.extras import extra
from gracile.recipe import OPTIONS, SEARCHES, Search, SearchKind
from gracile.registered import OWN_SEARCHES, OwnSearch, SearchSees, require_own
from gracile.search.annealing import select_annealing
from gracile.search.exact import select_exact
from gracile.search.greedy import select_greedy
from gracile.search.joint import JointScores
from gracile.search.netadapt import select_netadapt
from gracile.search.problem import Choice, Problem
from gracile.search.sensitivity import select_sensitivity
from gracile.search.spend import spend
from gracile.search.tar import select_tar

# Adding a search: its function in a file beside this one, its name in recipe.SearchKind, one line here.  Those of users
# are in `OWN_SEARCHES`.
SELECTORS: Mapping[str, Callable[[Problem], Choice]] = {
    "greedy": select_greedy,
    "tar": select_tar,
    "exact": select_exact,
}

# The searches that score models with all parts changed; they take their options and a seed.
JOINT_SELECTORS: Mapping[str, Callable[[Problem, JointScores, Any, int], Choice]] = {
    "annealing": select_annealing,
    "netadapt": select_netadapt,
    "sensitivity": select_sensitivity,
}

# The same, but of modules that import optional packages: module, function, extra.
_OPTIONAL: Mapping[str, tuple[str, str, str]] = {"amc": ("gracile.search.amc_agent", "select_amc", "rl")}

_SCORED: frozenset[SearchKind] = frozenset({"greedy", "exact"})


def needs_dictionary(kind: str) -> bool:
    """Whether the search looks at an evaluation dictionary."""
    return kind in _SCORED or (kind in OWN_SEARCHES and OWN_SEARCHES[kind].sees == "dictionary")


def is_joint(kind: str) -> bool:
    """Whether the search scores whole models."""
    return (
        kind in JOINT_SELECTORS or kind in _OPTIONAL or (kind in OWN_SEARCHES and OWN_SEARCHES[kind].sees == "models")
    )


def register_search(name: str, formula: Callable[..., Sequence[int]], *, sees: SearchSees = "dictionary") -> None:
    """Give a search of one's own a name, which ``compress(search=...)`` and `gracile.Search` then take.

    `gracile.testing.check_search` tests one.

    Args:
        name: none of gracile's own; one given before is replaced.
        formula: from a `gracile.search.problem.Problem` to one level for each of its columns, in their order, of a
            total cost within its bound.  gracile has made sure that the lowest levels are, and spends what is left of
            the budget.  Of "models" it is called with the problem, a function from levels to the score of the model
            with all parts at them, and a seed; what it answers is taken as it is.
        sees: "dictionary": columns have scores of each part alone; "residuals": nothing is evaluated; "models".

    Raises:
        InputError: the name is taken, or an argument is of the wrong kind.
    """
    require_own("search", name, formula, SEARCHES)
    if sees not in get_args(SearchSees):
        raise InputError(f"sees is {sees!r}; it is one of {', '.join(get_args(SearchSees))}")
    OWN_SEARCHES[name] = OwnSearch(formula, sees)


def select(problem: Problem, kind: str) -> tuple[Choice, Choice]:
    """What the search selects, and the same after the rest of the budget is spent.

    Raises:
        TargetError: no admissible levels reach the bound.
    """
    selected = own_choice(problem, kind) if kind in OWN_SEARCHES else SELECTORS[kind](problem)
    return selected, spend(problem, selected)


def require_packages(kind: str) -> None:
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
    if search.kind in OWN_SEARCHES:
        return own_choice(problem, search.kind, seed, scores)
    selector = JOINT_SELECTORS[search.kind] if search.kind in JOINT_SELECTORS else _optional(search.kind)
    options = OPTIONS[search.kind]() if search.options is None else search.options
    return selector(problem, scores, options, seed)


def own_choice(
    problem: Problem, kind: str, seed: int = 0, scores: Callable[[Sequence[int]], float] | None = None
) -> Choice:
    """What a search of the user's own answers, checked.

    Raises:
        TargetError: no admissible levels reach the bound.
        InputError: the search fails, or answers what is no choice.
        EvaluationError: the evaluation function failed.
    """
    search = OWN_SEARCHES[kind]
    arguments = (scores, seed) if search.sees == "models" else ()
    seen = search.sees == "dictionary"
    problem.require_reachable([column.floor if seen else 0 for column in problem.columns])
    try:
        found: Any = search.formula(problem, *arguments)
    except (TargetError, EvaluationError):
        raise
    except Exception as error:
        raise InputError(f"the search {kind!r} failed: {type(error).__name__}: {error}") from error
    try:
        levels = tuple(int(level) for level in found)
    except (TypeError, ValueError) as error:
        raise InputError(f"the search {kind!r} returned {found!r}; return one level for each column") from error
    if len(levels) != len(problem.columns) or not all(
        0 <= level <= column.dense for level, column in zip(levels, problem.columns, strict=True)
    ):
        raise InputError(
            f"the search {kind!r} returned {list(levels)}; return one level for each of the {len(problem.columns)} "
            f"columns, of 0 to {[column.dense for column in problem.columns]}"
        )
    cost = problem.cost(levels)
    if cost > problem.bound:
        raise InputError(
            f"the search {kind!r} returned {list(levels)}, which cost {cost} {problem.metric}; the bound is "
            f"{problem.bound:.6g}"
        )
    return Choice(levels)


def _optional(kind: str) -> Callable[[Problem, JointScores, Any, int], Choice]:
    module, function, needed = _OPTIONAL[kind]
    selector: Callable[[Problem, JointScores, Any, int], Choice] = getattr(
        extra(module, needed, purpose=f"search={kind!r}"), function
    )
    return selector
