"""Carrying out what an automatic search has found; where it misses a latency, what the search would take next."""

import logging
from dataclasses import replace

from gracile.errors import TargetError
from gracile.graph import Graph
from gracile.pipeline.automatic import Findings, Found
from gracile.pipeline.evidence import as_asked
from gracile.pipeline.outcomes import Done
from gracile.pipeline.running import Job
from gracile.pipeline.trying import carried_out, same_randomness
from gracile.timings import NEAR

log = logging.getLogger(__name__)

# Pipelines that are carried out and measured at most: each takes as long as a job of its own.
_MOST = 4


def taken(job: Job, findings: Findings, graph: Graph, score_before: float) -> tuple[Found, Done]:
    """What is taken, and what has become of it.

    What can be counted is what it was in its trial.  A latency was only predicted there, by the table of layers: a
    pipeline that misses the target once it is measured is passed over for the next one.  Where all miss it, the one
    that comes nearest is taken, and the report says so.

    Args:
        job: of the search.
        graph: the original's program.
        score_before: the original's score.

    Raises:
        TargetError: no pipeline reaches the target.
    """
    missed: dict[int, str] = {}
    nearest: tuple[float, Found, Done] | None = None
    error: TargetError | None = None
    found: Found | None = findings.best()
    while found is not None:
        try:
            with same_randomness(job.request.seed):
                done = carried_out(replace(job, request=found.request), graph, score_before)
        except TargetError as failed:
            error, why = failed, str(failed)
        else:
            excess = _excess(done, findings)
            if excess <= 1 + NEAR:
                return _with(found, missed), done
            if nearest is None or excess < nearest[0]:
                nearest = excess, found, done
            why = f"it takes {excess:.3g} times as long as was asked for, measured"
        missed[found.trial.place] = f"trial {found.trial.place}, {found.trial.recipe}, was passed over: {why}"
        log.info("%s", missed[found.trial.place])
        found = _next(findings, missed)
    if nearest is not None:
        _, best, done = nearest
        return _with(best, {place: note for place, note in missed.items() if place != best.trial.place}), done
    assert error is not None
    if len(missed) == 1:
        raise error
    raise TargetError(f"none of the {len(missed)} best pipelines reaches the target. " + "; ".join(missed.values()))


def _excess(done: Done, findings: Findings) -> float:
    """Measured time / the longest that the user allows; 0 where nothing was measured."""
    latency = done.outcomes[-1].latency if done.outcomes else None
    if latency is None:
        return 0.0
    asked = as_asked(latency, findings.request)
    return asked.reached / asked.ratio


def _next(findings: Findings, missed: dict[int, str]) -> Found | None:
    if not findings.request.timed or len(missed) >= _MOST:
        return None
    try:
        return findings.best(missed)
    except TargetError:
        return None


def _with(found: Found, missed: dict[int, str]) -> Found:
    return replace(found, notes=(*missed.values(), *found.notes))
