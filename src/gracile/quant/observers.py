"""Observers: streams of values in, a range out; one row for each scale.

An observer is any object with ``observe(values)`` and ``range(spec)`` as `gracile.quantizer.Observer` says.
`observer_maker` finds the ones below by name; a class of your own is given in place of a name.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.maths.histogram import Histogram
from gracile.maths.quant_spec import QuantSpec
from gracile.maths.range_search import least_divergence, least_error
from gracile.quantizer import Observer

# Makes an observer for each quantizer.
ObserverMaker: TypeAlias = Callable[[], Observer]


class MinMax:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def observe(self, values: Tensor) -> None:
        low, high = values.amin(1), values.amax(1)
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the same for every format
        return _seen(self._low), _seen(self._high)


class MovingAverage:
    """Averages of each batch's smallest and largest value: new = old + (batch - old) * rate (Jacob et al. 2018).

    The first batch counts in full.
    """

    def __init__(self, rate: float = 0.01) -> None:
        self._rate = rate
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def observe(self, values: Tensor) -> None:
        low, high = values.amin(1), values.amax(1)
        self._low = low if self._low is None else torch.lerp(self._low, low, self._rate)
        self._high = high if self._high is None else torch.lerp(self._high, high, self._rate)

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the same for every format
        return _seen(self._low), _seen(self._high)


class _Counting:
    """Counts values in a histogram."""

    def __init__(self, bins: int = 2048) -> None:
        self._histogram = Histogram(bins)

    def observe(self, values: Tensor) -> None:
        self._histogram.add(values)


class Percentile(_Counting):
    """The range that holds all but ``(100 - percent) / 2`` percent of the values at either end."""

    def __init__(self, percent: float = 99.99, bins: int = 2048) -> None:
        if not 0 < percent <= 100:
            raise InputError(f"percent is {percent}; give a share of the values in (0, 100], such as 99.99")
        super().__init__(bins)
        self._tail = (1 - percent / 100) / 2

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the same for every format
        return self._histogram.quantile(self._tail), self._histogram.quantile(1 - self._tail)


class LeastSquares(_Counting):
    """The range whose levels are nearest to the values, in the mean of squares, among shrunk ones."""

    # The weight of errors of clipped values.
    _clipping = 1.0

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        return least_error(self._histogram, spec, clipping=self._clipping)


class SignalToNoise(LeastSquares):
    """As "mse", with errors of clipped values counted three times: fewer are clipped."""

    _clipping = 3.0


class Entropy(_Counting):
    """The range whose quantized distribution diverges least from the values' (Kullback-Leibler), among shrunk ones."""

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        return least_divergence(self._histogram, spec)


OBSERVERS: dict[str, ObserverMaker] = {
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "mse": LeastSquares,
    "sqnr": SignalToNoise,
    "entropy": Entropy,
}


def observer_maker(given: str | ObserverMaker) -> ObserverMaker:
    """What makes the observers: of a name, or a class or function of your own.

    Raises:
        InputError: there is none of that name, or what it makes is no observer.
    """
    if isinstance(given, str):
        if given not in OBSERVERS:
            raise InputError(
                f"there is no observer {given!r}; there are {', '.join(OBSERVERS)}, or give a class of your own"
            )
        return OBSERVERS[given]
    made = given() if callable(given) else None
    if not isinstance(made, Observer):
        raise InputError(
            f"observer is {given!r}; give a name ({', '.join(OBSERVERS)}), or a class or function that makes objects "
            "with observe(values) and range(spec); gracile.testing.check_observer checks them"
        )
    return given


def _seen(value: Tensor | None) -> Tensor:
    if value is None:
        raise InputError("the observer has seen no values; calibrate with batches that reach every quantizer")
    return value
