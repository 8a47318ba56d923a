"""Latencies of trials by the table of layers: whole models are measured when one of the trials has been taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from gracile.cost import Cost, price
from gracile.graph import Graph, capture, fingerprint
from gracile.inputs import Calibration
from gracile.latency import LatencyPrice, LayerTimes, table_key
from gracile.pipeline.clock import Clock
from gracile.pipeline.forecast import Forecast
from gracile.pipeline.request import Request
from gracile.pipeline.retreating import as_far_as_it_goes
from gracile.pipeline.selection import Selection
from gracile.pipeline.stage import Stage
from gracile.pipeline.stopwatch import Stopwatch
from gracile.pipeline.timed_integers import TimedIntegers


def measured(
    request: Request, original: nn.Module, graph: Graph, data: Calibration | None, clock: Clock, *, integers: bool
) -> Forecast:
    """The measurements, taken once and kept in the store, so that a search that is resumed sees the same.

    Args:
        integers: whether int8 is to be measured, too.
    """
    assert request.target is not None
    with request.opened_store() as store:
        key = table_key(request.target.runtime, request.target.threads)
        job = store.job({"forecast": fingerprint(graph, original), **key}, 0.0)
        known = {name: value for (name, _), value in job.scores().items()}
        if "seconds" not in known:
            watch = Stopwatch(request, original, graph)
            with clock("measure"), watch.dense() as dense:
                known["seconds"] = watch.seconds(dense)
            job.put("seconds", 0, known["seconds"])
        if integers and "int8" not in known:
            assert data is not None
            timed = TimedIntegers(replace(request, integers="int8"), original, graph, data, clock)
            timed.measure()
            known["int8"] = timed.alone
            job.put("int8", 0, timed.alone)
    return Forecast(seconds=known["seconds"], integers=known["int8"] if integers else 1.0)


def predicted_selection(
    stage: Stage, request: Request, before: Cost, score_before: float, clock: Clock, *, lenient: bool
) -> Selection:
    """The selection that the table promises to be as fast as the target asks.

    Args:
        lenient: another method follows: where this one cannot go so far, it goes as far as it can.

    Raises:
        TargetError: the table knows of no selection that fast, and it is not lenient.
    """
    assert request.target is not None
    asked = float(request.target.value)
    with _priced(stage.graph, request) as timing:
        stage.price_by(timing)

        def at(share: float) -> Selection:
            part = replace(request, pricing=timing, priced_bound=share * timing.total)
            return stage.select(part, before, score_before, clock)

        return as_far_as_it_goes(stage.method, request.measure, asked, at) if lenient else at(asked)


def predicted_share(graph: Graph, model: nn.Module, request: Request) -> float:
    """Time of ``model`` / that of the one whose program ``graph`` is."""
    with _priced(graph, request) as timing:
        return timing.of(price(capture(model, graph.example)).operations) / timing.total


@contextmanager
def _priced(graph: Graph, request: Request) -> Iterator[LatencyPrice]:
    assert request.forecast is not None
    assert request.target is not None
    with request.opened_store() as store:
        times = LayerTimes(request.target.runtime, request.target.threads, store)
        yield LatencyPrice(times, graph, request.forecast.seconds)
