"""What a user asks for: the target and the search."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from gracile.cost import METRICS, Cost, Measure, Metric, Pricing
from gracile.errors import InputError
from gracile.inputs import require_flags
from gracile.maths.factorize import SCHEMES
from gracile.maths.quant_spec import INTEGERS
from gracile.own_metric import OwnPrice, amount_of, require_metric
from gracile.registered import OWN_METHODS, OWN_SEARCHES
from gracile.search_options import AMC, Annealing, NetAdapt, Options, Sensitivity
from gracile.timings import Runtime, require_runtime

PruningMethod: TypeAlias = Literal["channel_pruning", "prune"]
PRUNING: tuple[PruningMethod, ...] = get_args(PruningMethod)
# INTEGERS change the numbers, and no sizes: one of them may come last.
METHODS: tuple[str, ...] = (*SCHEMES, *PRUNING, *INTEGERS)

Scope = Literal["layer", "global"]
SearchKind = Literal["greedy", "tar", "exact", "annealing", "netadapt", "sensitivity", "amc"]
SEARCHES: tuple[SearchKind, ...] = get_args(SearchKind)
# The searches that have options of their own.
OPTIONS: Mapping[str, type[Options]] = {
    "annealing": Annealing,
    "netadapt": NetAdapt,
    "sensitivity": Sensitivity,
    "amc": AMC,
}


def methods_of(method: object, registered: Collection[str] = OWN_METHODS) -> tuple[str, ...]:
    """The methods that "a+b" joins, in their order.

    Args:
        registered: names beside gracile's own.

    Raises:
        InputError: one of them is unknown, or one of integers is not the last.
    """
    parts = method.split("+") if isinstance(method, str) else [method]
    unknown = [part for part in parts if not part or part not in (*METHODS, *registered)]
    if unknown:
        raise InputError(
            f"method is {method!r}; it is one of {', '.join((*METHODS, *OWN_METHODS))}, or several joined by +, as "
            "'spatial_svd+channel_pruning', or 'auto', which finds them"
        )
    early = [part for part in parts[:-1] if part in INTEGERS]
    if early:
        raise InputError(
            f"method is {method!r}; {early[0]} comes last and once, as in 'prune+{early[0]}': what is quantized is a "
            "captured program, which is no longer cut"
        )
    return tuple(str(part) for part in parts)


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*")
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(?:B)?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How small or how fast the model shall become, in exactly one metric.

    A number is a ratio in (0, 1] of the original; text is an absolute amount with an optional unit k, M, G or T:
    ``Target(macs=0.5)``, ``Target(params="1.5M")``, ``Target(bytes="600k")``.  A latency is measured:
    ``Target(latency=0.5, runtime="onnxruntime", threads=2)``, or absolutely, as ``Target(latency="5 ms")``.  A metric
    of your own, see `register_metric`, has its name: ``Target(own={"energy": 0.5})``.

    Raises:
        InputError: none or several metrics, one that was not registered, a ratio out of range, or text that is no
            amount.
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
    # The name of a metric that was registered, with its bound.
    own: Mapping[str, float | str] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        given = [name for name in (*METRICS, "latency", "own") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                "a Target names exactly one of macs, params, bytes, latency and own; "
                f"{' and '.join(given) or 'none'} given"
            )
        require_runtime(self.runtime, self.threads)
        if self.own is not None:
            object.__setattr__(self, "own", require_one(self.own))
            require_metric(self.measure)
        require_bound(self.measure, self.value)

    @property
    def measure(self) -> Measure:
        """What is bounded: a metric, "latency", or the name of a metric of the user's own."""
        if self.own is not None:
            return next(iter(self.own))
        return "latency" if self.latency is not None else self.metric

    @property
    def value(self) -> float | str:
        """Its bound, as it was given."""
        if self.own is not None:
            return self.own[self.measure]
        found: float | str = getattr(self, self.measure)
        return found

    @property
    def metric(self) -> Metric:
        """What is counted: MACs beside a latency, which is measured, and beside a metric of the user's own."""
        if self.latency is not None or self.own is not None:
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
        return _amount(self.value) if isinstance(self.value, str) else self.value * self.amount(cost)

    def amount(self, cost: Cost) -> float:
        """How much of what the target bounds a model costs; of a latency its MACs.

        Raises:
            InputError: a metric of the user's own fails, or answers what is no cost.
        """
        return cost[self.metric] if self.own is None else amount_of(self.measure, cost.operations)

    def pricing(self, cost: Cost) -> tuple[Pricing, float] | None:
        """How searches count a metric of the user's own in a model that costs ``cost``, and the bound in their unit.

        Raises:
            InputError: as `amount`.
        """
        if self.own is None:
            return None
        found = OwnPrice(self.measure, cost.operations)
        return found, self.bound(cost) / self.amount(cost) * found.total

    def at(self, ratio: float) -> "Target":
        """The same metric, bounded at another share of the original.

        Raises:
            InputError: the target is a latency, or the ratio is out of range.
        """
        if self.latency is not None:
            raise InputError("a latency is measured while compressing: give it to gracile.compress")
        if self.own is not None:
            return Target(own={self.measure: ratio})
        match self.metric:
            case "macs":
                return Target(macs=ratio)
            case "params":
                return Target(params=ratio)
            case "bytes":
                return Target(bytes=ratio)

    def seconds(self, original: float) -> float:
        """The longest admissible time of a call, where the original takes ``original`` seconds."""
        assert self.latency is not None
        return _seconds(self.latency) if isinstance(self.latency, str) else self.latency * original


def require_one(own: object) -> dict[str, Any]:
    """The one name with its bound.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(own, Mapping) or len(own) != 1:
        raise InputError(f"own is {own!r}; give one metric and its bound, as own={{'energy': 0.5}}")
    return dict(own)


def require_bound(name: str, value: object) -> None:
    """Raises InputError where ``value`` bounds nothing."""
    if name == "latency" and isinstance(value, str):
        if not _TIME.fullmatch(value) or _seconds(value) <= 0:
            raise InputError(f'latency={value!r} is no time; give a number with us, ms or s, as in "5 ms"')
    elif isinstance(value, str):
        if not _AMOUNT.fullmatch(value) or _amount(value) <= 0:
            raise InputError(f'{name}={value!r} is no amount; give a number with k, M, G or T, as in "500M"')
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InputError(
            f"{name}={value!r}: a ratio is a number in (0, 1]; "
            f'an absolute amount is text, as in {name}="{"5 ms" if name == "latency" else "500M"}"'
        )


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
        InputError: an unknown kind, candidates that are no ratios, or options of another kind.
    """

    # "exact": the largest sum of scores under the cost bound; "greedy": one common score that every layer may
    # fall to; "tar": one common relative residual, without evaluations.  The others score models with all parts cut:
    # "annealing", "netadapt", "sensitivity", "amc".  Or the name of one that was registered.
    kind: str = "exact"
    # Of "exact" and "greedy": cost ratios to evaluate in each layer: N stands for 1/N, 2/N ... (N-1)/N; or the ratios
    # themselves.
    candidates: int | tuple[float, ...] = 10
    # Fit a monotone curve to each layer's scores before they are used.
    monotonic: bool = False
    # Of "exact" and "greedy": evaluate only so many candidates, and go by what the change of the model's outputs
    # predicts, on some of the calibration data or the example inputs; "auto": two, and one for every eight layers.
    # None evaluates all.
    surrogate: int | Literal["auto"] | None = None
    # Of "exact" and "greedy": the most bytes of submodules' outputs that are kept from one evaluation to the next, in
    # each process; 0 keeps none.
    memo_bytes: int = 2**29
    # Of the searches that score whole models; None stands for the defaults.
    options: Options | None = None

    def __post_init__(self) -> None:
        known = (*SEARCHES, *OWN_SEARCHES)
        if self.kind not in known:
            raise InputError(f"search is {self.kind!r}; it is one of {', '.join(known)}")
        wanted = OPTIONS.get(self.kind)
        if self.options is not None and type(self.options) is not wanted:
            raise InputError(
                f"options is {self.options!r}; the search {self.kind!r} takes "
                + (f"gracile.{wanted.__name__}(...)" if wanted is not None else "none")
            )
        require_flags(monotonic=self.monotonic)
        if not isinstance(self.candidates, int | tuple | list) or (
            isinstance(self.candidates, tuple | list)
            and not all(isinstance(ratio, int | float) for ratio in self.candidates)
        ):
            raise InputError(
                f"candidates is {self.candidates!r}; it is a number, as 10, or a tuple of ratios in (0, 1)"
            )
        if not _is_count(self.memo_bytes, 0):
            raise InputError(f"memo_bytes is {self.memo_bytes!r}; it is a number of bytes, or 0")
        if self.surrogate not in (None, "auto") and not _is_count(self.surrogate, 2):
            raise InputError(f'surrogate is {self.surrogate!r}; give a number of evaluations from 2 on, "auto" or None')
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


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def options_of(kind: str, values: Mapping[str, Any]) -> Options:
    """The options of a kind from their names and values; lists stand for tuples.

    Raises:
        InputError: the kind has no options, or none of such a name, or a value is out of range.
    """
    if kind not in OPTIONS:
        raise InputError(f"options: the search {kind!r} has none; those that have are {', '.join(OPTIONS)}")
    known = [field.name for field in fields(OPTIONS[kind])]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"options: the search {kind!r} has no option {unknown[0]!r}; it has {', '.join(known)}")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return OPTIONS[kind](**given)
