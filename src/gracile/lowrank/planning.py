"""`gracile.lowrank.plan`: ranks from ratios, without data and without a search."""

import logging
from collections.abc import Mapping, Sequence

from torch import nn

from gracile.cost import METRICS, Metric
from gracile.errors import InputError
from gracile.graph import Graph, capture, require_copyable, require_finite
from gracile.inputs import ExampleInputs
from gracile.lowrank.layers import Found, find_layers
from gracile.maths.factorize import Scheme
from gracile.patterns import matching, require_patterns
from gracile.plan import Factorize, Plan

log = logging.getLogger(__name__)


def plan(
    model: nn.Module,
    example_inputs: ExampleInputs | Graph,
    *,
    method: Scheme = "spatial_svd",
    cost_ratio: float = 0.5,
    metric: Metric = "macs",
    ratios: Mapping[str, float] | None = None,
    round_to: int = 1,
    exclude: Sequence[str] = (),
) -> Plan:
    """Factorize layers of ``model`` to a given share of their own cost.

    Args:
        method: "weight_svd" (Conv1d, Conv2d, Conv3d, Linear) or "spatial_svd" (Conv2d); see
            `gracile.maths.factorize` for both and their papers.
        cost_ratio: cost of the factors / cost of the layer, in (0, 1], for every layer; the rank is the largest
            within it, at least one.
        metric: "macs", "params" or "bytes".
        ratios: shell pattern -> cost_ratio; then only layers that match one are factorized, later patterns win.
        round_to: ranks are rounded up to a multiple of this.
        exclude: shell patterns of layers to leave alone.

    Returns:
        One ``Factorize`` a layer, in the order of the modules.

    Raises:
        InputError: an argument is out of range, or ``ratios`` match no layer at all.
        CaptureError: the model cannot be captured.
    """
    if metric not in METRICS:
        raise InputError(f"metric is {metric!r}; it is one of {', '.join(METRICS)}")
    require_ratio("cost_ratio", cost_ratio)
    require_multiple(round_to)
    require_patterns("exclude", exclude)
    graph = capture(model, example_inputs)
    require_copyable(model)
    require_finite(model)
    found = find_layers(model, graph, method, exclude)
    wanted = {layer.name: cost_ratio for layer in found.layers}
    unmatched: tuple[str, ...] = ()
    if ratios is not None:
        wanted, unmatched = ratios_of(found, ratios)
    for pattern in found.unmatched:
        log.warning("exclude: %r matches no layer", pattern)
    for pattern in unmatched:
        log.warning("ratios: %r matches no layer that can be factorized", pattern)
    edits = []
    for layer in found.layers:
        rank = layer.rank(wanted.get(layer.name, 1.0), metric, round_to)
        if rank is not None:
            edits.append(Factorize(module=layer.name, scheme=method, rank=rank))
    return Plan(edits=tuple(edits))


def ratios_of(found: Found, ratios: Mapping[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Layer name -> cost_ratio by the patterns of ``ratios``, and the patterns that match nothing.

    Raises:
        InputError: a ratio is out of range, or no pattern matches a layer that can be factorized.
    """
    if not isinstance(ratios, Mapping):
        raise InputError(f"ratios is {ratios!r}; give a dictionary of patterns and ratios, as {{'layer1.*': 0.5}}")
    for pattern, ratio in ratios.items():
        require_ratio(f"ratios[{pattern!r}]", ratio)
    names = [layer.name for layer in found.layers]
    matched = matching(ratios, names)
    if not matched.names:
        reasons = [
            f"{name}: {reason}" for name, reason in found.skipped.items() if name in matching(ratios, [name]).names
        ]
        raise InputError(
            f"ratios match no layer that can be factorized ({'; '.join(reasons) or 'no such names'}); "
            f"there are {', '.join(names) or 'none'}"
        )
    return {name: ratios[pattern] for name, pattern in matched.names.items()}, matched.unmatched


def require_ratio(name: str, ratio: float) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise InputError(f"{name} is {ratio!r}; it is the share of the cost that remains, a number in (0, 1]")


def require_multiple(round_to: int) -> None:
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise InputError(f"round_to is {round_to!r}; it is the multiple that ranks land on, an integer of at least 1")
