"""The names of parts of users' own: methods, searches and metrics.

What stands behind a name is called by the package that gives it a meaning; here it is only kept, so that recipes, which
come before all of those, know the name.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from gracile.errors import InputError

# What a search of one's own looks at: the parts' residuals and costs alone, the evaluation dictionary besides, or the
# scores of whole models.
SearchSees = Literal["residuals", "dictionary", "models"]


@dataclass(frozen=True, slots=True)
class OwnSearch:
    """A search that has been registered."""

    formula: Callable[..., Any]
    sees: SearchSees


OWN_SEARCHES: dict[str, OwnSearch] = {}
OWN_METHODS: dict[str, Callable[..., Any]] = {}
OWN_METRICS: dict[str, Callable[..., Any]] = {}


def require_own(noun: str, name: object, function: object, taken: Collection[str]) -> None:
    """Raises InputError where something cannot be registered under ``name``."""
    if not isinstance(name, str) or not name or "+" in name or name in taken:
        raise InputError(
            f"a {noun} cannot be registered as {name!r}; give a text without + that names none of gracile's own"
        )
    if not callable(function):
        raise InputError(f"the {noun} {name!r} is a {type(function).__name__}; give a function")
