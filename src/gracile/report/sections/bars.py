"""Horizontal bars, one a row, as several pages draw them."""

from collections.abc import Sequence
from typing import Any

from gracile.html import Chart, named
from gracile.report.sections.written import rows_of


def bars(
    title: str,
    about: str,
    names: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    *,
    axis: dict[str, Any],
    starts: Sequence[float] | None = None,
) -> Chart:
    """One bar for each name, the first on top.

    Args:
        values: their lengths.
        texts: what the pointer shows beside each whole name.
        axis: plotly's settings of the axis of values.
        starts: where the bars begin; at 0 where not given.
    """
    layout, height = rows_of(names, axis)
    return Chart(
        title=title,
        about=about,
        traces=[
            {
                "type": "bar", "orientation": "h", "y": list(range(len(names))), "x": list(values),
                **({} if starts is None else {"base": list(starts)}),
                "customdata": [f"{named(name)}<br>{text}" for name, text in zip(names, texts, strict=True)],
                "hovertemplate": "%{customdata}<extra></extra>", "marker": {"color": "var(--accent)"},
            }
        ],
        layout={**layout, "showlegend": False},
        height=height,
    )  # fmt: skip
