"""What a user asks for: the target and the search."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from gracile.cost import METRICS, Cost, Measure, Metric
from gracile.errors import InputError
from gracile.timings import Runtime, require_runtime

SearchKind = Literal["greedy", "tar", "exact"]
SEARCHES: tuple[SearchKind, ...] = get_args(SearchKind)

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*")
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(?:B)?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How small or how fast the model shall become, in exactly one metric.

    A number is a ratio in (0, 1] of the original; text is an absolute amount with an optional unit k, M, G or T:
    ``Target(macs=0.5)``, ``Target(params="1.5M")``, ``Target(bytes="600k")``.  A latency is measured:
    ``Target(latency=0.5, runtime="onnxruntime", threads=2)``, or absolutely, as ``Target(latency="5 ms")``.

    Raises:
        InputError: none or several metrics, a ratio out of range, or text that is no amount.
    """

    # Multiply-accumulates of one example.
    macs: float | str | None = None
    # Parameters, tied ones once.
    params: float | str | None = None
    # Bytes of the state_dict.
    bytes: float | str | None = None
    # Time of one call on the example inputs, where and with how many threads.
    latency: float | str | None = None
    runtime: Runtime = "onnxruntime"
    threads: int = 1

    def __post_init__(self) -> None:
        given = [name for name in (*METRICS, "latency") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"a Target names exactly one of macs, params, bytes and latency; {' and '.join(given) or 'none'} given"
            )
        require_runtime(self.runtime, self.threads)
        value = getattr(self, given[0])
        if given[0] == "latency" and isinstance(value, str):
            if not _TIME.fullmatch(value) or _seconds(value) <= 0:
                raise InputError(f'latency={value!r} is no time; give a number with us, ms or s, as in "5 ms"')
        elif isinstance(value, str):
            if not _AMOUNT.fullmatch(value) or _amount(value) <= 0:
                raise InputError(f'{given[0]}={value!r} is no amount; give a number with k, M, G or T, as in "500M"')
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise InputError(
                f"{given[0]}={value!r}: a ratio is a number in (0, 1]; "
                f'an absolute amount is text, as in {given[0]}="{"5 ms" if given[0] == "latency" else "500M"}"'
            )

    @property
    def measure(self) -> Measure:
        """What is bounded."""
        return "latency" if self.latency is not None else self.metric

    @property
    def metric(self) -> Metric:
        """What is counted: for a latency MACs, beside the time that is measured."""
        if self.latency is not None:
            return "macs"
        if self.macs is not None:
            return "macs"
        return "params" if self.params is not None else "bytes"

    def bound(self, cost: Cost) -> float:
        """The largest admissible cost, in the metric's units.

        Raises:
            InputError: the target is a latency, which has to be measured.
        """
        if self.latency is not None:
            raise InputError("a latency is measured while compressing: give it to gracile.compress")
        value = getattr(self, self.metric)
        return _amount(value) if isinstance(value, str) else value * cost[self.metric]

    def seconds(self, original: float) -> float:
        """The longest admissible time of a call, where the original takes ``original`` seconds."""
        assert self.latency is not None
        return _seconds(self.latency) if isinstance(self.latency, str) else self.latency * original


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    assert match is not None
    return float(match[1]) * _SECONDS[match[2]]


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
