"""Pages on the weights of layers, channel by channel."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any, TypeAlias

from torch import Tensor

from gracile.html import Chart, Column, Part, Section, Table, Text
from gracile.quant import WeightRanges
from gracile.report.sections.bars import bars
from gracile.report.sections.written import called

Ranges: TypeAlias = Mapping[str, WeightRanges]

# Layers that are drawn channel by channel where none were named: a page with some hundred charts is slow.
MOST_LAYERS = 20
_NUMBER = "{:.4g}".format


def most_uneven(ranges: Ranges) -> list[str]:
    """The layers whose channels differ most in width, in the model's order, at most `MOST_LAYERS`."""
    worst = sorted(ranges, key=lambda name: -_unevenness(ranges[name]))[:MOST_LAYERS]
    return [name for name in ranges if name in worst]


def overview(ranges: Ranges) -> Section:
    """All layers: how uneven the widths of their channels are."""
    return Section(
        title="All layers",
        parts=[
            Text(
                "With one scale for a whole layer, its narrowest channel gets as many times fewer levels than its "
                "widest as the bar says. Long bars are what cross-layer equalization puts right, or a scale for each "
                "output channel."
            ),
            _bars(ranges),
            _table(ranges),
        ],
    )


def of_layer(name: str, found: WeightRanges, after: WeightRanges | None = None) -> Section:
    """One layer: the range of each channel, and mean against deviation; with those after an optimization."""
    sides = [("", found, "var(--c1)")] if after is None else [
        ("before", found, "var(--mark)"), ("after", after, "var(--accent)")
    ]  # fmt: skip
    return Section(
        title=called(name),
        parts=[
            _chart("Weights of each channel", name, "output channel", "weight",
                   [t for side in sides for t in _lines(*side)]),
            _chart("Smallest against largest", name, "smallest weight", "largest weight",
                   [_points(*side, "smallest", "largest") for side in sides]),
            _chart("Mean against standard deviation", name, "mean", "standard deviation",
                   [_points(*side, "mean", "deviation") for side in sides]),
        ],
    )  # fmt: skip


def relative(name: str, found: WeightRanges) -> Section:
    """One layer: each channel's width over that of the narrowest, and how often which occurs."""
    values = found.relative
    color = {"color": "var(--accent)"}
    bars = {"type": "bar", "x": list(range(len(values))), "y": values.tolist(), "marker": color}
    counts = {"type": "histogram", "x": values.tolist(), "nbinsx": 40, "marker": color}
    return Section(
        title=called(name),
        parts=[
            _chart("Relative width of each channel", name, "output channel", "times the narrowest", [bars]),
            _chart("How often", name, "times the narrowest", "channels", [counts]),
        ],
    )


def _chart(title: str, layer: str, x: str, y: str, traces: Sequence[Mapping[str, Any]]) -> Part:
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    several = sum(bool(trace.get("showlegend")) for trace in traces) > 1
    about = f"Of the layer {called(layer)}: {y} for each {x}." if x.startswith("output") else f"{y} against {x}."
    return Chart(title=title, about=about, traces=traces, layout={"showlegend": several, **axes}, height=320)


def _lines(side: str, found: WeightRanges, color: str) -> list[dict[str, Any]]:
    """The band between the smallest and the largest weight of each channel, and the mean within."""
    channels = list(range(len(found.mean)))
    shared = {"type": "scatter", "mode": "lines", "x": channels, "legendgroup": side, "name": side}
    kinds: tuple[tuple[str, Tensor, dict[str, Any]], ...] = (
        ("smallest", found.smallest, {"width": 0.75}),
        ("largest", found.largest, {"width": 0.75}),
        ("mean", found.mean, {"width": 1.75}),
    )
    return [
        {
            **shared, "y": values.tolist(), "line": {"color": color, **line},
            "showlegend": bool(side) and kind == "mean",
            "hovertemplate": f"channel %{{x}}, {side} {kind} %{{y:.4g}}<extra></extra>",
        }
        for kind, values, line in kinds
    ]  # fmt: skip


def _points(side: str, found: WeightRanges, color: str, x: str, y: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": side, "showlegend": bool(side),
        "x": getattr(found, x).tolist(), "y": getattr(found, y).tolist(),
        "customdata": list(range(len(found.mean))), "marker": {"color": color, "size": 6, "opacity": 0.7},
        "hovertemplate": f"channel %{{customdata}} {side}<br>{x} %{{x:.4g}}, {y} %{{y:.4g}}<extra></extra>",
    }  # fmt: skip


def _bars(ranges: Ranges) -> Chart:
    names = [called(name) for name in ranges]
    values = [_unevenness(found) for found in ranges.values()]
    # On a logarithmic axis plotly takes exponents: bars begin at 1.
    ends = [0, max(0.05, 1.05 * log10(max(values)))]
    axis = {"title": {"text": "widest / narrowest channel"}, "type": "log", "range": ends}
    return bars(
        "Widest over narrowest channel",
        "A bar for each layer, on a logarithmic axis. The table below has the numbers.",
        names,
        values,
        [_NUMBER(value) for value in values],
        axis=axis,
    )


def _table(ranges: Ranges) -> Table:
    titles = ("channels", "smallest", "largest", "narrowest channel", "widest channel", "widest / narrowest")
    return Table(
        title="Weights of each layer in numbers",
        columns=[Column(title="layer"), *(Column(title=title, written=_NUMBER, numbers=True) for title in titles)],
        rows=[
            (
                called(name), len(found.mean), float(found.smallest.min()), float(found.largest.max()),
                float(found.width.min()), float(found.width.max()), _unevenness(found),
            )
            for name, found in ranges.items()
        ],
    )  # fmt: skip


def _unevenness(found: WeightRanges) -> float:
    return float(found.relative.max())
