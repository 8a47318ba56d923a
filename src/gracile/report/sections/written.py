"""Numbers and names as the sections write them."""

from collections.abc import Iterable, Sequence
from typing import Any

from gracile.html import named
from gracile.report.records import LayerReport
from gracile.text import count

# Beyond so many rows, bars become thinner.
_MANY = 40
_WIDTH = 24
# Shares on an axis, with the digits that tell its marks apart: "50%", but "49.5%" where the axis is short.
SHARES = ".4~p"


def percent(value: float) -> str:
    """0.4812 -> "48.1 %"."""
    return f"{100 * value:.1f} %"


def counted(value: float) -> str:
    """A whole number with its unit."""
    return count(int(value))


def whole(value: float) -> str:
    """A whole number, all its digits."""
    return f"{value:.0f}"


def milliseconds(value: float) -> str:
    """0.00123 -> "1.23 ms", with three digits that count."""
    value *= 1e3
    return f"{value:.0f} ms" if value >= 100 else f"{value:#.3g} ms" if value >= 0.001 else f"{value:.6f} ms"


def around(values: Iterable[float], share: float = 0.08) -> list[float]:
    """The ends of an axis with room about the values: what is written at a line is not to lie beyond its edge."""
    found = list(values)
    low, high = min(found), max(found)
    margin = share * (high - low) or 0.05 * abs(high) or 1.0
    return [low - margin, high + margin]


def called(name: str) -> str:
    """A module's name; the model itself has none."""
    return name or "(model)"


def rows_of(names: Sequence[str], x: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Layout and height in pixels of horizontal bars, one for each name, the first on top.

    Bars stand at 0, 1, ... and the names are only written there: two layers may have the same.
    """
    each = 26 if len(names) <= _MANY else 17
    layout = {
        "barmode": "overlay",
        "bargap": 0.3,
        "hovermode": "closest",
        "xaxis": {"side": "bottom", **x},
        "yaxis": {
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": [named(name, _WIDTH) for name in names],
            "range": [len(names) - 0.4, -0.6],
            "showgrid": False,
            "zeroline": False,
            "ticklabelstandoff": 6,
        },
    }
    return layout, 110 + each * len(names)


def smaller(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """The layers and groups that a method could make smaller, whether or not it did."""
    return [layer for layer in layers if layer.full_size is not None]
