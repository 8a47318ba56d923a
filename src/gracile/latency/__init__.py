"""Measured time: of whole models side by side, and of single layers at several widths."""

from gracile.latency.comparing import benchmark
from gracile.latency.each_layer import compared_layers, layer_latencies
from gracile.latency.layers import LayerTimes, table_key
from gracile.latency.pricing import LatencyPrice

__all__ = ["LatencyPrice", "LayerTimes", "benchmark", "compared_layers", "layer_latencies", "table_key"]
