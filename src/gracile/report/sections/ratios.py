"""The ratio that each layer or channel group got."""

from gracile.html import Chart, Section, named
from gracile.report.records import Evidence, LayerReport
from gracile.report.sections.written import called, rows_of, smaller


def draw(report: Evidence) -> Section | None:
    """A chart for each method: what remains of each part, and what was asked for."""
    methods = dict.fromkeys(layer.method for layer in smaller(report.layers))
    if not methods:
        return None
    return Section(
        title="Chosen ratios",
        parts=[
            _chart(method, [layer for layer in smaller(report.layers) if layer.method == method], report)
            for method in methods
        ],
    )


def _chart(method: str, layers: list[LayerReport], report: Evidence) -> Chart:
    names = [called(layer.name) for layer in layers]
    asked = [(place, layer.asked) for place, layer in enumerate(layers) if layer.asked is not None]
    grouped = any(layer.read_by for layer in layers) or all(layer.before is None for layer in layers)
    unit = "channels" if grouped else {"params": "parameters", "bytes": "bytes"}.get(report.metric, "MACs")
    layout, height = rows_of(
        names,
        {
            "title": {"text": f"{unit} that remain"},
            "tickformat": ".0%",
            "range": [0, 1.04],
            "nticks": 5,
            "tickangle": 0,
        },
    )
    return Chart(
        title=(method or report.method).replace("_", " "),
        about=f"Bars: the share of each part's {unit} that remains. The table of layers has the numbers.",
        traces=[
            _bars("smaller", "var(--accent)", [(p, layer) for p, layer in enumerate(layers) if layer.size is not None]),
            _bars("whole", "var(--pale)", [(p, layer) for p, layer in enumerate(layers) if layer.size is None]),
            {
                "type": "scatter", "mode": "markers", "x": [ratio for _, ratio in asked],
                "y": [place for place, _ in asked], "name": "asked for",
                "marker": {"symbol": "line-ns-open", "size": 13, "line": {"width": 2}, "color": "var(--mark)"},
                "hovertemplate": "asked for %{x:.1%}<extra></extra>",
            },
        ],
        layout={**layout, "showlegend": True},
        height=height,
    )  # fmt: skip


def _bars(name: str, colour: str, layers: list[tuple[int, LayerReport]]) -> dict[str, object]:
    return {
        "type": "bar", "orientation": "h", "name": name, "marker": {"color": colour},
        # Not by the distance of the bars of one trace, which may leave rows out.
        "width": 0.7,
        "x": [layer.got for _, layer in layers], "y": [place for place, _ in layers],
        "customdata": [[named(called(layer.name)), _size(layer)] for _, layer in layers],
        "hovertemplate": "%{customdata[0]}<br>%{x:.1%} remain%{customdata[1]}<extra></extra>",
    }  # fmt: skip


def _size(layer: LayerReport) -> str:
    return "" if layer.size is None else f", {layer.size} of {layer.full_size}"
