"""Metrics of users' own: a number for each operation of a program, whose sum is what the model costs."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from gracile.cost import METRICS, Operation
from gracile.errors import InputError
from gracile.registered import OWN_METRICS, require_own

OwnMetric: TypeAlias = Callable[[Operation], float]

# What the original costs, in the whole numbers in which searches count.
_UNITS = 10**9


def register_metric(name: str, function: OwnMetric) -> None:
    """Give a cost of one's own a name, which ``Target(own={name: 0.5})`` then takes.

    `gracile.testing.check_metric` tests one.

    Args:
        name: none of gracile's own; one given before is replaced.
        function: from a `gracile.cost.Operation`, one call of an operator that multiplies, to what it costs: a finite
            number from 0.  What a model costs is the sum over its operations in one call on the example inputs.

    Raises:
        InputError: the name is taken, or an argument is of the wrong kind.
    """
    require_own("metric", name, function, (*METRICS, "latency"))
    OWN_METRICS[name] = function


def require_metric(name: object) -> None:
    """Raises InputError where no metric has been registered under ``name``."""
    if name not in OWN_METRICS:
        known = ", ".join(OWN_METRICS) or "none"
        raise InputError(
            f"no metric was registered as {name!r}; those that were: {known}. Register one with "
            "gracile.register_metric(name, function), or take macs, params, bytes or latency"
        )


def amount_of(name: str, operations: Sequence[Operation]) -> float:
    """What a model with these operations costs by a metric that was registered.

    Raises:
        InputError: there is no such metric, it fails, or answers what is no cost.
    """
    return math.fsum(values_of(name, operations))


def values_of(name: str, operations: Sequence[Operation]) -> list[float]:
    """What each operation costs.

    Raises:
        InputError: as `amount_of`.
    """
    require_metric(name)
    function = OWN_METRICS[name]
    return [_value(name, function, operation) for operation in operations]


def _value(name: str, function: OwnMetric, operation: Operation) -> float:
    where = f"for the {operation.kind} of {operation.module or 'the model'}"
    try:
        found: Any = function(operation)
    except Exception as error:
        raise InputError(f"the metric {name!r} failed {where}: {type(error).__name__}: {error}") from error
    if isinstance(found, bool | str | bytes):
        raise InputError(f"the metric {name!r} returned {found!r} {where}; return a number from 0")
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the metric {name!r} returned a {type(found).__name__} {where}; return a number from 0"
        ) from error
    if not 0 <= value < math.inf:
        raise InputError(f"the metric {name!r} returned {value} {where}; return a finite number from 0")
    return value


def require_positive(name: str, operations: Sequence[Operation]) -> float:
    """What a model costs, where that is more than nothing.

    Raises:
        InputError: as `amount_of`; or the whole model costs nothing, so that no share of it means anything.
    """
    found = amount_of(name, operations)
    if not 0 < found < math.inf:
        raise InputError(f"the metric {name!r} gives {found:g} for the whole model; a share of that is no target")
    return found


def fingerprint_of(name: str, operations: Sequence[Operation]) -> str:
    """What tells one function from another under the same name: what they say of these operations."""
    text = " ".join(value.hex() for value in values_of(name, operations))
    return hashlib.sha256(f"{name} {text}".encode()).hexdigest()


class OwnPrice:
    """A metric as searches count it, see `gracile.cost.Pricing`: in billionths of what the original costs.

    Raises:
        InputError: see `require_positive`.
    """

    def __init__(self, name: str, operations: Sequence[Operation]) -> None:
        self._name = name
        self._whole = require_positive(name, operations)
        self.total = _UNITS

    def __call__(self, operations: Sequence[Operation], /) -> int:
        return round(_UNITS * (amount_of(self._name, operations) / self._whole))

    def layer(self, operations: Sequence[Operation], /) -> int:
        return self(operations)

    def by_rank(self, highest: int, factors: Callable[[int], Sequence[Operation]], /) -> Callable[[int], int]:  # noqa: ARG002 - every rank is counted
        return lambda rank: self(factors(rank))
