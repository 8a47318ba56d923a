"""Measured times: of the whole model, and of each layer alone, before and after."""

from gracile.html import Chart, Column, Part, Section, Table, Text, named
from gracile.report.records import Evidence
from gracile.report.sections.written import called, milliseconds, percent, rows_of
from gracile.timings import LatencyReport, LayerLatencies


def draw(report: Evidence) -> Section | None:
    """What the clock said."""
    parts: list[Part] = []
    if report.layer_latency is not None:
        parts += [_chart(report.layer_latency), _text(report.layer_latency), _table(report.layer_latency)]
    if report.latency is not None:
        parts += [_calls(report.latency), *_attempts(report.latency)]
    return Section(title="Latency", parts=parts) if parts else None


def _chart(found: LayerLatencies) -> Chart:
    names = [called(layer.name) for layer in found.layers]
    texts = [
        f"{named(name)}<br>{milliseconds(layer.before)} → {milliseconds(layer.after)}"
        + (" in int8" if layer.integers else "")
        for name, layer in zip(names, found.layers, strict=True)
    ]
    layout, height = rows_of(names, {"title": {"text": "milliseconds"}, "rangemode": "tozero", "nticks": 6})
    shared = {
        "type": "bar", "orientation": "h", "y": list(range(len(names))), "customdata": texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip
    before, after = ([1e3 * getattr(layer, when) for layer in found.layers] for when in ("before", "after"))
    return Chart(
        title="Time of each layer",
        about="Bars: measured milliseconds of each layer alone before and after. The table below has the numbers.",
        traces=[
            {**shared, "x": before, "name": "before", "marker": {"color": "var(--pale)"}},
            {**shared, "x": after, "name": "after", "marker": {"color": "var(--accent)"}, "width": 0.42},
        ],
        layout={**layout, "showlegend": True},
        height=height,
    )


def _text(found: LayerLatencies) -> Text:
    ratio = found.after / found.before if found.before else 1.0
    return Text(
        f"All layers together take {milliseconds(found.after)}, {ratio:.3f} of {milliseconds(found.before)} before. "
        f"Measured: {found.measured}. What stands between layers is not in it, nor what a runtime saves by fusing them."
    )


def _table(found: LayerLatencies) -> Table:
    return Table(
        title="Time of each layer in numbers",
        columns=[
            Column(title="layer"),
            Column(title="before", written=milliseconds, numbers=True),
            Column(title="after", written=milliseconds, numbers=True),
            Column(title="after / before", written="{:.3f}".format, numbers=True),
            Column(title="runs on"),
        ],
        rows=[
            (
                called(layer.name), layer.before, layer.after, layer.after / layer.before if layer.before else None,
                "int8" if layer.integers else "float",
            )
            for layer in found.layers
        ],
        folded=True,
    )  # fmt: skip


def _calls(found: LatencyReport) -> Table:
    return Table(
        title=f"Time of a call in {found.timings.runtime} {found.timings.version}",
        columns=[
            Column(title="model"),
            Column(title="median", written=milliseconds, numbers=True),
            Column(title="lower quartile", written=milliseconds, numbers=True),
            Column(title="upper quartile", written=milliseconds, numbers=True),
            Column(title="time / original", written="{:.3f}".format, numbers=True),
        ],
        rows=[(entry.name, entry.median, entry.low, entry.high, entry.ratio) for entry in found.timings.entries],
    )


def _attempts(found: LatencyReport) -> list[Part]:
    if not found.attempts:
        return []
    return [
        Table(
            title="Attempts at the target",
            columns=[
                Column(title="attempt", numbers=True),
                Column(title="bound on the time by the table of layers", written=percent, numbers=True),
                Column(title="time that was measured", written=percent, numbers=True),
            ],
            rows=[(place, tried.expected, tried.measured) for place, tried in enumerate(found.attempts, 1)],
            folded=True,
        )
    ]
