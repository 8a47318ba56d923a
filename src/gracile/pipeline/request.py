"""The arguments of one `compress` call, checked before any work is done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from gracile.cost import METRICS, Cost, Metric
from gracile.errors import InputError
from gracile.lowrank.planning import require_multiple
from gracile.maths.factorize import SCHEMES, Scheme
from gracile.recipe import Search, SearchKind, Target
from gracile.search.scoring import Evaluate

FineTune = Callable[[nn.Module], nn.Module | None]
FineTuneLayer = Callable[[nn.Module, str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What `compress` was asked for; see there."""

    evaluate: Evaluate
    evaluate_search: Evaluate
    target: Target | None
    method: Scheme
    search: Search
    ratios: Mapping[str, float] | None
    ratios_metric: Metric
    round_to: int
    exclude: Sequence[str]
    fine_tune: FineTune | None
    fine_tune_layer: FineTuneLayer | None
    store: str | Path | None
    seed: int

    @property
    def metric(self) -> Metric:
        return self.ratios_metric if self.target is None else self.target.metric

    def bound(self, before: Cost) -> float | None:
        """The largest admissible cost; None where the ratios are set by hand."""
        return None if self.target is None else self.target.bound(before)


def checked(
    *,
    search: SearchKind | Search,
    round_to: int | Literal["auto"],
    evaluate_search: Evaluate | None,
    **arguments: Any,
) -> Request:
    """Everything that can be refused before any work is done."""
    for name in ("evaluate", "fine_tune", "fine_tune_layer"):
        value = arguments[name]
        if not callable(value) and not (value is None and name != "evaluate"):
            raise InputError(f"{name} is a {type(value).__name__}; give a function")
    if arguments["method"] not in SCHEMES:
        raise InputError(f"method is {arguments['method']!r}; it is one of {', '.join(SCHEMES)}")
    if arguments["ratios_metric"] not in METRICS:
        raise InputError(f"ratios_metric is {arguments['ratios_metric']!r}; it is one of {', '.join(METRICS)}")
    target, ratios = arguments["target"], arguments["ratios"]
    if (target is None) == (ratios is None):
        raise InputError(
            "give either target (the ratios are found) or ratios (set by hand, as {'layer1.*': 0.5}), and not both"
            if target is not None
            else "give a target, for example target=gracile.Target(macs=0.5), or ratios by hand"
        )
    if target is not None and not isinstance(target, Target):
        raise InputError(f"target is {target!r}; give for example gracile.Target(macs=0.5)")
    if isinstance(arguments["exclude"], str):
        raise InputError(
            f"exclude is the text {arguments['exclude']!r}; give a list of patterns: [{arguments['exclude']!r}]"
        )
    rounding = 1 if round_to == "auto" else round_to
    require_multiple(rounding)
    return Request(
        search=search if isinstance(search, Search) else Search(kind=search),
        round_to=rounding,
        evaluate_search=evaluate_search or arguments["evaluate"],
        **arguments,
    )
