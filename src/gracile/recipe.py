"""What a user asks for: the target and the search."""

import re
from dataclasses import dataclass, fields
from typing import Literal, get_args

from gracile.cost import Cost, Metric
from gracile.errors import InputError

SearchKind = Literal["greedy", "tar", "exact"]
SEARCHES: tuple[SearchKind, ...] = get_args(SearchKind)

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(?:B)?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How small the model shall become, in exactly one metric.

    A number is a ratio in (0, 1] of the original; text is an absolute amount with an optional unit k, M, G or T:
    ``Target(macs=0.5)``, ``Target(params="1.5M")``, ``Target(bytes="600k")``.

    Raises:
        InputError: none or several metrics, a ratio out of range, or text that is no amount.
    """

    # Multiply-accumulates of one example.
    macs: float | str | None = None
    # Parameters, tied ones once.
    params: float | str | None = None
    # Bytes of the state_dict.
    bytes: float | str | None = None

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if len(given) != 1:
            raise InputError(
                f"a Target names exactly one of macs, params and bytes; {' and '.join(given) or 'none'} given"
            )
        value = getattr(self, given[0])
        if isinstance(value, str):
            if not _AMOUNT.fullmatch(value) or _amount(value) <= 0:
                raise InputError(f'{given[0]}={value!r} is no amount; give a number with k, M, G or T, as in "500M"')
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise InputError(
                f"{given[0]}={value!r}: a ratio is a number in (0, 1]; "
                f'an absolute amount is text, as in {given[0]}="500M"'
            )

    @property
    def metric(self) -> Metric:
        if self.macs is not None:
            return "macs"
        return "params" if self.params is not None else "bytes"

    def bound(self, cost: Cost) -> float:
        """The largest admissible cost, in the metric's units."""
        value = getattr(self, self.metric)
        return _amount(value) if isinstance(value, str) else value * cost[self.metric]


def _amount(text: str) -> float:
    match = _AMOUNT.fullmatch(text)
    assert match is not None
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How the ratios of the layers are found.

    Raises:
        InputError: an unknown kind, or candidates that are no ratios.
    """

    # "exact": the largest sum of scores under the cost bound; "greedy": one common score that every layer may
    # fall to; "tar": one common relative residual, without evaluations.
    kind: SearchKind = "exact"
    # Cost ratios to evaluate in each layer: N stands for 1/N, 2/N ... (N-1)/N; or the ratios themselves.
    candidates: int | tuple[float, ...] = 10
    # Fit a monotone curve to each layer's scores before they are used.
    monotonic: bool = False

    def __post_init__(self) -> None:
        if self.kind not in SEARCHES:
            raise InputError(f"search is {self.kind!r}; it is one of {', '.join(SEARCHES)}")
        if not isinstance(self.candidates, int | tuple | list) or (
            isinstance(self.candidates, tuple | list)
            and not all(isinstance(ratio, int | float) for ratio in self.candidates)
        ):
            raise InputError(
                f"candidates is {self.candidates!r}; it is a number, as 10, or a tuple of ratios in (0, 1)"
            )
        if isinstance(self.candidates, int):
            if isinstance(self.candidates, bool) or self.candidates < 2:
                raise InputError(f"candidates is {self.candidates!r}; an integer must be at least 2")
        elif not self.candidates or not all(0 < ratio < 1 for ratio in self.candidates):
            raise InputError(f"candidates is {self.candidates!r}; ratios are numbers in (0, 1)")

    @property
    def ratios(self) -> tuple[float, ...]:
        """The candidate cost ratios, ascending."""
        if isinstance(self.candidates, int):
            return tuple(i / self.candidates for i in range(1, self.candidates))
        return tuple(sorted(set(self.candidates)))
