"""What a job writes into its Report."""

from collections.abc import Iterator

from gracile.cost import METRICS
from gracile.lowrank.layers import Found, Layer
from gracile.pipeline.request import Request
from gracile.pipeline.selection import Selection
from gracile.report import LayerReport, Totals


def layer_reports(request: Request, found: Found, selection: Selection) -> Iterator[LayerReport]:
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
