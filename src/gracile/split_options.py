"""What a user may say about how several methods share one target."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gracile.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How methods that are joined by "+" share a target: what is tried, and what goes on to the next method.

    With a split e the first method leaves C^e of the cost where C is asked for, the next one likewise of the way that
    is left, and the last one the rest: C = C^e C^(1-e) for two.

    AIMET's guidebook, for half of the cost, has 0.75, 0.65 and 0.5 left by spatial SVD, trains each, and goes on to
    channel pruning with those within about 5 % of the original: ``Split(values=(0.4, 0.6, 1.0), tolerated=0.05,
    trained=True)``.

    Raises:
        InputError: a value is out of range.
    """

    # In (0, 1]; at 1 the first method goes all the way, and the others are left out.
    values: tuple[float, ...] = (0.25, 0.5, 0.75)
    # What goes on to the next method has lost at most this share of the original's score; where none has, the one that
    # has lost the least goes on.  None lets all go on.
    tolerated: float | None = None
    # Whether all are trained (fine_tune or recover) after each method before they are judged; else only what is taken.
    trained: bool = False

    def __post_init__(self) -> None:
        good = isinstance(self.values, tuple) and all(_is_number(value) and 0 < value <= 1 for value in self.values)
        if not good or not self.values or len(set(self.values)) < len(self.values):
            raise InputError(f"Split: values is {self.values!r}; they are different numbers in (0, 1], in a tuple")
        if self.tolerated is not None and not (_is_number(self.tolerated) and 0 <= self.tolerated < 1):
            raise InputError(f"Split: tolerated is {self.tolerated!r}; it is a number in [0, 1), or None")
        if not isinstance(self.trained, bool):
            raise InputError(f"Split: trained is {self.trained!r}; it is True or False")


def split_of(values: Mapping[str, Any]) -> Split:
    """The options from their names and values; lists stand for tuples.

    Raises:
        InputError: there is no such option, or a value is out of range.
    """
    known = [field.name for field in fields(Split)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"Split has no option {unknown[0]!r}; it has {', '.join(known)}")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Split(**given)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
