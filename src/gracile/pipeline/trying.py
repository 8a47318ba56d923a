"""One trial of an automatic search: a pipeline carried out."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice

import torch
from torch import nn

from gracile.auto_options import Auto
from gracile.automatic import Point
from gracile.automatic.front import HopelessError, Rivals
from gracile.automatic.loop import Asked, Measured
from gracile.cost import Cost
from gracile.errors import EvaluationError, InputError, TargetError
from gracile.graph import Graph
from gracile.pipeline.counting import aimed
from gracile.pipeline.outcomes import Done
from gracile.pipeline.output_changes import output_change
from gracile.pipeline.request import Request
from gracile.pipeline.running import Job, run_stages
from gracile.pipeline.tuning import call_training
from gracile.prune.scores import Criterion
from gracile.split_options import Split
from gracile.surgery import applied_since
from gracile.text import function_name

# Batches of the calibration data on which outputs are compared with those of the original.
_BATCHES = 4


def criteria_of(request: Request, options: Auto) -> dict[str, Criterion | str]:
    """Names of criteria, and the criteria that they stand for."""
    if options.criteria:
        return {name: name for name in options.criteria}
    if request.criterion == "auto":
        names = ("elimination", "l2") if request.calibrated else ("l2",)
        return {name: name for name in names}
    chosen = request.criterion
    return {chosen if isinstance(chosen, str) else function_name(chosen): chosen}


def fixed(request: Request, point: Point, target: float) -> Request:
    """The request of one pipeline, for its share of the target."""
    assert request.auto is not None
    assert request.target is not None
    criteria = criteria_of(request, request.auto)
    return replace(
        request,
        auto=None,
        methods=point.sized,
        integers=point.integers,
        target=aimed(request.target, min(1.0, target * point.share)),
        split=request.split if point.split is None else Split(values=(point.split,)),
        criterion=criteria[point.criterion] if point.criterion is not None else next(iter(criteria.values())),
        scope=point.scope or request.scope,
        round_to=point.round_to or request.round_to,
        training=point.training or "each",
        tunings=point.tunings or 1,
    )


class Trials:
    """Carries pipelines out; see `gracile.search.work.Task`.

    Args:
        job: of the search; its evaluation function is the one that scores candidates.
        graph: the original's program.
        before: the original's cost.
        baseline: its score.
        target: the share of its cost that is asked for.
        sensitivities: of the original's outputs to its layers.
    """

    def __init__(
        self,
        job: Job,
        graph: Graph,
        before: Cost,
        baseline: float,
        target: float,
        sensitivities: Mapping[str, float],
    ) -> None:
        request = job.request
        assert request.auto is not None
        if request.auto.fine_tune is not None:
            request = replace(request, fine_tune=request.auto.fine_tune)
        # What is reported in the end plays no part in what is chosen.
        self._job = replace(job, request=replace(request, evaluate=request.evaluate_search))
        self._graph, self._before, self._baseline, self._target = graph, before, baseline, target
        self._sensitivities = sensitivities

    def __call__(self, asked: Asked) -> Measured:
        began = time.perf_counter()
        request = _guarded(fixed(self._job.request, asked.point, self._target))
        if asked.point.alone and asked.rivals is None:
            request = replace(request, sensitivities=self._sensitivities)
        job = replace(self._job, request=request, look=_look(asked.rivals, self._target * asked.point.share))
        try:
            with same_randomness(request.seed):
                done = carried_out(job, self._graph, self._baseline)
        except HopelessError as stopped:
            return Measured(
                state="stopped", score=stopped.score, seconds=time.perf_counter() - began, reason=stopped.reason
            )
        except (InputError, TargetError) as error:
            return Measured(state="failed", seconds=time.perf_counter() - began, reason=str(error))
        except EvaluationError as error:
            return Measured(state="raised", seconds=time.perf_counter() - began, reason=str(error))
        return self._measured(done, request, time.perf_counter() - began)

    def _measured(self, done: Done, request: Request, seconds: float) -> Measured:
        cost = applied_since(done.model, self._job.original).cost(self._graph)
        reports = [outcome.report for outcome in done.outcomes]
        gains = [r.score_fine_tuned - r.score_after for r in reports if r.score_fine_tuned is not None]
        share = request.amount(cost) / request.amount(self._before)
        if request.forecast is not None:
            share = done.predicted * (request.forecast.integers if request.integers else 1.0)
        return Measured(
            state="finished", score=done.score, cost=share,
            macs=cost.macs, params=cost.params, bytes=cost.bytes, change=self._change(done.model), gain=sum(gains),
            seconds=seconds,
            curve=done.outcomes[0].selection.curve if len(request.methods) == 1 and done.outcomes else None,
        )  # fmt: skip

    def _change(self, model: nn.Module) -> float:
        batches = [self._graph.example] if self._job.data is None else islice(self._job.data, _BATCHES)
        return output_change(self._job.original, model, batches)


def carried_out(job: Job, graph: Graph, score_before: float) -> Done:
    """The pipeline of ``job`` on its original."""
    methods = job.request.methods
    first = job.stage(methods[0], job.original, graph) if methods else None
    return run_stages(job, first, job.original, graph, score_before)


@contextmanager
def same_randomness(seed: int) -> Iterator[None]:
    """Torch's random numbers inside the block begin with ``seed``, so that the user's training repeats."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _guarded(request: Request) -> Request:
    """The request with training whose exceptions are told from ours."""
    whole, layer = request.fine_tune, request.fine_tune_layer
    return replace(
        request,
        fine_tune=None if whole is None else partial(call_training, whole),
        fine_tune_layer=None if layer is None else partial(call_training, layer),
    )


def _look(rivals: Rivals | None, cost: float) -> Callable[[float], None] | None:
    return None if rivals is None else lambda score: rivals.require_hope(score, cost)
