"""A stage's selection for a bound on what can be counted."""

from dataclasses import replace

from gracile.cost import Cost
from gracile.pipeline.clock import Clock
from gracile.pipeline.proxies import curve_of
from gracile.pipeline.request import Request
from gracile.pipeline.retreating import as_far_as_it_goes
from gracile.pipeline.selection import Selection
from gracile.pipeline.stage import Stage
from gracile.recipe import Target


def aimed(target: Target, share: float) -> Target:
    """The target with another share of the original, a latency too."""
    return replace(target, latency=share) if target.latency is not None else target.at(share)


def selected(
    request: Request, stage: Stage, before: Cost, score_before: float, clock: Clock, *, lenient: bool
) -> Selection:
    """The stage's selection for a bound on what can be counted.

    Args:
        lenient: another method follows: where this one cannot go so far, it goes as far as it can.

    Raises:
        TargetError: the bound is out of reach, and it is not lenient.
    """
    if not lenient:
        return _at_bound(request, stage, before, score_before, clock)
    target = request.target
    assert target is not None

    def at(share: float) -> Selection:
        return _at_bound(replace(request, target=aimed(target, share)), stage, before, score_before, clock)

    return as_far_as_it_goes(stage.method, request.measure, float(target.value), at)


def _at_bound(request: Request, stage: Stage, before: Cost, score_before: float, clock: Clock) -> Selection:
    own = None if request.target is None else request.target.pricing(before)
    if own is not None:
        pricing, bound = own
        stage.price_by(pricing)
        request = replace(request, pricing=pricing, priced_bound=bound)
    selection = stage.select(request, before, score_before, clock)
    if request.sensitivities is None:
        return selection
    with clock("foretell"):
        return replace(selection, curve=curve_of(stage, request, before, selection))
