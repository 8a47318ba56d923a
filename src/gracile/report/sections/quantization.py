"""Integers: the error of each layer, and values within their ranges."""

from collections.abc import Sequence

from gracile.html import Chart, Column, Section, Table, Text, named
from gracile.report.quantized import BINS, FIRST, LAST, QuantizationReport, QuantizerReport
from gracile.report.records import Evidence
from gracile.report.sections.bars import bars
from gracile.report.sections.written import called, percent, rows_of

_COLOURS = {"weight": "var(--c1)", "activation": "var(--c3)"}


def draw(report: Evidence) -> Section | None:
    """Which layers lose most by integers, and whether ranges fit what they hold."""
    found = report.quantization
    if found is None or not found.quantizers:
        return None
    charts = [_errors(found)] if any(layer.sqnr is not None for layer in found.layers) else []
    return Section(
        title="Quantization",
        parts=[
            Text(
                f"Measured on {found.examples} of the calibration examples. The signal-to-noise ratio compares each "
                "layer's result in integers with the one in floating point: 6 dB more is one bit more, and the "
                "shortest bars are the most sensitive layers."
            ),
            *charts,
            histograms(found.quantizers),
            ranges_table(found.quantizers),
            *([_error_table(found)] if charts else []),
        ],
    )


def _errors(found: QuantizationReport) -> Chart:
    layers = [(called(layer.name), layer.sqnr) for layer in found.layers if layer.sqnr is not None]
    return bars(
        "Error of each layer",
        "Bars: the ratio of signal to quantization noise of each layer in decibels. The table below has them.",
        [name for name, _ in layers],
        [value for _, value in layers],
        [f"{value:.1f} dB" for _, value in layers],
        axis={"title": {"text": "signal-to-noise ratio, dB"}, "rangemode": "tozero"},
    )


def histograms(quantizers: Sequence[QuantizerReport]) -> Chart:
    """One ridge for each quantizer, the first on top."""
    width = (LAST - FIRST) / BINS
    centres = [FIRST + (place + 0.5) * width for place in range(BINS)]
    traces: list[dict[str, object]] = []
    for row, item in enumerate(quantizers):
        most = max(item.counts) or 1
        shared = {"type": "scatter", "mode": "lines", "x": centres, "showlegend": False}
        line = {"color": _COLOURS[item.role], "width": 1.25}
        text = f"{named(item.name)}<br>{item.low:.4g} to {item.high:.4g}, {percent(item.outside)} outside"
        traces += [
            {**shared, "y": [row] * BINS, "line": {**line, "width": 0}, "hoverinfo": "skip"},
            {
                **shared, "y": [row - 0.85 * count / most for count in item.counts], "line": line, "fill": "tonexty",
                "customdata": [text] * BINS, "hovertemplate": "%{customdata}<extra></extra>",
            },
        ]  # fmt: skip
    layout, height = rows_of([item.name for item in quantizers], {"title": {"text": "place within the range"}})
    ends = {"tickmode": "array", "tickvals": [0, 1], "ticktext": ["lowest", "highest"], "tickangle": 0}
    return Chart(
        title="Values within their ranges",
        about="For each quantizer a histogram of its values between the lowest and the highest level of its range; "
        "the table below has the ranges.",
        traces=traces,
        layout={
            **layout,
            "xaxis": {**layout["xaxis"], **ends, "range": [FIRST, LAST]},
            "yaxis": {**layout["yaxis"], "range": [len(quantizers) - 0.6, -1.1]},
            "shapes": [
                {"type": "line", "x0": end, "x1": end, "yref": "paper", "y0": 0, "y1": 1,
                 "line": {"color": "var(--mark)", "width": 1, "dash": "dash"}}
                for end in (0, 1)
            ],
        },
        height=height,
    )  # fmt: skip


def ranges_table(quantizers: Sequence[QuantizerReport]) -> Table:
    """Bits, range, and the values' smallest and largest of each quantizer."""
    return Table(
        title="Ranges",
        columns=[
            Column(title="quantizer"),
            Column(title="of"),
            Column(title="bits", numbers=True),
            *(
                Column(title=title, written="{:.4g}".format, numbers=True)
                for title in ("lowest level", "highest level", "smallest value", "largest value")
            ),
            Column(title="outside", written=percent, numbers=True),
        ],
        rows=[
            (item.name, item.role, item.bits, item.low, item.high, item.smallest, item.largest, item.outside)
            for item in quantizers
        ],
        folded=True,
    )


def _error_table(found: QuantizationReport) -> Table:
    return Table(
        title="Error of each layer in numbers",
        columns=[Column(title="layer"), Column(title="signal-to-noise, dB", written="{:.2f}".format, numbers=True)],
        rows=[(called(layer.name), layer.sqnr) for layer in found.layers],
        folded=True,
    )
