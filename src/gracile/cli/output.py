"""What commands print, as text and as JSON."""

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console

from gracile.cost import Cost


def out(text: str) -> None:
    """Print to standard output as it is: tables come aligned, so nothing is wrapped, and nothing is markup."""
    Console().out(text, highlight=False)


def told(data: Any, text: str, *, as_json: bool) -> None:
    """Print ``data`` as JSON, or else ``text``."""
    out(json.dumps(data, indent=1) if as_json else text)


def totals(cost: Cost) -> dict[str, int]:
    """The totals of a cost."""
    return {"macs": cost.macs, "params": cost.params, "bytes": cost.bytes}


def cost_data(cost: Cost) -> dict[str, Any]:
    """A whole cost as plain data."""
    return {
        **totals(cost),
        "batch": cost.batch,
        "layers": [asdict(layer) for layer in cost.layers],
        "uncounted": [asdict(item) for item in cost.uncounted],
    }
