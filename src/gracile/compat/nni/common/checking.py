"""Checks of config_list entries; every message names the entry and the key."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gracile.errors import InputError


def entries_of(config_list: Any) -> list[Mapping[str, Any]]:
    """The entries of a config_list.

    Raises:
        InputError: it is no list of dictionaries, or empty.
    """
    if isinstance(config_list, Mapping):
        raise InputError("config_list is a dictionary; give a list of dictionaries, as [{'op_types': ['Conv2d'], ...}]")
    if not isinstance(config_list, Sequence) or isinstance(config_list, str):
        raise InputError(f"config_list is a {type(config_list).__name__}; give a list of dictionaries")
    if not config_list:
        raise InputError("config_list is empty; give at least one entry, as {'op_types': ['Conv2d'], 'sparsity': 0.5}")
    for place, entry in enumerate(config_list):
        if not isinstance(entry, Mapping):
            raise InputError(f"config_list[{place}] is a {type(entry).__name__}; give a dictionary")
    return list(config_list)


def known_keys(where: str, entry: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises InputError where the entry has a key that means nothing."""
    names = sorted(known)
    for key in entry:
        if key not in names:
            raise InputError(
                f"{where}: the key {key!r} is unknown{hint(str(key), names)}; the keys are {', '.join(names)}"
            )


def hint(name: str, names: Iterable[str]) -> str:
    """What to add to a message where there are similar names: "; did you mean ...?"."""
    close = difflib.get_close_matches(name, sorted(set(names)), n=3)
    return f"; did you mean {' or '.join(repr(item) for item in close)}?" if close else ""


def number(where: str, key: str, value: Any, low: float = 0.0, high: float = 1.0) -> float:
    """A number within limits; whole numbers count.

    Raises:
        InputError: it is none.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high:
        limits = f"a number in [{low:g}, {high:g}]" if math.isfinite(high) else f"a number of at least {low:g}"
        raise InputError(f"{where}: {key} is {value!r}; give {limits}")
    return float(value)


def names_list(where: str, key: str, value: Any) -> list[str]:
    """A list of texts.

    Raises:
        InputError: it is none; a single text is one of the mistakes.
    """
    if isinstance(value, str):
        raise InputError(f"{where}: {key} is the text {value!r}; give a list: [{value!r}]")
    if not isinstance(value, list | tuple | set | frozenset) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: {key} is {value!r}; give a list of names")
    return list(value)


def known_modules(where: str, key: str, names: Iterable[str], modules: Iterable[str]) -> None:
    """Raises InputError for a name that no module has."""
    found = set(modules)
    for name in names:
        if name not in found:
            raise InputError(
                f"{where}: {key} has {name!r}, and the model has no module of that name{hint(name, found)}"
                + ("" if hint(name, found) else "; model.named_modules() lists them")
            )


def patterns(where: str, key: str, value: Any) -> list[re.Pattern[str]]:
    """Regular expressions.

    Raises:
        InputError: one does not compile.
    """
    found = []
    for text in names_list(where, key, value):
        try:
            found.append(re.compile(text))
        except re.error as error:
            raise InputError(f"{where}: {key} has {text!r}, which is no regular expression: {error}") from error
    return found


def count(owner: str, name: str, value: Any, least: int = 1) -> int:
    """A whole number.

    Raises:
        InputError: it is none, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{owner}: {name} is {value!r}; give a whole number from {least}")
    return value
