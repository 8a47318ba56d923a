"""The evaluation dictionary: the score with only one layer compressed, against its ratio."""

from typing import TypeAlias

from gracile.html import Chart, Column, Section, Table, Text, named
from gracile.report.records import Entry, Evidence
from gracile.report.sections.written import SHARES, around, called, percent

# Beyond so many curves, colours do not tell them apart: the reader picks one.
_COLOURS = 8
# Beyond so many, in any case: on a phone a legend of more would leave nothing of the chart.
_LEGEND = 4


# (method, layer, size)
Chosen: TypeAlias = set[tuple[str, str, int]]


def draw(report: Evidence) -> Section | None:
    """A chart for each method: a curve for each layer, and the point that was chosen on it."""
    if not report.dictionary:
        return None
    methods = list(dict.fromkeys(entry.method for entry in report.dictionary))
    chosen = {
        # Entries of earlier versions name no method.
        (layer.method if layer.method in methods else "", layer.name, layer.size)
        for layer in report.layers
        if layer.size is not None and layer.asked is not None
    }
    several = len(methods) > 1
    return Section(
        title="Evaluation dictionary",
        parts=[
            Text(
                "The score of the model with only this layer compressed. Rings mark what was chosen."
                + (" Each method begins with what the one before has left." if several else "")
            ),
            *(_chart(method if several else "", _curves(report, method), chosen, _began(report, method))
              for method in methods),
            _table(report, chosen, several=several),
        ],
    )  # fmt: skip


def _curves(report: Evidence, method: str) -> dict[str, list[Entry]]:
    """A method's entries by layer: two methods may have compressed layers of one name."""
    curves: dict[str, list[Entry]] = {}
    for entry in report.dictionary:
        if entry.method == method:
            curves.setdefault(entry.layer, []).append(entry)
    for entries in curves.values():
        entries.sort(key=lambda entry: entry.ratio)
    return curves


def _began(report: Evidence, method: str) -> float | None:
    """The score of what the method began with."""
    known = [stage.dictionary_baseline for stage in report.stages if stage.method == method]
    return next((score for score in known if score is not None), report.dictionary_baseline)


def _chart(method: str, curves: dict[str, list[Entry]], chosen: Chosen, baseline: float | None) -> Chart:
    """The curves of one method; ``method`` is empty where there is no other."""
    scores = [entry.score for entries in curves.values() for entry in entries]
    scores += [] if baseline is None else [baseline]
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
        points = [entry for entry in entries if (entry.method, layer, entry.size) in chosen]
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
        title=f"{method.replace('_', ' ')}: score against ratio" if method else "Score against ratio",
        about="One curve for each layer: the score falls as the layer's ratio shrinks. The table below has the points.",
        traces=traces,
        layout={
            "showlegend": few,
            "hovermode": "closest",
            "xaxis": {"title": {"text": "share of the layer that remains"}, "tickformat": SHARES},
            "yaxis": {"title": {"text": "score"}, "range": around(scores)},
            # A later method begins with what the one before has left.
            "shapes": [] if baseline is None else [_line(baseline, "before" if method else "original")],
        },
        height=440,
        choices=[] if len(curves) <= _LEGEND else [called(layer) for layer in curves],
        choice="Show",
    )


def _line(score: float, name: str) -> dict[str, object]:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": score, "y1": score,
        "line": {"color": "var(--soft)", "width": 1.5, "dash": "dash"},
        "label": {"text": name, "textposition": "end", "font": {"color": "var(--soft)"}},
    }  # fmt: skip


def _table(report: Evidence, chosen: Chosen, *, several: bool) -> Table:
    predicted = any(entry.predicted for entry in report.dictionary)
    return Table(
        title="Evaluation dictionary in numbers",
        columns=[
            *([Column(title="method")] if several else []),
            Column(title="layer"),
            Column(title="ratio", written=percent, numbers=True),
            Column(title="size", numbers=True),
            Column(title="score", numbers=True),
            Column(title="chosen"),
            *([Column(title="score is")] if predicted else []),
        ],
        rows=[
            (
                *([entry.method] if several else []), called(entry.layer), entry.ratio, entry.size, entry.score,
                "yes" if (entry.method, entry.layer, entry.size) in chosen else "",
                *(["predicted" if entry.predicted else "evaluated"] if predicted else []),
            )
            for entry in report.dictionary
        ],
        folded=True,
    )  # fmt: skip
