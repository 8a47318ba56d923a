"""What single methods are expected to lose, before any of them is tried."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from gracile.automatic import Point, Space
from gracile.cost import Cost
from gracile.errors import InputError, TargetError
from gracile.graph import Graph
from gracile.pipeline.proxies import promised
from gracile.pipeline.running import Job
from gracile.pipeline.trying import fixed

log = logging.getLogger(__name__)


def promises_of(
    job: Job, graph: Graph, before: Cost, space: Space, target: float, found: Mapping[str, float]
) -> list[float | None]:
    """What each single method of ``space`` is expected to lose at the target, by the sensitivities of the layers.

    Factors, channels and what layers lose are those that the calibration data suggest; nothing is evaluated.  None
    where nothing tells, as of a latency.
    """
    points = space.singles()
    known: dict[tuple[object, ...], float | None] = {}
    for point in points:
        key = _told_by(point)
        if key not in known:
            ranked = bool(found) and len(points) > 1 and bool(point.sized) and not job.request.timed
            known[key] = _promise(job, graph, before, point, target, found) if ranked else None
    return [known[_told_by(point)] for point in points]


def _told_by(point: Point) -> tuple[object, ...]:
    return point.sized, point.criterion, point.scope, point.round_to


def _promise(
    job: Job, graph: Graph, before: Cost, point: Point, target: float, found: Mapping[str, float]
) -> float | None:
    request = replace(fixed(job.request, point, target), sensitivities=found)
    try:
        own = None if request.target is None else request.target.pricing(before)
        stage = replace(job, request=request).stage(point.sized[0], job.original, graph)
        if own is not None:
            stage.price_by(own[0])
            request = replace(request, pricing=own[0], priced_bound=own[1])
        bound = request.bound(before)
        assert bound is not None
        return promised(stage, request, before)(bound)
    except (TargetError, InputError) as error:
        log.info("nothing is known of %s before it is tried: %s", point.name, error)
        return None
