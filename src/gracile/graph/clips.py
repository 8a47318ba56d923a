"""Clips: ReLU, ReLU6, hardtanh and clamp between numbers."""

from math import inf

from gracile.graph.nodes import Node, bare_name

_FIXED = {"relu": (0.0, inf), "relu6": (0.0, 6.0)}
# What the arguments behind the first are.
_BOUNDS = {
    "clamp": ("min", "max"), "clamp_min": ("min",), "clamp_max": ("max",), "hardtanh": ("min_val", "max_val"),
}  # fmt: skip
_DEFAULTS = {"min": None, "max": None, "min_val": -1.0, "max_val": 1.0}


def clip_range(node: Node) -> tuple[float, float] | None:
    """The range (low, high) that the node clips its first argument to; None where it is no clip between numbers."""
    name = bare_name(node.op)
    if name not in _BOUNDS:
        return _FIXED.get(name)
    given = {**_DEFAULTS, **dict(zip(_BOUNDS[name], node.args[1:], strict=False)), **node.kwargs}
    low, high = (given[bound] for bound in (("min_val", "max_val") if name == "hardtanh" else ("min", "max")))
    if not all(bound is None or isinstance(bound, int | float) for bound in (low, high)):
        return None
    return -inf if low is None else float(low), inf if high is None else float(high)
