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


def require_patterns(name: str, patterns: object) -> None:
    """Raises InputError where the argument ``name`` is no list of texts."""
    if isinstance(patterns, str):
        raise InputError(f"{name} is the text {patterns!r}; give a list of patterns: [{patterns!r}]")
    if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f"{name} is {patterns!r}; give a list of shell patterns, as ['layer1.*'], or [] for none")


def matching(patterns: Iterable[str], names: Sequence[str]) -> Matched:
    """Match shell patterns ("layer1.*", "head*"; not regular expressions) against names; later patterns win.

    Raises:
        InputError: a pattern is no text.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(f"{pattern!r} is a {type(pattern).__name__}; patterns are texts, as 'layer1.*'")
    found: dict[str, str] = {}
    unmatched = []
    for pattern in patterns:
        hits = [name for name in names if fnmatchcase(name, pattern)]
        found |= dict.fromkeys(hits, pattern)
        if not hits:
            unmatched.append(pattern)
    return Matched(found, tuple(unmatched))
