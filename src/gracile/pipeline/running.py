"""The stages of one job, one after the other, with fine-tuning between."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from gracile.cost import price
from gracile.errors import TargetError
from gracile.graph import Graph, capture
from gracile.inputs import Calibration
from gracile.maths.factorize import SCHEMES
from gracile.pipeline.bytes_of_integers import best_share
from gracile.pipeline.clock import Clock
from gracile.pipeline.counting import aimed, selected
from gracile.pipeline.factorizing import Factorizing
from gracile.pipeline.forecasting import predicted_selection, predicted_share
from gracile.pipeline.integers import Integers
from gracile.pipeline.outcomes import Done, Outcome
from gracile.pipeline.own_stage import OwnStage
from gracile.pipeline.pruning import PruningStage
from gracile.pipeline.recovering import multiplied, recovered
from gracile.pipeline.request import Request
from gracile.pipeline.selection import Selection, baseline_of
from gracile.pipeline.splitting import Judge, Splitting
from gracile.pipeline.stage import Stage
from gracile.pipeline.stopwatch import Stopwatch
from gracile.pipeline.timed import Timed
from gracile.pipeline.timed_integers import TimedIntegers
from gracile.pipeline.tuning import fine_tuned
from gracile.recipe import Target
from gracile.registered import OWN_METHODS
from gracile.report import UNSEARCHED, Record, StageReport, Totals
from gracile.scoring import score_of
from gracile.surgery import applied_since
from gracile.train import recover

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """What the stages of one call have in common."""

    request: Request
    # The user's model.
    original: nn.Module
    data: Calibration | None
    clock: Clock
    # Called with the score behind a method, before training and other methods; may raise to end the job.
    look: Callable[[float], None] | None = None

    def looked(self, score: float) -> None:
        if self.look is not None:
            self.look(score)

    def stage(self, method: str, model: nn.Module, graph: Graph) -> Stage:
        """The method at work on a copy of ``model``.

        Raises:
            InputError: nothing can be compressed by it.
        """
        for scheme in SCHEMES:
            if method == scheme:
                return Factorizing(scheme, self.request, model, graph, self.data, self.clock)
        if method in OWN_METHODS:
            return OwnStage(method, self.request, model, graph, self.data, self.clock)
        assert method in ("prune", "channel_pruning")
        return PruningStage("prune" if method == "prune" else "channel_pruning", self.request, model, graph, self.data,
                            self.clock)  # fmt: skip


def run_stages(job: Job, first: Stage | None, model: nn.Module, graph: Graph, score_before: float) -> Done:
    """Carry out all methods of ``job``; a target of several is split among them.

    Args:
        first: the stage of the first method that changes sizes, made already; None where int8 is the only one.
        model: the original.
        graph: its program.

    Raises:
        TargetError, EvaluationError, StoreError: as `gracile.compress`.
    """
    request = job.request
    timed: TimedIntegers | None = None
    if request.integers and request.timed and request.forecast is None:
        assert job.data is not None
        timed = TimedIntegers(request, model, graph, job.data, job.clock)
        timed.measure()
    if first is None:
        if timed is not None:
            timed.require_alone()
        done = Done(model, ())
    elif request.integers and (request.timed or (request.target is not None and request.metric == "bytes")):
        done = _before_integers(job, timed, model, graph, score_before)
    else:
        done = _resized(job, first, model, score_before)
    return _as_integers(job, done, timed, model, graph) if request.integers else done


def _before_integers(
    job: Job, timed: TimedIntegers | None, model: nn.Module, graph: Graph, score_before: float
) -> Done:
    """The methods before int8, as far as is needed for what int8 leaves of the bytes, or of the time."""
    request = job.request
    assert request.target is not None
    tried: dict[float, Done] = {}

    def resized(share: float) -> nn.Module:
        tried[share] = _at_share(job, model, graph, score_before, share, tune=False)
        return tried[share].model

    left_out = f"{request.integers} alone reaches the target: {'+'.join(request.methods)} was left out"
    if request.forecast is not None:
        share = float(request.target.value) / request.forecast.integers
        if share >= 1:
            return Done(model, (), (left_out,))
    elif timed is not None:
        if timed.alone <= timed.asked:
            return Done(model, (), (left_out,))
        share = timed.best_share(resized)
    else:
        bound = request.bound(price(graph))
        assert bound is not None
        whole = Integers(request, model, graph).cost.bytes
        if whole <= bound:
            return Done(model, (), (left_out,))
        share = best_share(request, graph, whole, bound, resized, job.clock)
    trained = request.fine_tune is not None or request.recover is not None or job.look is not None
    if share in tried and not trained:
        return tried[share]
    return _at_share(job, model, graph, score_before, share, tune=True)


def _at_share(job: Job, model: nn.Module, graph: Graph, score_before: float, share: float, *, tune: bool) -> Done:
    assert job.request.target is not None
    request = replace(job.request, target=aimed(job.request.target, share))
    if not tune:
        request = replace(request, fine_tune=None, recover=None)
    part = replace(job, request=request, look=job.look if tune else None)
    return _resized(part, part.stage(request.methods[0], model, graph), model, score_before)


def _as_integers(job: Job, done: Done, timed: TimedIntegers | None, original: nn.Module, graph: Graph) -> Done:
    """What the other methods have left, in integers."""
    request, clock = job.request, job.clock
    assert job.data is not None
    with clock("capture"):
        current = capture(done.model, graph.example) if done.outcomes else graph
        stage = Integers(request, done.model, current)
    bound = request.bound(price(graph)) if request.metric == "bytes" else None
    if bound is not None and not done.outcomes:
        stage.require_within(bound)
    with clock("calibrate"):
        passes = list(stage.carry_out(job.data))
    with clock("evaluate"):
        score_after = score_of(request.evaluate, stage.model, "the quantized model")
    tuned = None
    if request.fine_tune is not None:
        job.looked(score_after)
        with clock("fine-tune"):
            passes.append(stage.trained(request.fine_tune, request.tunings))
        with clock("evaluate"):
            tuned = score_of(request.evaluate, stage.model, "the fine-tuned quantized model")
    elif request.recover is not None:
        job.looked(score_after)
        options = multiplied(request.recover, request.tunings)
        teach = partial(stage.taught, job.original, job.data, options, request.seed)
        record, tuned = recovered(request, clock, stage.model, score_after, teach)
        passes.append(record)
    after = applied_since(stage.model, original).cost(graph)
    report = StageReport(
        method=stage.method,
        search=UNSEARCHED,
        bound=bound,
        before=Totals.of(price(current)),
        after=Totals.of(after),
        own=request.own_amount(after),
        score_after=score_after,
        score_fine_tuned=tuned,
    )
    latency = None if timed is None else timed.report(stage.model, _table(done.outcomes))
    outcome = Outcome(stage, Selection(sizes={}, asked={}), passes, report, latency)
    return Done(stage.model, (*done.outcomes, outcome), done.notes)


def _table(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """How many layers were measured for the table of latencies, and taken from the store."""
    found = [outcome.latency for outcome in outcomes if outcome.latency is not None]
    return sum(latency.measured_layers for latency in found), sum(latency.known_layers for latency in found)


def _resized(job: Job, first: Stage, model: nn.Module, score_before: float) -> Done:
    """All methods that change sizes."""
    request = job.request
    if len(request.methods) == 1:
        outcome = _carried_out(job, request, first, model, score_before, more=request.integers is not None)
        return Done(outcome.stage.model, (outcome,))
    assert request.target is not None
    total = _share_of(job, request.target, first, model)

    def chained(split: float, tune: bool, judge: Judge | None) -> Done:
        part = job if tune else replace(job, look=None)
        return _chained(part, first, model, score_before, total, split, tune=tune, judge=judge)

    several = len(request.split.values) > 1
    baseline = baseline_of(first, request, score_before) if several else score_before
    done = Splitting(request, chained, baseline, job.clock).best()
    # Before int8 it is not yet the whole.
    measured = request.timed and request.forecast is None and not request.integers
    return _measured(job, first, model, done) if measured else done


def _share_of(job: Job, target: Target, first: Stage, model: nn.Module) -> float:
    """The target as a share of the original, which methods can split; an absolute latency is held against its time."""
    if not isinstance(target.value, str):
        return float(target.value)
    if target.latency is None:
        before = price(first.graph)
        return min(1.0, target.bound(before) / target.amount(before))
    watch = Stopwatch(job.request, model, first.graph)
    with job.clock("measure"), watch.dense() as dense:
        seconds = watch.seconds(dense)
    return min(1.0, target.seconds(seconds) / seconds)


def _measured(job: Job, first: Stage, model: nn.Module, done: Done) -> Done:
    """What stages were timed against one another, the whole of it against the original."""
    last = done.outcomes[-1]
    assert last.latency is not None
    with job.clock("measure"):
        whole = Stopwatch(job.request, model, first.graph).report(done.model)
    measured, known = _table(done.outcomes)
    latency = whole.model_copy(
        update={"attempts": last.latency.attempts, "known_layers": known, "measured_layers": measured}
    )
    return replace(done, outcomes=(*done.outcomes[:-1], replace(last, latency=latency)))


def _chained(
    job: Job,
    first: Stage,
    model: nn.Module,
    score_before: float,
    total: float,
    split: float,
    *,
    tune: bool,
    judge: Judge | None = None,
) -> Done:
    """All methods, the first to the share ``split`` of the way in the logarithm of the cost, each next one alike."""
    request = job.request
    assert request.target is not None  # a share of the way needs an end
    start, reached = request.amount(price(first.graph)), 1.0
    outcomes: list[Outcome] = []
    current, score = model, score_before
    graph = first.graph
    methods = request.methods if split < 1 else request.methods[:1]
    for place, method in enumerate(methods):
        last = place == len(methods) - 1
        if not request.timed:
            reached = request.amount(price(graph)) / start
        stage = job.stage(method, current, graph)
        share = min(1.0, total / reached if last else (total / reached) ** split)
        trained = tune and (last or request.training == "each")
        part = replace(
            request,
            target=aimed(request.target, share),
            fine_tune=request.fine_tune if trained else None,
            recover=request.recover if trained else None,
            forecast=None if request.forecast is None else request.forecast.behind(reached),
        )
        more = request.integers is not None or not last
        try:
            outcome = _carried_out(job, part, stage, current, score, more=more, lenient=not last)
        except TargetError as error:
            if not outcomes:
                raise
            raise TargetError(
                f"{method} has to leave {share:.3g} of what {'+'.join(methods[:place])} left, for {total:.3g} of the "
                f"original in the end: {error}"
            ) from error
        outcomes.append(outcome)
        current = outcome.stage.model
        # Of what the method before has left.
        if outcome.latency is not None:
            reached *= outcome.latency.reached
        elif outcome.predicted is not None:
            reached *= outcome.predicted
        score = outcome.report.score
        if not last:
            if judge is not None:
                judge(outcome)
            with job.clock("capture"):
                graph = capture(current, graph.example)
    left_out = "+".join(request.methods[len(methods) :])
    notes = (f"{methods[0]} goes all of the way: {left_out} was left out",) if left_out else ()
    return Done(current, tuple(outcomes), notes)


def _carried_out(
    job: Job,
    request: Request,
    stage: Stage,
    original: nn.Module,
    score_before: float,
    *,
    more: bool,
    lenient: bool = False,
) -> Outcome:
    """One stage from its selection to its score.

    Args:
        more: whether another one follows.
        lenient: whether that may take over what this one cannot reach of a latency.
    """
    clock = job.clock
    before = price(stage.graph)
    timed: Timed | None = None
    if request.forecast is not None:
        selection = predicted_selection(stage, request, before, score_before, clock, lenient=lenient)
    elif request.timed:
        timed = Timed(stage, request, original, clock, lenient=lenient)
        selection = timed.select(before, score_before)
    else:
        selection = selected(request, stage, before, score_before, clock, lenient=lenient)
    with clock("apply"):
        stage.carry_out(selection, request.fine_tune_layer)
    with clock("repair"):
        # Training between the layers has moved the model away from the original: nothing to fit it to.
        passes = () if request.fine_tune_layer else tuple(stage.repair(original, selection))
    with clock("evaluate"):
        score_after = score_of(request.evaluate, stage.model, "the compressed model")
    if more or request.fine_tune is not None or request.recover is not None:
        job.looked(score_after)
    tuned, records = _trained(job, request, stage, score_after)
    after = applied_since(stage.model, original).cost(stage.graph)
    report = StageReport(
        method=stage.method,
        search="manual" if selection.by_hand else request.search.kind,
        bound=request.bound(before),
        before=Totals.of(before),
        after=Totals.of(after),
        own=request.own_amount(after),
        score_after=score_after,
        score_fine_tuned=tuned,
        equivalence=stage.equivalence,
        dictionary=selection.filling,
        dictionary_baseline=selection.baseline,
    )
    latency = None
    if timed is not None:
        with clock("measure"):
            latency = timed.report(stage.model)
    predicted = None if request.forecast is None else predicted_share(stage.graph, stage.model, request)
    return Outcome(stage, selection, (*passes, *records), report, latency, predicted)


def _trained(job: Job, request: Request, stage: Stage, score_after: float) -> tuple[float | None, tuple[Record, ...]]:
    """The score after recovery or fine-tuning, and what the former did; None and nothing where there is neither."""
    if request.recover is not None:
        assert job.data is not None
        teach = partial(
            recover, stage.model, job.original, job.data, example_inputs=stage.graph,
            options=multiplied(request.recover, request.tunings), seed=request.seed,
        )  # fmt: skip
        record, score = recovered(request, job.clock, stage.model, score_after, teach)
        return score, (record,)
    if request.fine_tune is None:
        return None, ()
    with job.clock("fine-tune"):
        stage.model = fine_tuned(request.fine_tune, stage.model, request.tunings)
    with job.clock("evaluate"):
        return score_of(request.evaluate, stage.model, "the fine-tuned model"), ()
