"""Pages of `QuantAnalyzer`: scores layer by layer, ranges, and what lies within them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gracile.html import Chart, Column, Document, Section, Table, Text, named
from gracile.quant.analysis import Analysis
from gracile.report import QuantizerReport
from gracile.report.sections.bars import bars
from gracile.report.sections.quantization import histograms, ranges_table
from gracile.report.sections.written import called, rows_of

_NUMBER = "{:.6g}".format
_PLURAL = {"weight": "weights", "activation": "activations"}
_ABOUT = {
    "enabled": "One layer's quantizers are on, all others off: what a layer falls short of the line of no quantizer, "
    "it costs alone.",
    "disabled": "One layer's quantizers are off, all others on: what a layer lies beyond the line of all quantizers, "
    "leaving it in floating point brings back.",
}


def scores(found: Analysis, kind: Literal["enabled", "disabled"]) -> Document:
    """The score with each layer's quantizers alone on, or alone off, between those without any and with all."""
    values = found.alone_on if kind == "enabled" else found.alone_off
    marks = {"no quantizer": found.floating, "all quantizers": found.quantized}
    about = _ABOUT[kind]
    chart = _points("Score of each layer", about, "score", values, marks)
    rows = [("no quantizer", found.floating), ("weights only", found.weights_only),
            ("activations only", found.activations_only), ("all quantizers", found.quantized)]  # fmt: skip
    whole = Table(title="The whole model", columns=_columns("quantizers", "score"), rows=rows)
    return _document(
        f"Quantizers {kind} layer by layer", "Scores", [Text(about), chart, whole, _table("layer", "score", values)]
    )


def errors(squared: Mapping[str, float]) -> Document:
    """The mean squared error of each layer's results."""
    about = "The mean squared difference between each layer's results in integers and in floating point."
    chart = bars(
        "Error of each layer",
        about,
        [called(name) for name in squared],
        list(squared.values()),
        [_NUMBER(value) for value in squared.values()],
        axis={"title": {"text": "mean squared error"}},
    )
    return _document(
        "Quantization errors", "Errors", [Text(about), chart, _table("layer", "mean squared error", squared)]
    )


def ranges(found: Sequence[QuantizerReport], role: Literal["weight", "activation"]) -> Document:
    """From the lowest to the highest level of each quantizer; of several scales those furthest out."""
    some = [item for item in found if item.role == role]
    chart = bars(
        "Range of each quantizer",
        "A bar from the lowest to the highest level. The table below has the numbers.",
        [item.name for item in some],
        [item.high - item.low for item in some],
        [f"{item.low:.4g} to {item.high:.4g}" for item in some],
        axis={"title": {"text": "range"}},
        starts=[item.low for item in some],
    )
    return _document(f"Ranges of {_PLURAL[role]}", "Ranges", [chart, ranges_table(some)])


def densities(found: Sequence[QuantizerReport], role: Literal["weight", "activation"]) -> Document:
    """Where the values lie within the range of each quantizer."""
    some = [item for item in found if item.role == role]
    return _document(f"Distributions of {_PLURAL[role]}", "Values", [histograms(some), ranges_table(some)])


def _points(title: str, about: str, unit: str, values: Mapping[str, float], marks: Mapping[str, float]) -> Chart:
    """A point for each layer, between the dashed lines of the marks."""
    names = [called(name) for name in values]
    layout, height = rows_of(names, {"title": {"text": unit}})
    lines = [
        {"type": "line", "x0": value, "x1": value, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"color": color, "width": 1.5, "dash": "dash"}}
        for value, color in zip(marks.values(), ("var(--mark)", "var(--soft)"), strict=True)
    ]  # fmt: skip
    notes = [
        {"text": name, "x": value, "yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False}
        for name, value in marks.items()
    ]  # fmt: skip
    return Chart(
        title=title,
        about=about,
        traces=[
            {
                "type": "scatter", "mode": "markers", "y": list(range(len(names))), "x": list(values.values()),
                "customdata": [
                    f"{named(name)}<br>{_NUMBER(value)}" for name, value in zip(names, values.values(), strict=True)
                ],
                "hovertemplate": "%{customdata}<extra></extra>", "marker": {"color": "var(--accent)", "size": 9},
            }
        ],
        layout={**layout, "showlegend": False, "shapes": lines, "annotations": notes,
                "margin": {"l": 8, "r": 12, "t": 28, "b": 8}},
        height=height + 20,
    )  # fmt: skip


def _table(first: str, second: str, values: Mapping[str, float]) -> Table:
    rows = [(called(name), value) for name, value in values.items()]
    return Table(title="In numbers", columns=_columns(first, second), rows=rows)


def _columns(first: str, second: str) -> list[Column]:
    return [Column(title=first), Column(title=second, written=_NUMBER, numbers=True)]


def _document(title: str, heading: str, parts: list[Any]) -> Document:
    return Document(title=title, subtitle="quantization analysis", sections=[Section(title=heading, parts=parts)])
