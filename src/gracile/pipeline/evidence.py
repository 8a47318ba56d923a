"""What a job writes into its Report."""

from collections.abc import Iterator
from importlib.metadata import version

from gracile.cost import METRICS, Cost
from gracile.graph import Graph
from gracile.lowrank.layers import Found, Layer
from gracile.pipeline.request import Request
from gracile.pipeline.selection import Selection
from gracile.report import Environment, LayerReport, Record, Report, Totals


def report_of(
    *,
    model: str,
    request: Request,
    graph: Graph,
    before: Cost,
    after: Cost,
    found: Found,
    selection: Selection,
    passes: tuple[Record, ...],
    scores: tuple[float, float, float | None],
    seconds: dict[str, float],
) -> Report:
    """The Report of a job whose scores are those of the original, the compressed and the fine-tuned model."""
    score_before, score_after, score_fine_tuned = scores
    return Report(
        model=model,
        method=request.method,
        search="manual" if request.ratios is not None else request.search.kind,
        metric=request.metric,
        bound=request.bound(before),
        before=Totals.of(before),
        after=Totals.of(after),
        score_before=score_before,
        score_after=score_after,
        score_fine_tuned=score_fine_tuned,
        layers=tuple(_layer_reports(request, found, selection)),
        dictionary=selection.dictionary,
        dictionary_baseline=selection.baseline,
        passes=passes,
        notes=(*(f"exclude: {pattern!r} matches no layer" for pattern in found.unmatched), *selection.notes),
        seconds=seconds,
        environment=Environment(
            gracile=version("gracile"), device=str(graph.example.tensors[0].device), seed=request.seed
        ),
    )


def _layer_reports(request: Request, found: Found, selection: Selection) -> Iterator[LayerReport]:
    """One row a layer: first those that could be compressed, then the others with their reasons."""
    for layer in found.layers:
        rank = selection.ranks.get(layer.name)
        before = _layer_totals(layer, None)
        after = _layer_totals(layer, rank)
        yield LayerReport(
            name=layer.name,
            asked=selection.asked.get(layer.name),
            got=getattr(after, request.metric) / getattr(before, request.metric),
            rank=rank,
            max_rank=layer.max_rank,
            before=before,
            after=after,
            reason="" if rank is not None else _unchanged(request, selection, layer),
        )
    for name, reason in found.skipped.items():
        yield LayerReport(name=name, reason=reason)


def _unchanged(request: Request, selection: Selection, layer: Layer) -> str:
    if request.ratios is None:
        cut = selection.asked[layer.name] < 1
        return "the rest of the budget kept it whole" if cut else "worth more than it would save"
    if layer.name not in selection.asked:
        return "no ratio given"
    if selection.asked[layer.name] >= 1:
        return "ratio 1"
    return f"no multiple of {request.round_to} saves anything"


def _layer_totals(layer: Layer, rank: int | None) -> Totals:
    costs = {m: layer.dense_cost(m) if rank is None else layer.cost(rank, m) for m in METRICS}
    return Totals(macs=costs["macs"], params=costs["params"], bytes=costs["bytes"])
