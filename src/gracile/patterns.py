"""Module names chosen by shell patterns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gracile.errors import InputError


@dataclass(frozen=True)
class Matched:
    # Name -> the last pattern that matches it.
    names: dict[str, str]
    # Patterns that match no name.
    unmatched: tuple[str, ...]


def matching(patterns: Iterable[str], names: Sequence[str]) -> Matched:
    """Match shell patterns ("layer1.*", "head*"; not regular expressions) against names; later patterns win."""
    found: dict[str, str] = {}
    unmatched = []
    for pattern in patterns:
        hits = [name for name in names if fnmatchcase(name, pattern)]
        found |= dict.fromkeys(hits, pattern)
        if not hits:
            unmatched.append(pattern)
    return Matched(found, tuple(unmatched))


def require_patterns(**patterns: Iterable[str] | None) -> None:
    """Raises InputError where an argument that takes patterns is one text, which would be taken letter by letter."""
    for name, value in patterns.items():
        if isinstance(value, str):
            raise InputError(f"{name} is the text {value!r}; give a list of patterns: [{value!r}]")
