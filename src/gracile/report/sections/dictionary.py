"""The evaluation dictionary: the score with only one layer compressed, against its ratio."""

from gracile.html import Chart, Column, Section, Table, Text, named
from gracile.report.records import Entry, Evidence
from gracile.report.sections.written import called, percent

# Beyond so many curves, colours do not tell them apart: the reader picks one.
_COLOURS = 8
# Beyond so many, in any case: on a phone a legend of more would leave nothing of the chart.
_LEGEND = 4


def draw(report: Evidence) -> Section | None:
    """A curve for each layer, and the point that was chosen on it."""
    if not report.dictionary:
        return None
    curves: dict[str, list[Entry]] = {}
    for entry in report.dictionary:
        curves.setdefault(entry.layer, []).append(entry)
    for entries in curves.values():
        entries.sort(key=lambda entry: entry.ratio)
    chosen = {(layer.name, layer.size) for layer in report.layers if layer.size is not None and layer.asked is not None}
    return Section(
        title="Evaluation dictionary",
        parts=[
            Text("The score of the model with only this layer compressed. Rings mark what was chosen."),
            _chart(curves, chosen, report.dictionary_baseline),
            _table(report, chosen),
        ],
    )


def _chart(curves: dict[str, list[Entry]], chosen: set[tuple[str, int]], baseline: float | None) -> Chart:
    few = len(curves) <= _COLOURS
    traces: list[dict[str, object]] = []
    for index, (layer, entries) in enumerate(curves.items()):
        colour = f"var(--c{index % _COLOURS + 1})"
        shared = {"legendgroup": str(index), "opacity": 1 if few else 0.75}
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": named(called(layer), 32), **shared,
                "x": [entry.ratio for entry in entries], "y": [entry.score for entry in entries],
                "customdata": [[named(called(layer)), entry.size] for entry in entries],
                "hovertemplate": "%{customdata[0]}<br>ratio %{x:.3f}, size %{customdata[1]}<br>"
                "score %{y:.6g}<extra></extra>",
                "line": {"color": colour, "width": 2 if few else 1.25}, "marker": {"color": colour, "size": 5},
            }
        )  # fmt: skip
        points = [entry for entry in entries if (layer, entry.size) in chosen]
        if points:
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "showlegend": False, **shared,
                    "x": [entry.ratio for entry in points], "y": [entry.score for entry in points],
                    "hoverinfo": "skip",
                    "marker": {"color": colour, "size": 13, "symbol": "circle-open", "line": {"width": 2.5}},
                }
            )  # fmt: skip
    return Chart(
        title="Score against ratio",
        about="One curve for each layer: the score falls as the layer's ratio shrinks. The table below has the points.",
        traces=traces,
        layout={
            "showlegend": few,
            "hovermode": "closest",
            "xaxis": {"title": {"text": "share of the layer that remains"}, "tickformat": ".0%"},
            "yaxis": {"title": {"text": "score"}},
            "shapes": [] if baseline is None else [_baseline(baseline)],
        },
        height=440,
        choices=[] if len(curves) <= _LEGEND else [called(layer) for layer in curves],
        choice="Show",
    )


def _baseline(score: float) -> dict[str, object]:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": score, "y1": score,
        "line": {"color": "var(--soft)", "width": 1.5, "dash": "dash"},
        "label": {"text": "original", "textposition": "end", "font": {"color": "var(--soft)"}},
    }  # fmt: skip


def _table(report: Evidence, chosen: set[tuple[str, int]]) -> Table:
    return Table(
        title="Evaluation dictionary in numbers",
        columns=[
            Column(title="layer"),
            Column(title="ratio", written=percent, numbers=True),
            Column(title="size", numbers=True),
            Column(title="score", numbers=True),
            Column(title="chosen"),
        ],
        rows=[
            (
                called(entry.layer), entry.ratio, entry.size, entry.score,
                "yes" if (entry.layer, entry.size) in chosen else "",
            )
            for entry in report.dictionary
        ],
        folded=True,
    )  # fmt: skip
