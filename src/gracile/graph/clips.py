"""Clips: ReLU, ReLU6, hardtanh and clamp between numbers."""

from math import inf

from gracile.graph.nodes import Node, bare_name

_NAMES = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"})


def clip_range(node: Node) -> tuple[float, float] | None:
    """The range (low, high) that the node clips its first argument to; None where it is no clip between numbers."""
    name = bare_name(node.op)
    if name not in _NAMES:
        return None
    if name in ("relu", "relu6"):
        return 0.0, 6.0 if name == "relu6" else inf
    default = (-1.0, 1.0) if name == "hardtanh" else (None, None)
    given = [*node.args[1:3], *default[len(node.args[1:3]) :]]
    if name == "clamp_max":
        given = [None, node.args[1] if len(node.args) > 1 else None]
    low = node.kwargs.get("min", node.kwargs.get("min_val", given[0]))
    high = node.kwargs.get("max", node.kwargs.get("max_val", given[1]))
    if not all(bound is None or isinstance(bound, int | float) for bound in (low, high)):
        return None
    return -inf if low is None else float(low), inf if high is None else float(high)
