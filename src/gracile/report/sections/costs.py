"""MACs and bytes of each layer before and after."""

from typing import Literal

from gracile.html import Chart, Column, Section, Table, named
from gracile.report.records import Evidence, LayerReport, Totals
from gracile.report.sections.written import called, counted, rows_of

_METRICS: tuple[tuple[Literal["macs", "bytes"], str], ...] = (("macs", "MACs"), ("bytes", "bytes"))


def draw(report: Evidence) -> Section | None:
    """Two charts of bars, the original's pale behind the result's."""
    layers = [layer for layer in report.layers if layer.before is not None]
    if not layers:
        return None
    return Section(
        title="Cost of each layer",
        parts=[*(_chart(layers, metric, unit) for metric, unit in _METRICS), _table(layers)],
    )


def _both(layer: LayerReport) -> tuple[Totals, Totals]:
    assert layer.before is not None
    return layer.before, layer.after or layer.before


def _chart(layers: list[LayerReport], metric: Literal["macs", "bytes"], unit: str) -> Chart:
    names = [called(layer.name) for layer in layers]
    before, after = ([getattr(totals[i], metric) for totals in map(_both, layers)] for i in (0, 1))
    texts = [
        f"{named(name)}<br>{counted(b)} → {counted(a)} {unit}" for name, b, a in zip(names, before, after, strict=True)
    ]
    layout, height = rows_of(names, {"title": {"text": unit}, "rangemode": "tozero", "nticks": 6})
    shared = {
        "type": "bar", "orientation": "h", "y": list(range(len(layers))), "customdata": texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    return Chart(
        title=f"{unit[0].upper()}{unit[1:]}",
        about=f"Bars: {unit} of each layer before and after. The table below has the numbers.",
        traces=[
            {**shared, "x": before, "name": "before", "marker": {"color": "var(--pale)"}},
            {**shared, "x": after, "name": "after", "marker": {"color": "var(--accent)"}, "width": 0.42},
        ],
        layout={**layout, "showlegend": True},
        height=height,
    )


def _table(layers: list[LayerReport]) -> Table:
    return Table(
        title="Cost of each layer in numbers",
        columns=[
            Column(title="layer"),
            *(
                Column(title=f"{name}, {when}", written=counted, numbers=True)
                for name in ("MACs", "parameters", "bytes")
                for when in ("before", "after")
            ),
        ],
        rows=[
            (called(layer.name), *(getattr(t, m) for m in ("macs", "params", "bytes") for t in _both(layer)))
            for layer in layers
        ],
        folded=True,
    )
