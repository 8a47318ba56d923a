"""What a job writes into its Report."""

from importlib.metadata import version

from gracile.cost import Cost, layers_beside
from gracile.graph import Graph
from gracile.pipeline.outcomes import Done
from gracile.pipeline.request import Request
from gracile.report import UNSEARCHED, Environment, LayerTotals, OwnCost, QuantizationReport, Report, Totals
from gracile.timings import LatencyReport, LayerLatencies


def report_of(
    *,
    model: str,
    request: Request,
    graph: Graph,
    before: Cost,
    after: Cost,
    score_before: float,
    done: Done,
    quantization: QuantizationReport | None,
    layer_latency: LayerLatencies | None,
    seconds: dict[str, float],
) -> Report:
    """The Report of a job whose stages are ``done``."""
    last = done.outcomes[-1]
    latency = None if last.latency is None else as_asked(last.latency, request)
    selections = [outcome.selection for outcome in done.outcomes]
    notes = [*done.notes]
    notes += [note for outcome in done.outcomes for note in (*outcome.stage.notes, *outcome.selection.notes)]
    searches = [o.report.search for o in done.outcomes if o.report.search != UNSEARCHED]
    bound = request.bound(before)
    notes += _nothing_asked(request, before, bound)
    missed = [] if bound is None or _within(request, after, bound) else [_missed(request, after, bound)]
    if latency is not None and latency.reached > latency.ratio:
        missed = [
            f"the measured time is {latency.reached:.3f} of the original's, above the {latency.ratio:.3f} asked for"
        ]
    own = request.own_amount(after)
    return Report(
        model=model,
        method=request.method,
        search=searches[-1] if searches else UNSEARCHED,
        metric=request.measure,
        bound=latency.seconds if latency is not None else bound,
        own=None if own is None else OwnCost(name=request.measure, before=request.amount(before), after=own),
        before=Totals.of(before),
        after=Totals.of(after),
        score_before=score_before,
        score_after=last.report.score_after,
        score_fine_tuned=last.report.score_fine_tuned,
        latency=latency,
        stages=tuple(outcome.report for outcome in done.outcomes),
        layers=tuple(
            row for outcome in done.outcomes for row in outcome.stage.layer_reports(outcome.selection, request.metric)
        ),
        costs=tuple(
            LayerTotals(name=pair.before.name, before=Totals.of(pair.before), after=Totals.of(pair.after))
            for pair in layers_beside(before, after)
        ),
        dictionary=tuple(entry for selection in selections for entry in selection.dictionary),
        dictionary_baseline=selections[0].baseline,
        passes=tuple(record for outcome in done.outcomes for record in outcome.passes),
        layer_latency=layer_latency,
        quantization=quantization,
        notes=(*dict.fromkeys(notes), *missed),
        seconds=seconds,
        environment=Environment(
            gracile=version("gracile"), device=str(graph.example.tensors[0].device), seed=request.seed
        ),
    )


def as_asked(latency: LatencyReport, request: Request) -> LatencyReport:
    """The report against the user's target, whatever share of it the pipeline that was taken has gone for."""
    assert request.target is not None
    original = latency.timings.entries[0].median
    seconds = request.target.seconds(original)
    return latency.model_copy(update={"seconds": seconds, "ratio": seconds / original})


def _within(request: Request, after: Cost, bound: float) -> bool:
    # Amounts of the user's own are rounded within a search.
    return request.amount(after) <= bound * (1 if request.own_amount(after) is None else 1 + 1e-6)


def _nothing_asked(request: Request, before: Cost, bound: float | None) -> list[str]:
    amount = request.amount(before)
    if bound is None or bound < amount:
        return []
    return [
        f"the target of {bound:.6g} {request.measure} is not below the {amount:.6g} of the original: nothing had to "
        "go; give an amount below it, or a share as 0.5"
    ]


def _missed(request: Request, after: Cost, bound: float) -> str:
    return (
        f"the target of {bound:.6g} {request.measure} was missed: {request.amount(after):.6g} remain, as the model's "
        "code does not follow some cuts (see the reasons by layer)"
    )
