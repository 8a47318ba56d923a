"""What a model costs: multiply-accumulates, parameters and bytes, counted on its Graph.

Counted is every operation that multiplies by weights or multiplies activations with each other; everything else
is listed in `Cost.uncounted`, so that silence never means zero.
"""

from gracile.cost.beside import LayerBeside, layers_beside, origin
from gracile.cost.counters import COUNTERS
from gracile.cost.pricing import Pricing, price, profile
from gracile.cost.records import METRICS, Cost, LayerCost, Measure, Metric, Operation, Uncounted, is_counted, resized

__all__ = [
    "COUNTERS",
    "METRICS",
    "Cost",
    "LayerBeside",
    "LayerCost",
    "Measure",
    "Metric",
    "Operation",
    "Pricing",
    "Uncounted",
    "is_counted",
    "layers_beside",
    "origin",
    "price",
    "profile",
    "resized",
]
