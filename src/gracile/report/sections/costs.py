"""MACs and bytes of each layer before and after."""

from typing import Literal

from gracile.html import Chart, Column, Section, Table, named
from gracile.report.records import Evidence, LayerTotals
from gracile.report.sections.written import called, counted, milliseconds, rows_of

_METRICS: tuple[tuple[Literal["macs", "bytes"], str], ...] = (("macs", "MACs"), ("bytes", "bytes"))


def draw(report: Evidence) -> Section | None:
    """Two charts of bars, the original's pale behind the result's, for the modules that multiply; a table of all."""
    drawn = [layer for layer in report.costs if layer.before.macs]
    if not drawn:
        return None
    return Section(
        title="Cost of each layer",
        parts=[*(_chart(drawn, metric, unit) for metric, unit in _METRICS), _table(report)],
    )


def _chart(layers: list[LayerTotals], metric: Literal["macs", "bytes"], unit: str) -> Chart:
    names = [called(layer.name) for layer in layers]
    before = [getattr(layer.before, metric) for layer in layers]
    after = [getattr(layer.after, metric) for layer in layers]
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


def _table(report: Evidence) -> Table:
    timed = report.layer_latency
    times = {} if timed is None else {layer.name: (layer.before, layer.after) for layer in timed.layers}
    columns = [
        Column(title=f"{name}, {when}", written=counted, numbers=True)
        for name in ("MACs", "parameters", "bytes")
        for when in ("before", "after")
    ]
    columns += [Column(title=f"time, {when}", written=milliseconds, numbers=True) for when in ("before", "after")][
        : 2 if times else 0
    ]
    return Table(
        title="Cost of each layer in numbers",
        columns=[Column(title="layer"), *columns],
        rows=[
            (
                called(layer.name),
                *(getattr(t, m) for m in ("macs", "params", "bytes") for t in (layer.before, layer.after)),
                *(times.get(layer.name, (None, None)) if times else ()),
            )
            for layer in report.costs
        ],
        folded=True,
    )
